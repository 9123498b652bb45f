"""Training on Ray: groups of workers, attempts, and progress to the driver."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import ray
import torch.distributed as dist
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError
from ray.train import FailureConfig, PreemptionError, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from regraft.cluster.attempt_monitor import StopRequest, monitoring
from regraft.cluster.capacity import scaling_config, wait_until_free
from regraft.cluster.connect import connected, here, on
from regraft.cluster.ray_harness import Mailbox, RayHarness
from regraft.cluster.ray_watch import ends_with_command, is_lost, raise_if_lost
from regraft.cluster.visibility import check_folders, check_images, check_store
from regraft.contracts import Progress, note
from regraft.errors import ClusterError, RegraftError
from regraft.spec.run import RunSpec
from regraft.store.objects import open_existing
from regraft.store.runs import Runs
from regraft.training.job import Job
from regraft.training.loop import fit
from regraft.training.registration import Outcome
from regraft.training.session import Finish, complete, run_session, stopped
from regraft.training.stages import after_stages
from regraft.training.stop_signals import StopNotice, on_interrupt, on_sigterm, on_stop_request

log = logging.getLogger(__name__)
ABORT_S = 10.0
"""Seconds that workers have to end when the command is interrupted."""
MOST_PAUSE_S = 30.0
"""Longest pause between two attempts, in seconds; pauses double after each failure."""
LOST = (RayActorError, NodeDiedError, WorkerCrashedError, ObjectLostError, OutOfMemoryError, PreemptionError)
"""Errors of workers that were killed or lost, not of their code."""
LOST_NAMES = frozenset(
    {
        "WorkerHealthCheckTimeoutError",
        "WorkerHealthCheckFailedError",
        "WorkerGroupStartupTimeoutError",
        "WorkerGroupStartupFailedError",
        "BroadcastCollectiveTimeoutError",
    }
)
"""Names of such errors whose classes Ray does not make public."""
CONNECTION_TEXTS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused")
"""Texts of the errors that gloo raises in the other ranks when one is lost. Their classes are too general."""


def train(
    spec: RunSpec,
    *,
    fresh: bool = False,
    same: bool = False,
    progress: Progress | None = None,
    address: str | None = None,
) -> Outcome:
    """Train a spec to a registered model on Ray workers; its stages come first."""
    # The cluster is checked before anything is written: a wrong address leaves no run behind.
    with connected(address):
        return train_with_stages(spec, complete, fresh=fresh, same=same, progress=progress)


def train_with_stages(spec: RunSpec, finish: Finish, *, fresh: bool, same: bool, progress: Progress | None) -> Outcome:
    """Train a spec on the cluster that this process is connected to, its stages first, and `finish` its run."""
    one = partial(train_connected, fresh=fresh, same=same, progress=progress)
    check_store(spec.store, creates=True)
    check_folders(spec)
    return one(after_stages(spec, one, progress), finish=finish)


def train_candidate(spec: RunSpec, finish: Finish, *, progress: Progress | None, address: str | None) -> Outcome:
    """Train one run on Ray workers and `finish` it, which decides whether its model is registered."""
    with connected(address):
        check_store(spec.store, creates=True)
        return train_connected(spec, progress=progress, finish=finish)


def train_connected(
    spec: RunSpec,
    *,
    fresh: bool = False,
    same: bool = False,
    progress: Progress | None = None,
    finish: Finish = complete,
) -> Outcome:
    """Train one run on the cluster that this process is connected to, without its stages."""
    check_folders(spec)
    scaling = scaling_config(spec.compute, progress)
    with run_session(spec, fresh=fresh, same=same, progress=progress) as prepared:
        if isinstance(prepared, Outcome):
            return prepared
        check_images(spec, prepared.job)
        run_attempts(spec, prepared.job, scaling, prepared.log)
        return finish(prepared)


def run_attempts(spec: RunSpec, job: Job, scaling: ScalingConfig, progress: Progress | None) -> None:
    """Run workers until the job is done; replace lost ones, which continue from the last checkpoint.

    regraft retries, not Ray, each time under a new Ray run name. So a wrong request or a failing plugin is not tried
    again, and a truncated snapshot of Ray's own run state never blocks the next attempt. Nodes that are taken away are
    not counted as failures.
    """
    job = replace(job, threads=job.threads or int(scaling.resources_per_worker["CPU"]))
    notice = StopNotice()
    failures, number = 0, -1
    with (
        on_sigterm(notice),
        on_interrupt(notice),
        on_stop_request(Runs(open_existing(spec.store)), job.run, notice),
    ):
        while True:
            number += 1
            try:
                stop = attempt(job, scaling, number, notice=notice, progress=progress)
            except RegraftError:
                raise
            except KeyboardInterrupt:
                if notice:  # no worker had begun, or this is the second Ctrl-C: there is no step to wait for
                    raise stopped(job, notice.reason, interrupted=notice.interrupted) from None
                raise
            except Exception as error:
                raise_if_lost()
                cause, counts = classify(error, job)
                failures += counts
                if 0 <= spec.compute.max_failures < failures:
                    raise ClusterError(f"a worker failed: {type(cause).__name__}: {cause}", where=job.run) from error
                if notice:
                    raise stopped(job, notice.reason, interrupted=notice.interrupted) from error
                note(progress, f"workers were lost ({type(cause).__name__}); going on from the last checkpoint")
                pause(min(MOST_PAUSE_S, 2.0 ** max(0, failures - 1)), notice)
                if notice:
                    raise stopped(job, notice.reason, interrupted=notice.interrupted) from error
                continue
            if stop is None:
                return
            if notice or not stop.restarts:  # notice may have come when they were stopping already
                raise stopped(job, notice.reason or stop.reason, interrupted=notice.interrupted)
            note(progress, f"{stop.reason}; going on from a checkpoint of this step")
            wait_until_free(scaling)


def pause(seconds: float, notice: StopNotice) -> None:
    """Wait, but no longer than until a stop is requested."""
    until = time.monotonic() + seconds
    while not notice and (left := until - time.monotonic()) > 0:
        time.sleep(min(0.2, left))


def classify(error: Exception, job: Job) -> tuple[BaseException, bool]:
    """Return the loss that ended an attempt, and whether it counts as a failure.

    Raises the error of the worker's code if there is one: it would only happen again.
    """
    causes = causes_of(error)
    ours = next((cause for cause in causes if isinstance(cause, RegraftError)), None)
    if ours is not None:
        raise ours from None
    cause = next(filter(is_loss, causes), causes[-1])
    if not is_loss(cause):
        raise ClusterError(f"a worker failed: {type(cause).__name__}: {cause}", where=job.run) from error
    return cause, not any(is_preemption(cause) for cause in causes)


def attempt(
    job: Job, scaling: ScalingConfig, number: int, *, notice: StopNotice, progress: Progress | None
) -> StopRequest | None:
    """Run one group of workers from the last checkpoint; return why it was stopped early, None if the run is complete.

    Ray's own files of the attempt are in a temporary folder of this node. Only its controller, which runs on the
    driver's node, writes there, since no checkpoint of regraft goes through Ray.
    """
    mailbox = Mailbox.options(scheduling_strategy=on(here())).remote()  # type: ignore[attr-defined]
    with (
        tempfile.TemporaryDirectory(prefix="regraft-ray-") as folder,
        monitoring(mailbox, scaling, notice, progress) as monitor,
    ):
        result = InterruptibleTrainer(
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
    return None if result.return_value else monitor.stop_request


def work(config: dict[str, Any]) -> bool:
    """Train in a worker; return whether the run is complete."""
    document = config["job"]
    job = Job(**{**document, "labels": tuple(document["labels"])})
    return fit(job, RayHarness(config["mailbox"])).finished


class InterruptibleTrainer(TorchTrainer):  # type: ignore[misc]
    """Ray Train's trainer, which leaves Ctrl-C to the caller: a run then stops at a step instead of being aborted."""

    _controller: Any = None

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    def fit(self) -> Any:
        """Run the workers; abort them when a second Ctrl-C, or one before they began, ends the wait for them.

        Those of a Ray that ends with this command are not waited for.
        """
        try:
            return super().fit()
        except KeyboardInterrupt:
            if self._controller is not None and not is_lost() and not ends_with_command():
                ray.wait([self._controller.abort.remote()], timeout=ABORT_S)
            raise


def causes_of(error: BaseException) -> list[BaseException]:
    """Return all exceptions inside the one that Ray raised, from its wrappers to the workers' errors."""
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
    """Return whether a machine was taken away (preempted), which does not count as a failure."""
    return isinstance(error, PreemptionError) or (isinstance(error, RayActorError) and error.preempted)


def is_loss(error: BaseException) -> bool:
    """Return whether a worker was lost, in contrast to code that failed and would fail again."""
    if isinstance(error, (*LOST, dist.DistNetworkError, dist.DistBackendError)):
        return True
    if type(error).__name__ in LOST_NAMES:
        return True
    return isinstance(error, RuntimeError | OSError) and any(text in str(error) for text in CONNECTION_TEXTS)
