"""Which candidate answers for target rows, chosen without their labels; source-only where evidence is thin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from regraft.adaptation.grounds import Grounds, grounds_of
from regraft.adaptation.guard import GuardFinding, guard
from regraft.adaptation.members import corrections, validators
from regraft.adaptation.shift import Shift, ShiftKind
from regraft.adaptation.validator import Interval, Outputs, paired_interval
from regraft.errors import RequestError

DECIDING = ("im", "bnm")
"""Validators that must all say better, beyond their intervals. The others are shown."""
LEAST_LABELLED = 16
"""Fewest labelled target rows that settle a choice."""


class Evidence(StrEnum):
    """What decides about a candidate."""

    PRIOR = "prior"
    """The diagnosis of label shift, and nothing else: validators know nothing of it."""
    VALIDATORS = "validators"
    """The validators, where features moved."""
    LABELS = "labels"
    """Labelled target rows that the candidate was fitted on."""


@dataclass(frozen=True, eq=False)
class AdaptCandidate:
    """A model that could answer for target rows, with its outputs on the same rows as the others."""

    name: str
    outputs: Outputs
    evidence: Evidence = Evidence.VALIDATORS
    labelled_rows: int = 0
    """Labelled target rows that it was fitted on."""
    aligned: bool = False
    """Whether it reads target features after their moments were moved to the source's, as corrections do."""


@dataclass(frozen=True)
class Judgement:
    """What is known of a candidate, and the reason for or against it."""

    name: str
    scores: dict[str, float | None]
    """Each validator's score; None where it cannot be computed."""
    reason: str
    chosen: bool = False
    intervals: dict[str, Interval | None] = field(default_factory=dict)
    """Intervals of the deciding validators' differences to the best candidate before it."""
    finding: GuardFinding | None = None


@dataclass(frozen=True)
class Choice:
    """The candidate chosen, and what is known of each; source-only comes first."""

    name: str
    adapted: bool
    """False for "do not adapt"."""
    reason: str
    judgements: tuple[Judgement, ...]


@dataclass(frozen=True, eq=False)
class _Context:
    """What stays the same for all candidates of a choice."""

    source_only: AdaptCandidate
    shift: Shift
    seed: int


@dataclass(frozen=True)
class _Verdict:
    """Whether a candidate replaces the best one before it."""

    better: bool
    reason: str
    intervals: dict[str, Interval | None] = field(default_factory=dict)
    finding: GuardFinding | None = None


def choose(
    candidates: Sequence[AdaptCandidate],
    source_only: AdaptCandidate,
    shift: Shift,
    *,
    probe: Outputs | None = None,
    seed: int = 0,
) -> Choice:
    """Return the choice among candidates, which stand in order from cheap to dear; source-only is always one of them.

    A candidate replaces the best one before it only if its evidence says so: the dearer must be better than the
    cheaper, and the first better than source-only. `probe` are the outputs of the correction that is the probe, where
    no candidate is it. Raises RequestError where two have one name.
    """
    names = [candidate.name for candidate in (source_only, *candidates)]
    if len(set(names)) < len(names):
        raise RequestError(f"two candidates have one name: {', '.join(names)}")
    context = _Context(source_only, shift, seed)
    probe = next((candidate.outputs for candidate in candidates if _is_probe(candidate)), probe)
    grounds = grounds_of(source_only.outputs, probe, seed=seed)
    best = source_only
    found: list[tuple[AdaptCandidate, _Verdict]] = []
    for candidate in candidates:
        verdict = _verdict(candidate, best, grounds, context)
        found.append((candidate, verdict))
        best = candidate if verdict.better else best
    judged = [_judgement(candidate, verdict, best) for candidate, verdict in found]
    reason = _reason(best, source_only, shift, judged)
    first = Judgement(source_only.name, scores(source_only.outputs), "The default.", best is source_only)
    return Choice(best.name, best is not source_only, reason, (first, *judged))


def scores(outputs: Outputs) -> dict[str, float | None]:
    """Return every validator's score."""
    return {name: validator.score(outputs) for name, validator in validators().items()}


def _is_probe(candidate: AdaptCandidate) -> bool:
    member = corrections().get(candidate.name)
    return member is not None and member.probe


def _judgement(candidate: AdaptCandidate, verdict: _Verdict, best: AdaptCandidate) -> Judgement:
    chosen = candidate is best
    reason = verdict.reason
    if verdict.better and not chosen:
        reason += f" {best.name}, which came later, is better still."
    return Judgement(candidate.name, scores(candidate.outputs), reason, chosen, verdict.intervals, verdict.finding)


def _reason(best: AdaptCandidate, source_only: AdaptCandidate, shift: Shift, judged: list[Judgement]) -> str:
    if best is not source_only:
        return f"{shift.reason} {next(item.reason for item in judged if item.chosen)}"
    if shift.kind in (ShiftKind.NONE, ShiftKind.UNKNOWN):
        return f"Do not adapt. {shift.reason}"
    return f"Do not adapt: no candidate is shown to be better. {shift.reason}"


def _verdict(candidate: AdaptCandidate, best: AdaptCandidate, grounds: Grounds, context: _Context) -> _Verdict:
    if context.shift.kind is ShiftKind.UNKNOWN and candidate.evidence is not Evidence.LABELS:
        return _Verdict(False, "There are too few rows to see a shift.")
    if context.shift.kind is ShiftKind.NONE:
        return _Verdict(False, "Nothing moved, so there is nothing to adapt to.")
    if candidate.evidence is Evidence.PRIOR:
        return _by_prior(candidate, context)
    if candidate.evidence is Evidence.LABELS:
        return _by_labels(candidate, context.source_only)
    if context.shift.kind is ShiftKind.LABEL:
        return _Verdict(False, "Only the classes' shares moved; aligning the features would mix classes.")
    return _by_validators(candidate, best, grounds, context)


def _by_prior(candidate: AdaptCandidate, context: _Context) -> _Verdict:
    if context.shift.kind is not ShiftKind.LABEL:
        return _Verdict(False, "The features moved, and not only the classes' shares.")
    if not candidate.outputs.finite:
        return _Verdict(False, "Its outputs are not numbers.")
    finding = guard(candidate.outputs, context.source_only.outputs)
    return _Verdict(True, "The classes' shares moved, and it corrects for that.", finding=finding)


def _by_labels(candidate: AdaptCandidate, source_only: AdaptCandidate) -> _Verdict:
    finding = guard(candidate.outputs, source_only.outputs)
    if candidate.labelled_rows < LEAST_LABELLED:
        few = f"{candidate.labelled_rows} labelled target rows are too few to settle it: {LEAST_LABELLED} would do."
        return _Verdict(False, few, finding=finding)
    if not finding.passed:
        return _Verdict(False, f"The guard refuses it: {'; '.join(finding.against)}.", finding=finding)
    return _Verdict(True, f"It was fitted on {candidate.labelled_rows} labelled target rows too.", finding=finding)


def _by_validators(candidate: AdaptCandidate, best: AdaptCandidate, grounds: Grounds, context: _Context) -> _Verdict:
    finding = guard(candidate.outputs, context.source_only.outputs)
    if not finding.passed:
        return _Verdict(False, f"The guard refuses it: {'; '.join(finding.against)}.", finding=finding)
    thin = grounds.against(aligned=candidate.aligned or candidate.name in corrections())
    if thin:
        return _Verdict(False, thin, finding=finding)
    known = validators()
    intervals = {
        name: paired_interval(known[name], candidate.outputs, best.outputs, seed=context.seed) for name in DECIDING
    }
    worse = [name for name, interval in intervals.items() if interval is None or interval.low <= 0]
    if worse:
        verb = "do" if len(worse) > 1 else "does"
        against = f"{' and '.join(worse)} {verb} not say that it is better than {best.name}."
        return _Verdict(False, against, intervals, finding)
    return _Verdict(True, f"{' and '.join(DECIDING)} say that it is better than {best.name}.", intervals, finding)
