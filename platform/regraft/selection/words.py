"""The verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from regraft.selection.choice import DepthScores, RankedBase
from regraft.selection.paired_interval import DifferenceInterval

_CHEAPER = 1.25
"""Ratio of costs from which one base is called cheaper."""
_WHOLE = 0.2
"""Distance from a whole number within which a ratio is called one."""
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten"}


def headline(ranking: Sequence[RankedBase]) -> str:
    """Return the verdict as a sentence: the first, and what is tied with it, the cheapest first."""
    first = ranking[0].base
    if len(ranking) == 1:
        return f"{first.reference}, the only one"
    tied = sorted((one.base for one in ranking[1:] if one.tied), key=lambda base: base.cost)
    texts = [_leads(one) for one in ranking[1:] if one.leads]
    texts += [f"{base.reference} is within noise{_cheaper(first.cost, base.cost)}" for base in tied]
    return f"{first.reference}; {'; '.join(texts) or 'the others are behind beyond noise'}"


def _leads(one: RankedBase) -> str:
    assert one.behind is not None
    lead, low, high = -one.behind.difference, -one.behind.high, -one.behind.low
    return f"{one.base.reference} is ahead by rows ({lead:.3f}, {low:.3f} to {high:.3f}) and behind by rank"


def _cheaper(first: float, other: float) -> str:
    if not first or not other:
        return ""
    if first / other >= _CHEAPER:
        return f" and {_times(first / other)} cheaper"
    return f" and {_times(other / first)} dearer" if other / first >= _CHEAPER else " and costs as much"


def _times(ratio: float) -> str:
    near = round(ratio)
    if near in _NUMBERS and abs(ratio - near) < _WHOLE:
        return f"{_NUMBERS[near]} times"
    return f"{ratio:.1f} times" if ratio < max(_NUMBERS) else f"{near:,} times"


def warning(reference: str, unbeaten: Sequence[Mapping[str, Any]]) -> str:
    """Return what the first choice does not beat, and what follows; empty if it beats all."""
    if not unbeaten:
        return ""
    names = " nor ".join(str(one["name"]) for one in unbeaten)
    return (
        f"{reference} does not beat {names} beyond noise: what these bases were trained on may not help here. Compare "
        "with a run that begins with random weights (training.init: random), or add rows"
    )


def depth(found: DepthScores, blocks: int) -> dict[str, Any]:
    """Return the depth that is proposed, with a sentence."""
    if found.depth >= blocks:
        sentence = f"features {found.name} are within noise of the best: the base may stay frozen as a whole at first"
    else:
        sentence = (
            f"features at {found.name} are the deepest within noise of the best: what lies before may stay frozen"
        )
    return {"name": found.name, "depth": found.depth, "blocks": blocks, "sentence": sentence}


def control(name: str, score: float, ahead: DifferenceInterval) -> dict[str, Any]:
    """Return a control beside the first choice: its score, and by how much the first choice is ahead."""
    return {"name": name, "score": score, "ahead": difference(ahead), "beaten": ahead.low > 0}


def difference(found: DifferenceInterval | None) -> dict[str, float] | None:
    """Return a difference with its interval."""
    return None if found is None else {"value": found.difference, "low": found.low, "high": found.high}
