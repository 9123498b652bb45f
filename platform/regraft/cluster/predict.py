"""Batch prediction on Ray Data: a pool of actors, each with the model, that answer blocks and may die."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
import torch
from ray.data import ActorPoolStrategy

from regraft.cluster.connect import check_store, connected
from regraft.cluster.quiet import quiet, silently
from regraft.cluster.train import causes_of
from regraft.contracts import Progress
from regraft.errors import ClusterError, RegraftError, RequestError, RunError
from regraft.serving.batch.session import BatchJob, BatchRequest, BatchResult, BatchWorker, choose_here, predict_session
from regraft.spec.document import absolute
from regraft.store.objects import open_store

CORES = 4
"""CPUs of a worker on a cluster without GPUs, where nothing is asked: more threads than that help a batch little."""
TRIES = 5
"""How often a block is begun: a row that kills whoever reads it must end the command some time, and Ray Data, left
alone, replaces actors for ever."""


@dataclass(frozen=True)
class Pool:
    """Workers and what each holds."""

    workers: int
    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        """Threads of a worker's arithmetic."""
        return max(1, int(self.cpus))


def predict(
    request: BatchRequest,
    *,
    workers: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
    address: str | None = None,
) -> BatchResult:
    """Answer a request on Ray; `workers` None takes a GPU each where there are any, else a few cores each."""
    # The cluster is asked before anything is written: a wrong address leaves nothing behind.
    with ExitStack() as stack:
        with silently():
            stack.enter_context(connected(address))
        stack.enter_context(quiet())
        pool = pool_of(workers)
        folder = absolute(request.output).rpartition("/")[0] or "/"
        if Path(folder).is_dir():  # one that is not there is refused below, and not made
            check_store(folder, "output")

        def execute(job: BatchJob, numbers: list[int], done: Callable[[int], None]) -> None:
            answer(job, numbers, done, pool)

        def choose(job: BatchJob) -> Mapping[str, Any]:
            return asked(job, pool)

        return predict_session(request, execute, choose, fresh=fresh, progress=progress)


def pool_of(workers: int | None) -> Pool:
    """The workers and what each holds; RequestError when the cluster has not so much."""
    there = ray.cluster_resources()
    cpus, gpus = float(there.get("CPU", 1)), float(there.get("GPU", 0))
    if workers is None:
        workers = int(gpus) or max(1, int(cpus // CORES))
    if workers > cpus:
        raise RequestError(
            f"{workers} is written; the cluster has {cpus:g} CPUs, one at least for each", where="workers"
        )
    return Pool(workers, max(1.0, float(cpus // workers)), 1.0 if gpus >= workers else 0.0)


class Answerer:
    """An actor of the pool."""

    def __init__(self, job: BatchJob, threads: int) -> None:
        torch.set_num_threads(threads)
        self._worker = BatchWorker(job)
        self._store = open_store(job.work)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer the blocks whose numbers `batch` holds; RunError for one that was begun too often."""
        return {"block": [self._answered(int(number)) for number in batch["block"]]}

    def _answered(self, number: int) -> int:
        begun = f"tries/{number:06d}-"
        if sum(1 for _ in self._store.list(begun)) >= TRIES:
            first, last = self._worker.rows(number)
            raise RunError(
                f"rows {first} to {last} ended {TRIES} workers: one of them may need more memory than a worker has; "
                "leave it out, or ask for fewer workers"
            )
        self._store.put(begun + uuid4().hex, b"")
        return self._worker(number)


def answer(job: BatchJob, numbers: list[int], done: Callable[[int], None], pool: Pool) -> None:
    """Have every block answered; a block that was under way when its worker died is answered by another."""
    if not numbers:
        return
    store = open_store(job.work)
    store.delete([stat.key for stat in store.list("tries/")])
    blocks = ray.data.from_items([{"block": number} for number in numbers], override_num_blocks=len(numbers))
    answered = blocks.map_batches(
        Answerer,
        batch_size=1,
        fn_constructor_args=(job, pool.threads),
        compute=ActorPoolStrategy(size=min(pool.workers, len(numbers)), max_tasks_in_flight_per_actor=1),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
    )
    rows = iter(answered.iter_rows())
    while True:
        try:
            row = next(rows, None)
        except Exception as error:
            raise _told(error) from error
        if row is None:
            return
        done(int(row["block"]))


def asked(job: BatchJob, pool: Pool) -> Mapping[str, Any]:
    """The arithmetic to use, measured where the workers will run."""

    def choose() -> Mapping[str, Any]:
        torch.set_num_threads(pool.threads)
        return choose_here(job)

    try:
        found: Mapping[str, Any] = ray.get(
            ray.remote(choose).options(num_cpus=pool.cpus, num_gpus=pool.gpus or None).remote()
        )
    except Exception as error:
        raise _told(error) from error
    return found


def _told(error: Exception) -> RegraftError:
    """Our own error inside what Ray wrapped around it, or ClusterError with the innermost words."""
    causes = causes_of(error)
    # The last: Ray also makes a class of its own of ours, whose text is a traceback.
    if ours := [cause for cause in causes if isinstance(cause, RegraftError)]:
        return ours[-1]
    cause = causes[-1]
    return ClusterError(
        f"a worker failed: {type(cause).__name__}: {cause}; what was answered is kept: the same command goes on"
    )
