"""A search on Ray: an actor for each batch of trials that runs at a time, each with the base loaded once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError

from regraft.cluster.bench import Bench, plain, serve
from regraft.cluster.connect import check_store, connected
from regraft.contracts import Progress
from regraft.errors import AskedWrong
from regraft.later import Later
from regraft.search.closing import SearchOutcome
from regraft.search.crew import WorkerDied
from regraft.search.decide import Decider
from regraft.search.drive import search_session
from regraft.search.here import LocalCrew
from regraft.search.points import check_search, methods
from regraft.search.trials import Desk, SearchJob, Trial
from regraft.spec import RunSpec

log = logging.getLogger(__name__)
decide = Later("regraft.cluster.decide")
"""Tune takes a second to read, which passes while workers start."""
DEAD = (ActorDiedError, ActorUnavailableError, RayActorError)


def search(
    spec: RunSpec, *, fresh: bool = False, progress: Progress | None = None, address: str | None = None
) -> SearchOutcome:
    """Search a spec's space on Ray."""
    check_search(spec)
    with connected(address):
        check_store(spec.store)
        share = share_of(spec)
        return search_session(spec, _decider, lambda: RayCrew(share), fresh=fresh, progress=progress)


def search_here(spec: RunSpec, *, fresh: bool = False, progress: Progress | None = None) -> SearchOutcome:
    """Search a spec's space in this process; of Ray its schedulers alone are used, and nothing is started."""
    return search_session(spec, _decider, LocalCrew, fresh=fresh, progress=progress)


def _decider(spec: RunSpec) -> Decider:
    made: Decider = decide.tune_decider(spec)
    return made


@dataclass(frozen=True, slots=True)
class Share:
    """How many workers, and what each holds."""

    slots: int
    cpus: float
    gpus: float
    memory: float | None
    accelerator: str | None


def share_of(spec: RunSpec) -> Share:
    """What the cluster holds, shared out; AskedWrong when that is not enough for one worker.

    Trials that all train a head alone run together in one worker, which then has a whole node's CPUs.
    """
    assert spec.search is not None
    compute, wanted = spec.compute, spec.search.concurrency
    there = ray.cluster_resources()
    cpus_there, gpus_there = there.get("CPU", 1.0), there.get("GPU", 0.0)
    heads = all(method.serves == "head" and not method.closed_form for method in methods(spec))
    node = max(float(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    gpus = compute.gpus if compute.gpus != "auto" else (1.0 if gpus_there >= 1 else 0.0)
    if compute.cpus is not None:
        cpus = compute.cpus
    elif wanted is not None or heads:
        cpus = max(1.0, min(node, cpus_there // (wanted or 1)))
    else:
        cpus = max(1.0, cpus_there // gpus_there) if gpus and gpus_there >= 1 else 1.0
    memory = compute.memory_gb * 2**30 if compute.memory_gb else None
    need = {"CPU": cpus, **({"GPU": gpus} if gpus else {}), **({"memory": memory} if memory else {})}
    room = min(int(there.get(name, 0) // amount) for name, amount in need.items())
    if room < 1:
        told = ", ".join(f"{amount:g} {name}" for name, amount in need.items())
        raise AskedWrong(
            f"a worker with {told} is asked for; the cluster has "
            + ", ".join(f"{there.get(name, 0):g} {name}" for name in need),
            where="compute",
        )
    slots = min(room, wanted or (1 if heads else room), spec.search.most or room)
    return Share(slots, cpus, float(gpus), memory, compute.accelerator)


class RayCrew:
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

    def ready(self, slot: int, desk: Desk) -> None:
        """Have the slot's worker load what all trials share; the first one alone, so that the others find in the store
        what it has computed."""
        if slot in self._ready:
            return
        if slot not in self._actors:
            self._actors[slot] = self._hired()
        with self._first:
            alone = not self._ready
            if alone:
                self._prepare(slot, desk)
        if not alone:
            self._prepare(slot, desk)

    def _prepare(self, slot: int, desk: Desk) -> None:
        assert self._job is not None
        self._served(slot, self._actors[slot].ready.remote(plain(self._job)), desk)
        self._ready.add(slot)

    def work(self, slot: int, trials: Sequence[Trial], desk: Desk) -> None:
        """Run trials to their ends in the slot's worker."""
        self._served(slot, self._actors[slot].work.remote(list(trials)), desk)

    def close(self) -> None:
        """End the workers."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()

    def _served(self, slot: int, running: Any, desk: Desk) -> None:
        try:
            serve(self._actors[slot], running, desk)
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
        return Bench.options(**options).remote()  # type: ignore[attr-defined]
