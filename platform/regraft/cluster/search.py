"""A search on Ray: an actor for each batch of trials that runs at a time, each with the base loaded once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError

from regraft.cluster import capacity
from regraft.cluster.connect import check_store, connected
from regraft.cluster.trial_actor import TrialActor, plain, serve
from regraft.cluster.visibility import check_folders
from regraft.contracts import Progress
from regraft.errors import RequestError
from regraft.lazy import Later
from regraft.spec.run import RunSpec
from regraft.tuning.driver.finish import SearchOutcome
from regraft.tuning.driver.local_worker import LocalPool
from regraft.tuning.driver.workers import WorkerDied
from regraft.tuning.protocol import Coordinator, SearchJob, Trial
from regraft.tuning.session import search_session
from regraft.tuning.space import heads_alone
from regraft.tuning.study import Study
from regraft.tuning.validate import check_search

log = logging.getLogger(__name__)
CLEAR_S = 5.0
"""How long workers may take to clear away what they wrote on their nodes."""
decide = Later("regraft.cluster.tune_schedulers")
"""Tune takes a second to read, which passes while workers start."""
DEAD = (ActorDiedError, ActorUnavailableError, RayActorError)


def search(
    spec: RunSpec, *, fresh: bool = False, progress: Progress | None = None, address: str | None = None
) -> SearchOutcome:
    """Search a spec's space on Ray."""
    check_search(spec)
    with connected(address):
        check_store(spec.store)
        check_folders(spec)
        share = share_of(spec, progress)
        return search_session(spec, _study, lambda: RayPool(share), fresh=fresh, progress=progress)


def search_here(spec: RunSpec, *, fresh: bool = False, progress: Progress | None = None) -> SearchOutcome:
    """Search a spec's space in this process; of Ray its schedulers alone are used, and nothing is started."""
    return search_session(spec, _study, LocalPool, fresh=fresh, progress=progress)


def _study(spec: RunSpec) -> Study:
    made: Study = decide.tune_study(spec)
    return made


@dataclass(frozen=True, slots=True)
class Share:
    """How many workers, and what each holds."""

    slots: int
    cpus: float
    gpus: float
    memory: float | None
    accelerator: str | None


def share_of(spec: RunSpec, progress: Progress | None = None) -> Share:
    """What the cluster holds, shared out; RequestError when that is not enough for one worker, and none can come.

    Trials that all train a head alone run together in one worker, which then has a whole node's CPUs. How many more
    an autoscaler could bring nobody tells: beyond the nodes there are, `search.concurrency` says how many to ask for.
    """
    search = spec.searched()
    compute, wanted = spec.compute, search.concurrency
    holdings = list(capacity.nodes().values())
    heads = heads_alone(spec)
    need = need_of(spec, holdings, heads=heads)
    # Ray marks each node of an accelerator type with one such resource, of which a worker takes next to nothing.
    whole = need | ({f"accelerator_type:{compute.accelerator}": 0.001} if compute.accelerator else {})
    fit, low = capacity.room(holdings, whole), wanted or 1
    if fit < low and capacity.can_come(whole, low, progress):
        fit = low
    if fit < 1:
        told = ", ".join(f"{amount:g} {name}" for name, amount in whole.items())
        there = ", ".join(f"{total(holdings, name):g} {name}" for name in whole)
        brings = ", and its autoscaler can never bring such a node" if capacity.autoscales() else ""
        raise RequestError(f"a worker with {told} is asked for; the cluster has {there}{brings}", where="compute")
    slots = min(fit, wanted or (1 if heads else fit), search.most or fit)
    return Share(slots, need["CPU"], need.get("GPU", 0.0), need.get("memory"), compute.accelerator)


def need_of(spec: RunSpec, holdings: Sequence[Mapping[str, float]], *, heads: bool) -> capacity.Need:
    """What a worker holds: what is written, else a GPU where there is one, and its share of the CPUs of a node."""
    compute, wanted = spec.compute, spec.searched().concurrency
    all_cpus, all_gpus = total(holdings, "CPU"), total(holdings, "GPU")
    gpus = compute.gpus if compute.gpus != "auto" else (1.0 if all_gpus >= 1 else 0.0)
    # A worker lies whole on one node, of which it can have no more than there is.
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
    """How much of a resource all nodes hold together."""
    return sum(holds.get(name, 0.0) for holds in holdings)


class RayPool:
    """Actors spread over the nodes; one that dies is replaced."""

    def __init__(self, share: Share) -> None:
        self.slots = share.slots
        self._share = share
        self._job: SearchJob | None = None
        self._ready: set[int] = set()
        self._first = threading.Lock()
        # All begin now: what they import takes longer than anything the driver does meanwhile.
        self._actors = {slot: self._hired() for slot in range(share.slots)}

    def assign(self, job: SearchJob) -> None:
        """Say what is to be searched."""
        self._job = replace(job, threads=max(1, int(self._share.cpus)))

    def ready(self, slot: int, coordinator: Coordinator) -> None:
        """Have the slot's worker load what all trials share; the first one alone, so that the others find in the store
        what it has computed."""
        if slot in self._ready:
            return
        if slot not in self._actors:
            self._actors[slot] = self._hired()
        with self._first:
            alone = not self._ready
            if alone:
                self._prepare(slot, coordinator)
        if not alone:
            self._prepare(slot, coordinator)

    def _prepare(self, slot: int, coordinator: Coordinator) -> None:
        assert self._job is not None
        self._served(slot, self._actors[slot].ready.remote(plain(self._job)), coordinator)
        self._ready.add(slot)

    def work(self, slot: int, trials: Sequence[Trial], coordinator: Coordinator) -> None:
        """Run trials to their ends in the slot's worker."""
        self._served(slot, self._actors[slot].work.remote(list(trials)), coordinator)

    def close(self) -> None:
        """End the workers."""
        cleared = [actor.clear.remote() for actor in self._actors.values()]
        if cleared:
            ray.wait(cleared, num_returns=len(cleared), timeout=CLEAR_S)
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()

    def _served(self, slot: int, running: Any, coordinator: Coordinator) -> None:
        try:
            serve(self._actors[slot], running, coordinator)
        except DEAD as error:
            self._ready.discard(slot)
            ray.kill(self._actors.pop(slot))
            raise WorkerDied(" ".join(str(error).split())[:300]) from error
        except RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, Exception) else error from None

    def _hired(self) -> Any:
        share = self._share
        options: dict[str, Any] = {"num_cpus": share.cpus, "num_gpus": share.gpus, "scheduling_strategy": "SPREAD"}
        if share.memory:
            options["memory"] = share.memory
        if share.accelerator:
            options["accelerator_type"] = share.accelerator
        return TrialActor.options(**options).remote()  # type: ignore[attr-defined]
