"""Training on Ray: workers, attempts, progress to the driver."""

from __future__ import annotations

import logging
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch.distributed as dist
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError
from ray.train import FailureConfig, PreemptionError, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from regraft.cluster.attempt_monitor import Leaving, watching
from regraft.cluster.capacity import scaling_config, until_free
from regraft.cluster.connect import check_store, connected, here, on
from regraft.cluster.quiet import without_raylet_lines
from regraft.cluster.ray_harness import Mailbox, RayHarness
from regraft.cluster.visibility import check_folders, check_pictures
from regraft.contracts import Progress, note
from regraft.errors import ClusterError, RegraftError
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.training.event_log import EventLog
from regraft.training.job import Job
from regraft.training.loop import fit
from regraft.training.registration import Outcome
from regraft.training.session import stopped, train_session
from regraft.training.stop_signals import StopNotice, on_sigterm, when_asked

log = logging.getLogger(__name__)
MOST_PAUSE_S = 30.0
LOST = (RayActorError, NodeDiedError, WorkerCrashedError, ObjectLostError, OutOfMemoryError, PreemptionError)
"""What ends workers from outside."""
LOST_NAMES = frozenset(
    {
        "WorkerHealthCheckTimeoutError",
        "WorkerHealthCheckFailedError",
        "WorkerGroupStartupTimeoutError",
        "WorkerGroupStartupFailedError",
        "BroadcastCollectiveTimeoutError",
    }
)
"""The same, where Ray's class is not public."""
SIGNS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused")
"""What the other ranks say when one of them is gone."""


def train(
    spec: RunSpec, *, fresh: bool = False, progress: Progress | None = None, address: str | None = None
) -> Outcome:
    """Train a spec to a registered model on Ray workers."""

    # The cluster is asked before anything is written: a wrong address leaves no run behind.
    with connected(address), without_raylet_lines():
        check_store(spec.store)
        check_folders(spec)
        scaling = scaling_config(spec.compute, progress)
        say = EventLog(progress)

        def execute(job: Job) -> None:
            check_pictures(spec, job)
            attempts(spec, job, scaling, say)

        return train_session(spec, execute, fresh=fresh, progress=say)


def attempts(spec: RunSpec, job: Job, scaling: ScalingConfig, progress: Progress | None) -> None:
    """Run workers until the job is done; lost ones are replaced, from the last checkpoint.

    The retries are ours, each under a new Ray run name: what is wrong with the request, or with a plugin, is not tried
    again, and a cut snapshot of Ray's own run state never stands in the way of the next attempt. Nodes that are taken
    away, which is no failure, are not counted.
    """
    job = replace(job, threads=job.threads or int(scaling.resources_per_worker["CPU"]))
    notice = StopNotice()
    failures, number = 0, -1
    with on_sigterm(notice), when_asked(Runs(open_store(spec.store)), job.run, notice):
        while True:
            number += 1
            try:
                left = attempt(job, scaling, number, notice, progress)
            except RegraftError:
                raise
            except KeyboardInterrupt:
                if notice:  # while nobody had begun, or a second time: there is no step to wait for
                    raise stopped(job, notice.reason) from None
                raise
            except Exception as error:
                cause, counts = judged(error, job)
                failures += counts
                if 0 <= spec.compute.max_failures < failures:
                    raise ClusterError(f"a worker failed: {type(cause).__name__}: {cause}", where=job.run) from error
                if notice:
                    raise stopped(job, notice.reason) from error
                note(progress, f"workers were lost ({type(cause).__name__}); going on from the last checkpoint")
                time.sleep(min(MOST_PAUSE_S, 2.0 ** max(0, failures - 1)))
                continue
            if left is None:
                return
            if notice or not left.elsewhere:  # notice may have come when they were leaving already
                raise stopped(job, notice.reason or left.reason)
            note(progress, f"{left.reason}; going on from a checkpoint of this step")
            until_free(scaling)


def judged(error: Exception, job: Job) -> tuple[BaseException, bool]:
    """What ended an attempt from outside, and whether it counts as a failure; raises what would only happen again."""
    causes = causes_of(error)
    ours = next((cause for cause in causes if isinstance(cause, RegraftError)), None)
    if ours is not None:
        raise ours from None
    cause = next(filter(is_loss, causes), causes[-1])
    if not is_loss(cause):
        raise ClusterError(f"a worker failed: {type(cause).__name__}: {cause}", where=job.run) from error
    return cause, not any(is_preemption(cause) for cause in causes)


def attempt(
    job: Job, scaling: ScalingConfig, number: int, notice: StopNotice, progress: Progress | None
) -> Leaving | None:
    """One group of workers, from the last checkpoint to the end, to a step where it was to leave, or to a failure.

    Ray's own files of the attempt lie in a temporary folder of this node: only its controller, which Ray keeps beside
    the driver, writes there, since no checkpoint of ours goes through Ray.
    """
    mailbox = Mailbox.options(scheduling_strategy=on(here())).remote()  # type: ignore[attr-defined]
    with (
        tempfile.TemporaryDirectory(prefix="regraft-ray-") as folder,
        watching(mailbox, scaling, notice, progress) as watch,
        own_interrupts(),
    ):
        result = TorchTrainer(
            work,
            train_loop_config={"job": asdict(job), "mailbox": mailbox},
            scaling_config=scaling,
            run_config=RunConfig(
                name=f"{job.run}-{number}",
                storage_path=folder,
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
            ),
        ).fit()
    if result.error is not None:
        raise result.error
    return None if result.return_value else watch.leaving


def work(config: dict[str, Any]) -> bool:
    """What each worker runs; whether the run is at its end."""
    document = config["job"]
    job = Job(**{**document, "labels": tuple(document["labels"])})
    return fit(job, RayHarness(config["mailbox"])).finished


@contextmanager
def own_interrupts() -> Iterator[None]:
    """Give Ctrl-C back its meaning after Ray Train has run, and let it mean the same while it runs.

    Ray Train puts a handler of its own in place and leaves it there: later it would call an actor that is dead.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


def causes_of(error: BaseException) -> list[BaseException]:
    """Every exception inside what Ray wrapped around the workers' own, outermost first."""
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        item = queue.pop(0)
        if item is None or item in seen:
            continue
        seen.append(item)
        failures = getattr(item, "worker_failures", None) or {}
        inner = [getattr(failure, "_base_exc", failure) for failure in failures.values()]
        queue += [*inner, getattr(item, "cause", None), item.__cause__]
    return seen


def is_preemption(error: BaseException) -> bool:
    """Whether a machine was taken away, which says nothing against the job."""
    return isinstance(error, PreemptionError) or (isinstance(error, RayActorError) and error.preempted)


def is_loss(error: BaseException) -> bool:
    """Whether a worker went away, in contrast to code that failed and would fail again."""
    if isinstance(error, (*LOST, dist.DistNetworkError, dist.DistBackendError)):
        return True
    if type(error).__name__ in LOST_NAMES:
        return True
    return isinstance(error, RuntimeError | OSError) and any(sign in str(error) for sign in SIGNS)
