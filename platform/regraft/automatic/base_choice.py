"""The choice among bases that can do the task: by `selection` where it can compare them, else the first one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regraft.automatic.row_cost import forward_seconds
from regraft.automatic.usable_bases import CheckedBase
from regraft.comparison.controls import probe_method
from regraft.contracts import Progress, note
from regraft.errors import RequestError
from regraft.selection.session import SelectOptions, select_session
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.training.prepare import build_rows

MOST_COMPARED = 6
"""Bases that are compared, the preferred ones first."""
_FEWEST, _MOST = 60, 500
"""Rows of the sample on which bases are compared."""
_SHARE = 0.1
"""Share of the budget that the comparison may take."""


@dataclass(frozen=True)
class BaseChoice:
    """The chosen base, with what is said of each of them."""

    verdict: CheckedBase
    why: str
    bases: list[dict[str, Any]]


def choose_base(
    found: Sequence[CheckedBase], spec_of: Callable[[CheckedBase], RunSpec], budget: float, progress: Progress | None
) -> BaseChoice:
    """Choose a base, and say of each what speaks for or against it.

    Of bases that nothing tells apart, the cheapest is taken. `spec_of` gives the run of a base.
    """
    usable = [one for one in found if one.usable]
    chosen, scores = usable[0], dict[str, float]()
    which = "the only one" if len(usable) == 1 else f"the first of {len(usable)}"
    why = f"{which} that can do the task"
    compared = _compared(usable)
    if len(compared) > 1:
        try:
            name, headline, scores = _selected(spec_of(compared[0]), compared, budget, progress)
        except RequestError as error:  # a task or rows of which features say nothing
            note(progress, f"bases are not compared: {error.message}")
        else:
            chosen = next(one for one in compared if one.named.reference == name)
            why = headline
    return BaseChoice(chosen, why, [_described(one, chosen, why, scores) for one in found])


def stored_choice(choice: BaseChoice, found: Sequence[CheckedBase], fingerprint: str) -> dict[str, Any]:
    """Return what a record keeps of a choice: it depends on a measured speed, and is made once for the same rows."""
    return {
        "reference": choice.verdict.named.reference,
        "why": choice.why,
        "bases": choice.bases,
        "hashes": _hashes(found),
        "fingerprint": fingerprint,
    }


def known_choice(stored: Mapping[str, Any], found: Sequence[CheckedBase]) -> BaseChoice | None:
    """Return the choice that a record keeps; None where it keeps none, or was made among other bases."""
    chosen = next((one for one in found if one.usable and one.named.reference == stored.get("reference")), None)
    if chosen is None or stored.get("hashes") != _hashes(found):
        return None
    return BaseChoice(chosen, str(stored["why"]), list(stored["bases"]))


def _hashes(found: Sequence[CheckedBase]) -> list[list[str]]:
    """Return reference and hash of each base among which one is chosen, in order."""
    usable = [one for one in found if one.usable]
    among = _compared(usable) or usable[:1]
    return [[one.named.reference, one.base.hash] for one in among if one.base is not None]


def _compared(usable: Sequence[CheckedBase]) -> list[CheckedBase]:
    """Return the bases that are compared: of the first one's form of the task, with weights."""
    return [one for one in usable if not one.random and one.task == usable[0].task][:MOST_COMPARED]


def _selected(
    spec: RunSpec, compared: Sequence[CheckedBase], budget: float, progress: Progress | None
) -> tuple[str, str, dict[str, float]]:
    """Return the cheapest of the bases that nothing tells from the best, the verdict, and the score of each."""
    names = tuple(one.named.reference for one in compared)
    spec = spec.override({"method": {"type": probe_method().key()}})
    sample = _sample(spec, compared, budget)
    outcome = select_session(spec, SelectOptions(names, sample=sample, skip_bad=True), progress=progress)
    scores = {str(one["base"]): float(one["score"]) for one in outcome.bases}
    return next(iter(outcome.tied), outcome.base), outcome.headline, scores


def _sample(spec: RunSpec, compared: Sequence[CheckedBase], budget: float) -> int:
    """Return how many rows bases are compared on: as many as the share of the budget allows, by a measured pass.

    The first base is measured, and others cost by their parameters.
    """
    first = compared[0]
    assert first.base is not None
    snapshot = build_rows(open_store(spec.store), spec, first.base, None)
    one = forward_seconds(spec, first.base, snapshot, spec.method)
    every = one * sum(other.parameters for other in compared) / max(1, first.parameters)
    return max(_FEWEST, min(_MOST, int(_SHARE * budget / max(every, 1e-9))))


def _described(one: CheckedBase, chosen: CheckedBase, why: str, scores: Mapping[str, float]) -> dict[str, Any]:
    """Return what is said of a base."""
    score = scores.get(one.named.reference)
    beside = "can do the task too" if score is None else f"{score:.3f} by its features"
    return {
        "reference": one.named.reference,
        "found": one.named.found,
        "parameters": one.parameters,
        "chosen": one is chosen,
        "why": why if one is chosen else one.why or beside,
    }
