"""The search of an automatic run: one search for each method, the usual rate of every one first, then others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from regraft.automatic.tried_methods import RATES, LeftOut, TriedMethod
from regraft.contracts import Progress, note
from regraft.errors import RunError
from regraft.spec.auto import resolve_auto
from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore
from regraft.tuning.driver.finish import SearchOutcome
from regraft.tuning.driver.prepare import choose_search
from regraft.tuning.driver.search_store import SearchStore
from regraft.tuning.records import OVER, TrialRecord
from regraft.tuning.space import without_search

Search = Callable[[RunSpec], SearchOutcome]
TWICE = 1.15
"""A trial is begun where this many times its probable seconds are left."""


@dataclass(frozen=True)
class DoneTrial:
    """A trial that ended with a result."""

    spec: RunSpec
    """The run that repeats it."""
    trial: str
    search: str
    method: str
    settings: Mapping[str, Any]
    value: float
    loss: float
    seconds: float
    whole: bool
    """Whether it ran to its last epoch."""

    def document(self) -> dict[str, Any]:
        """Return the trial as JSON-able data."""
        names = ("trial", "search", "method", "settings", "value", "seconds", "whole")
        return {name: getattr(self, name) for name in names}


@dataclass
class MethodSearches:
    """Searches by method, within a time."""

    spec: RunSpec
    store: ObjectStore
    search: Search
    left: Callable[[], float]
    """Seconds that are left for searching."""
    progress: Progress | None
    done: dict[str, list[DoneTrial]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    def run(self, methods: Sequence[TriedMethod], most_seconds: float) -> None:
        """Try every method once at its own rate, from cheap to dear, then other rates and depths of the best ones.

        `most_seconds` is what the end of the run has for training one of them again.
        """
        allowed = [kept for one in methods if (kept := self._allowed(one, most_seconds)) is not None]
        if not allowed:  # an epoch of the cheapest fits twice into the whole budget, or nothing would have begun
            self.left_out = [one for one in self.left_out if one.method != methods[0].method.key()]
            allowed = [replace(methods[0], epochs=1)]
        for one in allowed:
            if self._begins(one):
                self._search(one, trials=1)
        while (target := self._next(allowed)) is not None:
            one, trials = target
            before = len(self.done.get(one.method.key(), ()))
            self._search(one, trials=trials)
            if len(self.done.get(one.method.key(), ())) <= before:
                break  # the time is over, or nothing came of it

    def trials(self) -> list[DoneTrial]:
        """Return every trial with a result, the best first; of equals the smaller loss, then the quicker."""
        sign = -1.0 if self.spec.task.score.mode == "max" else 1.0
        every = [trial for trials in self.done.values() for trial in trials]
        return sorted(every, key=lambda one: (sign * one.value, not one.whole, one.loss, one.seconds))

    def _allowed(self, one: TriedMethod, most_seconds: float) -> TriedMethod | None:
        """Return a method with the epochs that fit; None, with the reason kept, where none fits."""
        kept = one.within(most_seconds)
        name = one.method.key()
        if kept is None:
            why = f"an epoch takes about {one.seconds(1):.0f} s, and the end of the budget has {most_seconds:.0f} s"
            self.left_out.append(LeftOut(name, why))
        elif kept.epochs < one.epochs:
            note(self.progress, f"{name}: {kept.epochs} of its usual {one.epochs} epochs fit into the budget")
        return kept

    def _begins(self, one: TriedMethod) -> bool:
        """Return whether there is time for a method's first trial; the first of all is always begun."""
        needed = TWICE * one.seconds()
        if not self.done or self._known(one) or needed <= self.left():
            return True
        why = f"a trial takes about {one.seconds():.0f} s, and the search has {max(self.left(), 0):.0f} s left"
        self.left_out.append(LeftOut(one.method.key(), why))
        return False

    def _next(self, allowed: Sequence[TriedMethod]) -> tuple[TriedMethod, int] | None:
        """Return the method whose other settings come next, with the number of its trials then; None at the end."""
        by_score = list(dict.fromkeys(trial.method for trial in self.trials()))
        known = {one.method.key(): one for one in allowed}
        for name in by_score:
            one, so_far = known[name], self.done[name]
            longest = max(trial.seconds for trial in so_far)
            if len(so_far) < _points(one) and TWICE * longest <= self.left():
                together = max(1, min(len(RATES) - 1, int(self.left() / (TWICE * longest)))) if one.head_alone else 1
                return one, len(so_far) + together
        return None

    def _known(self, one: TriedMethod) -> bool:
        """Return whether an earlier attempt has begun this method's search."""
        spec = method_spec(self.spec, one)
        return SearchStore(self.store, choose_search(self.store, spec, fresh=False)).record() is not None

    def _search(self, one: TriedMethod, *, trials: int) -> None:
        """Run a method's search up to a number of trials, and keep what came of it."""
        spec = method_spec(self.spec, one)
        name = choose_search(self.store, spec, fresh=False)
        record = SearchStore(self.store, name).record()
        ended = [trial for trial in SearchStore(self.store, name).trials() if trial.status in OVER]
        spent = 0.0 if record is None else record.seconds
        seconds = spent + max(1.0, self.left())
        if len(ended) < trials:
            limits = {"search.trials": trials, "search.seconds": seconds}
            try:
                name = self.search(spec.override(limits)).run
            except RunError as error:
                if type(error) is not RunError:
                    raise
                self.left_out.append(LeftOut(one.method.key(), error.message))
                return
        score = spec.task.score.name
        records = SearchStore(self.store, name).trials()
        self.done[one.method.key()] = list(_results(spec, name, records, score))


def _results(spec: RunSpec, search: str, records: Sequence[TrialRecord], score: str) -> Iterator[DoneTrial]:
    """Yield the trials of a search that have a result."""
    bare = without_search(spec)
    for record in records:
        value = (record.best or {}).get(score)
        if record.status not in ("finished", "stopped") or value is None or math.isnan(value):
            continue
        loss = (record.best or {}).get("loss", math.inf)
        yield DoneTrial(
            spec=bare.override(record.overrides),
            trial=record.id,
            search=search,
            method=spec.method.key(),
            settings=record.overrides,
            value=value,
            loss=loss if not math.isnan(loss) else math.inf,
            seconds=record.seconds,
            whole=record.status == "finished",
        )


def _points(one: TriedMethod) -> int:
    """Return how many settings of a method are tried at most."""
    return math.prod(len(values) for values in one.varied.values()) * len(RATES)


def method_spec(spec: RunSpec, one: TriedMethod) -> RunSpec:
    """Return the search of one method: its own values are written, and its rate and fields vary around them."""
    method = {"type": one.method.key()}
    plain = spec.override({"method": method, "training.epochs": one.epochs, "training.lr": "auto"})
    settled = resolve_auto(plain, one.costs.train)
    rate = settled.training.lr
    assert isinstance(rate, float)
    space: dict[str, Any] = {f"method.{name}": {"grid": list(values)} for name, values in one.varied.items()}
    space["training.lr"] = {"grid": [float(f"{rate * factor:.3g}") for factor in RATES]}
    search = {"space": space, "sampler": "grid", "scheduler": "none", "register": "none", "keep": 1}
    return settled.override({"search": search})
