"""Training on Ray: workers, attempts, progress to the driver."""

from __future__ import annotations

import logging
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import ray
import torch.distributed as dist
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError
from ray.train import FailureConfig, PreemptionError, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from regraft.cluster import capacity
from regraft.cluster.connect import check_store, connected
from regraft.cluster.ray_harness import Mailbox, RayHarness
from regraft.contracts import Progress
from regraft.errors import AskedWrong, ClusterError, RegraftError
from regraft.spec import ComputeSpec, RunSpec
from regraft.training.job import Job
from regraft.training.journal import Journal
from regraft.training.loop import fit
from regraft.training.session import Outcome, train_session

log = logging.getLogger(__name__)
POLL_S = 0.5
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
    with connected(address):
        check_store(spec.store)
        scaling = scaling_config(spec.compute)
        say = Journal(progress)

        def execute(job: Job) -> None:
            attempts(spec, job, scaling, say)

        return train_session(spec, execute, fresh=fresh, progress=say)


def attempts(spec: RunSpec, job: Job, scaling: ScalingConfig, progress: Progress | None) -> None:
    """Run workers until the job is done; lost ones are replaced, from the last checkpoint.

    The retries are ours, each under a new Ray run name: what is wrong with the request, or with a plugin, is not tried
    again, and a cut snapshot of Ray's own run state never stands in the way of the next attempt.
    """
    job = replace(job, threads=job.threads or int(scaling.resources_per_worker["CPU"]))
    left = spec.compute.max_failures
    number = 0
    while True:
        try:
            attempt(job, scaling, number, progress)
            return
        except RegraftError:
            raise
        except Exception as error:
            causes = causes_of(error)
            ours = next((cause for cause in causes if isinstance(cause, RegraftError)), None)
            if ours is not None:
                raise ours from None
            cause = next(filter(is_loss, causes), causes[-1])
            if left == 0 or not is_loss(cause):
                raise ClusterError(f"a worker failed: {type(cause).__name__}: {cause}", where=job.run) from error
            left, number = left - 1, number + 1
            if progress is not None:
                what = f"workers were lost ({type(cause).__name__}); going on from the last checkpoint"
                progress({"event": "note", "message": what})
            time.sleep(min(MOST_PAUSE_S, 2.0 ** (number - 1)))


def attempt(job: Job, scaling: ScalingConfig, number: int, progress: Progress | None) -> None:
    """One group of workers, from the last checkpoint to the end or to a failure."""
    mailbox = Mailbox.remote()  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(prefix="regraft-ray-") as folder, delivering(mailbox, progress):
        trainer = TorchTrainer(
            work,
            train_loop_config={"job": asdict(job), "mailbox": mailbox},
            scaling_config=scaling,
            run_config=RunConfig(
                name=f"{job.run}-{number}", storage_path=folder, failure_config=FailureConfig(max_failures=0)
            ),
        )
        with own_interrupts():
            result = trainer.fit()
    if result.error is not None:
        raise result.error


def work(config: dict[str, Any]) -> None:
    """What each worker runs."""
    document = config["job"]
    job = Job(**{**document, "labels": tuple(document["labels"])})
    fit(job, RayHarness(config["mailbox"]))


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


@contextmanager
def delivering(mailbox: Any, progress: Progress | None) -> Iterator[None]:
    """Hand the workers' progress on while they work."""
    if progress is None:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=deliver, args=(mailbox, progress, done), daemon=True, name="regraft-progress")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)


def deliver(mailbox: Any, progress: Progress, done: threading.Event) -> None:
    """Until done, and once more after; a mailbox that died with its node ends it quietly."""
    while True:
        last = done.wait(POLL_S)
        try:
            events = ray.get(mailbox.take.remote(), timeout=10)
        except Exception as error:
            log.debug("no more progress: %s", error)
            return
        for event in events:
            progress(event)
        if last:
            return


def scaling_config(compute: ComputeSpec) -> ScalingConfig:
    """Workers and what each holds, checked against what the cluster has."""
    low, high = compute.workers if isinstance(compute.workers, tuple) else (compute.workers, compute.workers)
    there = capacity.groups()
    gpus = compute.gpus if compute.gpus != "auto" else (1.0 if capacity.most(there, "GPU") >= low else 0.0)
    # What one node has bounds a worker: the share of all would be more than any holds, and wait for ever.
    share = min(ray.cluster_resources().get("CPU", 1) // high, capacity.largest(there, "CPU"))
    cpus = compute.cpus or max(1.0, float(share))
    need = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    if compute.memory_gb:
        need["memory"] = compute.memory_gb * 2**30
    if compute.accelerator:
        need[f"accelerator_type:{compute.accelerator}"] = 0.001
    check_capacity(there, low, need)
    return ScalingConfig(
        num_workers=compute.workers if low == high else (low, high),
        use_gpu=bool(gpus),
        resources_per_worker=need,
        accelerator_type=compute.accelerator,
    )


def check_capacity(there: Sequence[capacity.Group], workers: int, need: Mapping[str, float]) -> None:
    """AskedWrong when the cluster, its autoscaler's nodes too, can never hold the workers; Ray would wait for ever."""
    for name, amount in need.items():
        if amount * workers > capacity.most(there, name):
            raise AskedWrong(
                f"{workers} workers with {amount:g} {name} each are asked for; the cluster has "
                f"{capacity.most(there, name):g} at most: ask for less, or let it grow",
                where="compute",
            )
    if (fit := capacity.holds(there, need)) < workers:
        each = ", ".join(f"{amount:g} {name}" for name, amount in need.items())
        raise AskedWrong(
            f"{workers} workers with {each} each are asked for; the cluster's nodes hold {fit} of them at most, for a "
            "worker must fit into one node: ask for less each, or for larger nodes",
            where="compute",
        )


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


def is_loss(error: BaseException) -> bool:
    """Whether a worker went away, in contrast to code that failed and would fail again."""
    if isinstance(error, (*LOST, dist.DistNetworkError, dist.DistBackendError)):
        return True
    if type(error).__name__ in LOST_NAMES:
        return True
    return isinstance(error, RuntimeError | OSError) and any(sign in str(error) for sign in SIGNS)
