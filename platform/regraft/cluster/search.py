"""A search on Ray: one actor for each batch of trials that runs at a time, each with the base loaded once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError

from regraft.cluster import capacity
from regraft.cluster.connect import connected
from regraft.cluster.ray_watch import is_lost, raise_if_lost
from regraft.cluster.trial_actor import ActorWatch, TrialActor, answer_calls, plain
from regraft.cluster.visibility import check_folders, check_store
from regraft.contracts import Progress
from regraft.errors import RequestError, RunError
from regraft.lazy import Later
from regraft.spec.run import RunSpec
from regraft.spec.search_bases import bases_of
from regraft.tuning.driver.finish import SearchOutcome
from regraft.tuning.driver.local_worker import LocalPool
from regraft.tuning.driver.workers import READY_GRACE_S, SearchLimits, WorkerDied, WorkerHangs
from regraft.tuning.protocol import Coordinator, SearchJob, Trial
from regraft.tuning.session import again_of, search_session
from regraft.tuning.space import heads_alone
from regraft.tuning.study import Study
from regraft.tuning.validate import check_search

log = logging.getLogger(__name__)
CLEAR_S = 5.0
"""Seconds that workers have to delete their scratch files."""
tune_schedulers = Later("regraft.cluster.tune_schedulers")
"""Importing Tune takes a second, which passes while workers start."""
DEAD = (ActorDiedError, ActorUnavailableError, RayActorError)


def search(
    spec: RunSpec,
    *,
    fresh: bool = False,
    same: bool = False,
    progress: Progress | None = None,
    address: str | None = None,
) -> SearchOutcome:
    """Search a spec's space on Ray."""
    check_search(spec)
    with connected(address):
        check_store(spec.store, creates=True)
        check_folders(spec, bases_of(spec.search))
        size = pool_size(spec, progress)
        return search_session(
            spec, _study, lambda: RayPool(size), again=again_of(fresh=fresh, same=same), progress=progress
        )


def search_here(
    spec: RunSpec, *, fresh: bool = False, same: bool = False, progress: Progress | None = None
) -> SearchOutcome:
    """Search a spec's space in this process; only the schedulers of Ray Tune are used, and no Ray is started."""
    return search_session(spec, _study, LocalPool, again=again_of(fresh=fresh, same=same), progress=progress)


def _study(spec: RunSpec) -> Study:
    made: Study = tune_schedulers.tune_study(spec)
    return made


@dataclass(frozen=True, slots=True)
class PoolSize:
    """The number of workers of a search, and the resources of each."""

    slots: int
    cpus: float
    gpus: float
    memory: float | None
    accelerator: str | None


def pool_size(spec: RunSpec, progress: Progress | None = None) -> PoolSize:
    """Divide the cluster's resources among workers.

    Trials that all train a head alone run together in one worker, which then has all CPUs of a node. Ray does not
    expose how many nodes an autoscaler could add, so beyond the existing ones `search.concurrency` is asked for.
    Raises RequestError if not even one worker fits and no node can be added.
    """
    search = spec.searched()
    compute, wanted = spec.compute, search.concurrency
    holdings = list(capacity.nodes().values())
    heads = heads_alone(spec)
    need = worker_need(spec, holdings, heads=heads)
    full = capacity.with_accelerator(need, compute)
    fit, low = capacity.fitting(holdings, full), wanted or 1
    if fit < low and capacity.can_be_added(full, low, progress):
        fit = low
    if fit < 1:
        wants = ", ".join(f"{amount:g} {name}" for name, amount in full.items())
        has = ", ".join(f"{total(holdings, name):g} {name}" for name in full)
        never = ", and its autoscaler can never bring such a node" if capacity.autoscales() else ""
        raise RequestError(f"a worker with {wants} is asked for; the cluster has {has}{never}", where="compute")
    slots = min(fit, wanted or (1 if heads else fit), search.most or fit)
    return PoolSize(slots, need["CPU"], need.get("GPU", 0.0), need.get("memory"), compute.accelerator)


def worker_need(spec: RunSpec, holdings: Sequence[Mapping[str, float]], *, heads: bool) -> capacity.Need:
    """Return what a worker holds: what the spec writes, else a GPU if there is one, and its share of a node's CPUs."""
    compute, wanted = spec.compute, spec.searched().concurrency
    all_cpus, all_gpus = total(holdings, "CPU"), total(holdings, "GPU")
    gpus = compute.gpus if compute.gpus != "auto" else (1.0 if all_gpus >= 1 else 0.0)
    # A worker is never split over nodes, so it can have no more than one node has.
    node = max((holds.get("CPU", 0.0) for holds in holdings if holds.get("GPU", 0.0) >= gpus), default=0.0)
    if compute.cpus is not None:
        cpus = float(compute.cpus)
    elif wanted is not None or heads:
        cpus = max(1.0, min(node, all_cpus // (wanted or 1)))
    else:
        cpus = max(1.0, min(node, all_cpus // all_gpus)) if gpus and all_gpus >= 1 else 1.0
    memory = compute.memory_gb * 2**30 if compute.memory_gb else None
    return {"CPU": cpus, **({"GPU": float(gpus)} if gpus else {}), **({"memory": memory} if memory else {})}


def total(holdings: Sequence[Mapping[str, float]], name: str) -> float:
    """Return how much of a resource all nodes hold together."""
    return sum(holds.get(name, 0.0) for holds in holdings)


class RayPool:
    """Runs trials in actors spread over the nodes; an actor that dies is replaced."""

    def __init__(self, size: PoolSize) -> None:
        self.slots = size.slots
        self._size = size
        self._job: SearchJob | None = None
        self._limits: SearchLimits | None = None
        self._ready: set[int] = set()
        self._first = threading.Lock()
        # All start now: their imports take longer than anything the driver does in the meantime.
        self._actors = {slot: self._new_actor() for slot in range(size.slots)}

    def assign(self, job: SearchJob, limits: SearchLimits) -> None:
        """Set the job that all trials belong to, and what ends it."""
        self._limits = limits
        self._job = replace(job, threads=max(1, int(self._size.cpus)))

    def ready(self, slot: int, coordinator: Coordinator) -> None:
        """Make the slot's worker load what all trials share.

        The first worker does so alone, and the others find in the store what it has computed.
        """
        if slot in self._ready:
            return
        if slot not in self._actors:
            self._actors[slot] = self._new_actor()
        with self._first:
            alone = not self._ready
            if alone:
                self._prepare(slot, coordinator)
        if not alone:
            self._prepare(slot, coordinator)

    def _prepare(self, slot: int, coordinator: Coordinator) -> None:
        assert self._job is not None
        try:
            running = self._actors[slot].ready.remote(plain(self._job))
            self._answer_calls(slot, running, coordinator, least=READY_GRACE_S)
        except WorkerHangs as error:
            raise RunError(f"base and rows could not be loaded: {error}") from error
        self._ready.add(slot)

    def work(self, slot: int, trials: Sequence[Trial], coordinator: Coordinator) -> None:
        """Run trials to their ends in the slot's worker."""
        self._answer_calls(slot, self._actors[slot].work.remote(list(trials)), coordinator)

    def close(self) -> None:
        """Delete the workers' scratch files and end the workers."""
        if is_lost():
            return
        cleared = [actor.clear.remote() for actor in self._actors.values()]
        if cleared:
            ray.wait(cleared, num_returns=len(cleared), timeout=CLEAR_S)
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()

    def _answer_calls(self, slot: int, running: Any, coordinator: Coordinator, *, least: float | None = None) -> None:
        assert self._limits is not None
        actor = self._actors[slot]
        try:
            answer_calls(actor, running, coordinator, ActorWatch(actor, self._limits, least))
        except WorkerHangs:
            self._replace(slot)
            raise
        except DEAD as error:
            raise_if_lost()
            self._replace(slot)
            raise WorkerDied(" ".join(str(error).split())[:300]) from error
        except RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, Exception) else error from None

    def _replace(self, slot: int) -> None:
        """End the slot's actor; the next call of `ready` makes another."""
        self._ready.discard(slot)
        ray.kill(self._actors.pop(slot))

    def _new_actor(self) -> Any:
        size = self._size
        options: dict[str, Any] = {"num_cpus": size.cpus, "num_gpus": size.gpus, "scheduling_strategy": "SPREAD"}
        if size.memory:
            options["memory"] = size.memory
        if size.accelerator:
            options["accelerator_type"] = size.accelerator
        return TrialActor.options(**options).remote()  # type: ignore[attr-defined]
