"""Batch prediction on Ray Data: a pool of actors, each with the model, that answer blocks of rows and may die."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import ray
import torch
from ray.data import ActorPoolStrategy

from regraft.cluster.connect import connected
from regraft.cluster.quiet import quiet_data, quiet_start
from regraft.cluster.train import causes_of
from regraft.cluster.visibility import check_output_folder
from regraft.contracts import Progress
from regraft.errors import ClusterError, RegraftError, RequestError, RunError
from regraft.serving.batch.session import BatchJob, BatchRequest, BatchResult, BatchWorker, choose_here, predict_session
from regraft.spec.document import absolute
from regraft.store.objects import open_store

CORES = 4
"""CPUs of a worker on a cluster without GPUs, unless the user asks otherwise: more threads speed a batch up little."""
TRIES = 5
"""How often a block is begun: a row that kills every worker must end the command, and Ray Data alone would replace
actors for ever."""


@dataclass(frozen=True)
class ActorPool:
    """The number of actors, and what each holds."""

    workers: int
    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        """Threads that an actor computes with."""
        return max(1, int(self.cpus))


def predict(
    request: BatchRequest,
    *,
    workers: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
    address: str | None = None,
) -> BatchResult:
    """Answer a request on Ray; with `workers` None each takes a GPU if there are any, else a few cores."""
    # The cluster is checked before anything is written: a wrong address leaves nothing behind.
    with ExitStack() as stack:
        with quiet_start():
            stack.enter_context(connected(address))
        stack.enter_context(quiet_data())
        pool = pool_of(workers)
        check_output_folder(absolute(request.output).rpartition("/")[0] or "/")

        def execute(job: BatchJob, numbers: list[int], done: Callable[[int], None]) -> None:
            answer_blocks(job, numbers, done, pool)

        def choose(job: BatchJob) -> Mapping[str, Any]:
            return measured_choice(job, pool)

        return predict_session(request, execute, choose, fresh=fresh, progress=progress)


def pool_of(workers: int | None) -> ActorPool:
    """Return the number of actors and what each holds. Raises RequestError if the cluster has less."""
    resources = ray.cluster_resources()
    cpus, gpus = float(resources.get("CPU", 1)), float(resources.get("GPU", 0))
    if workers is None:
        workers = int(gpus) or max(1, int(cpus // CORES))
    if workers > cpus:
        raise RequestError(
            f"{workers} is written; the cluster has {cpus:g} CPUs, one at least for each", where="workers"
        )
    return ActorPool(workers, max(1.0, float(cpus // workers)), 1.0 if gpus >= workers else 0.0)


class PredictActor:
    """An actor of the pool: answers blocks of rows with one loaded model."""

    def __init__(self, job: BatchJob, threads: int) -> None:
        torch.set_num_threads(threads)
        self._worker = BatchWorker(job)
        self._store = open_store(job.work)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer the blocks whose numbers `batch` holds. Raises RunError for a block that was begun too often."""
        return {"block": [self._answer(int(number)) for number in batch["block"]]}

    def _answer(self, number: int) -> int:
        prefix = f"tries/{number:06d}-"
        if sum(1 for _ in self._store.list(prefix)) >= TRIES:
            first, last = self._worker.rows(number)
            raise RunError(
                f"rows {first} to {last} ended {TRIES} workers: one of them may need more memory than a worker has; "
                "leave it out, or ask for fewer workers"
            )
        self._store.put(prefix + uuid4().hex, b"")
        return self._worker(number)


def answer_blocks(job: BatchJob, numbers: list[int], done: Callable[[int], None], pool: ActorPool) -> None:
    """Answer every block; a block whose actor dies is answered by another actor."""
    if not numbers:
        return
    store = open_store(job.work)
    store.delete([stat.key for stat in store.list("tries/")])
    blocks = ray.data.from_items([{"block": number} for number in numbers], override_num_blocks=len(numbers))
    answered = blocks.map_batches(
        PredictActor,
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
            raise _own_error(error) from error
        if row is None:
            return
        done(int(row["block"]))


def measured_choice(job: BatchJob, pool: ActorPool) -> Mapping[str, Any]:
    """Return the dtype to compute in and why, measured where the actors will run."""

    def choose() -> Mapping[str, Any]:
        torch.set_num_threads(pool.threads)
        return choose_here(job)

    try:
        found: Mapping[str, Any] = ray.get(
            ray.remote(choose).options(num_cpus=pool.cpus, num_gpus=pool.gpus or None).remote()
        )
    except Exception as error:
        raise _own_error(error) from error
    return found


def _own_error(error: Exception) -> RegraftError:
    """Return regraft's error inside the one that Ray raised, or a ClusterError with the innermost message."""
    causes = causes_of(error)
    # The last one: Ray also derives a class from ours, whose text is a traceback.
    if ours := [cause for cause in causes if isinstance(cause, RegraftError)]:
        return ours[-1]
    cause = causes[-1]
    return ClusterError(
        f"a worker failed: {type(cause).__name__}: {cause}; what was answered is kept: the same command goes on"
    )
