"""The choice: source-only where evidence is thin, never a collapsed candidate, and what is better where it is clear."""

from __future__ import annotations

import pytest
import torch

from regraft.adaptation.choice import AdaptCandidate, Evidence, choose
from regraft.adaptation.correction import outputs_of
from regraft.adaptation.guard import guard
from regraft.adaptation.members import corrections
from regraft.adaptation.shift import Shift, ShiftKind, diagnose
from regraft.adaptation.sides import LinearHead, Side
from regraft.adaptation.validator import Outputs
from regraft.errors import RequestError
from unit.adaptation.made_rows import HEAD, drawn

WIDE = LinearHead(3 * HEAD.weight, 9 * HEAD.bias)
"""The head of `clear` rows."""
MOVED = Shift(ShiftKind.COVARIATE, "The features moved.")


def clear(rows: int, seed: int, shares: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)) -> Side:
    """Rows of classes that hardly overlap."""
    side = drawn(rows, seed, shares, spread=0.35)
    return Side(3 * side.features, side.labels)


def moved(side: Side) -> Side:
    return Side(0.5 * side.features + 5 * torch.eye(6)[0], side.labels)


def candidates(source: Side, target: Side, *names: str) -> list[AdaptCandidate]:
    found = []
    for name in names:
        member = corrections()[name]
        evidence = Evidence.PRIOR if member.for_label_shift else Evidence.VALIDATORS
        found.append(AdaptCandidate(name, outputs_of(WIDE, source, target, member), evidence))
    return found


def collapsed(source: Side, target: Side) -> AdaptCandidate:
    logits = torch.zeros(target.rows, 3)
    logits[:, 0] = 30
    return AdaptCandidate(
        "collapsed", Outputs(source.features, WIDE.logits(source.features), source.labels, target.features, logits)
    )


def source_only(source: Side, target: Side, head: LinearHead = WIDE) -> AdaptCandidate:
    return AdaptCandidate("source-only", outputs_of(head, source, target))


def test_an_undone_change_of_features_is_chosen_beside_a_collapsed_candidate() -> None:
    source, target = clear(250, 1), moved(clear(250, 2))
    offered = [*candidates(source, target, "prior", "zscore"), collapsed(source, target)]
    choice = choose(offered, source_only(source, target), diagnose(source, target, WIDE))
    assert choice.name == "zscore" and choice.adapted
    assert [item.name for item in choice.judgements] == ["source-only", "prior", "zscore", "collapsed"]
    assert [item.name for item in choice.judgements if item.chosen] == ["zscore"]
    assert all(item.reason and set(item.scores) == {"im", "snd", "bnm", "dev"} for item in choice.judgements)


def test_where_nothing_moved_nothing_is_adapted() -> None:
    source, target = clear(300, 1), clear(300, 2)
    choice = choose(
        candidates(source, target, "zscore", "coral"), source_only(source, target), diagnose(source, target, WIDE)
    )
    assert choice.name == "source-only" and not choice.adapted and choice.reason.startswith("Do not adapt")


def test_moved_shares_are_corrected_and_features_left_alone() -> None:
    source, target = clear(300, 1), clear(300, 2, (0.9, 0.05, 0.05))
    shift = diagnose(source, target, WIDE)
    assert choose(candidates(source, target, "prior", "zscore"), source_only(source, target), shift).name == "prior"


def test_classes_that_overlap_on_the_source_leave_validators_without_a_say() -> None:
    source, target = drawn(300, 1, spread=1.5), drawn(300, 2, spread=1.5)
    usual = source_only(source, target, HEAD)
    sharper = Outputs(
        source.features, usual.outputs.source_logits, source.labels, target.features, 9 * usual.outputs.target_logits
    )
    choice = choose([AdaptCandidate("sharper", sharper)], usual, MOVED)
    assert not choice.adapted and "classes overlap" in choice.judgements[1].reason


@pytest.mark.parametrize("kind", list(ShiftKind))
def test_a_collapsed_candidate_is_never_chosen(kind: ShiftKind) -> None:
    source, target = clear(100, 1), moved(clear(100, 2))
    labelled = collapsed(source, target)
    labelled = AdaptCandidate("labelled", labelled.outputs, Evidence.LABELS, labelled_rows=32)
    choice = choose([collapsed(source, target), labelled], source_only(source, target), Shift(kind, "made."))
    assert choice.name == "source-only"


def test_a_candidate_with_outputs_that_are_no_numbers_is_never_chosen() -> None:
    source, target = clear(100, 1), moved(clear(100, 2))
    usual = source_only(source, target)
    broken = Outputs(
        source.features,
        usual.outputs.source_logits,
        source.labels,
        target.features,
        usual.outputs.target_logits * torch.nan,
    )
    choice = choose([AdaptCandidate("broken", broken)], usual, MOVED)
    assert not choice.adapted and choice.judgements[1].scores["im"] is None


def test_a_candidate_that_forgets_the_source_is_refused() -> None:
    source, target = clear(100, 1), clear(100, 2)
    usual = source_only(source, target).outputs
    wrong = Outputs(
        source.features, usual.source_logits.roll(1, 1), source.labels, target.features, usual.target_logits
    )
    assert "accuracy on source rows" in guard(wrong, usual).against[0]
    assert guard(usual, usual).passed


@pytest.mark.parametrize(("rows", "chosen"), [(8, "source-only"), (32, "with-rows")])
def test_labelled_target_rows_settle_it_if_there_are_enough(rows: int, chosen: str) -> None:
    source, target = drawn(200, 1), drawn(200, 2)
    usual = source_only(source, target, HEAD)
    offered = [AdaptCandidate("with-rows", usual.outputs, Evidence.LABELS, labelled_rows=rows)]
    assert choose(offered, usual, MOVED).name == chosen


def test_too_few_rows_to_see_a_shift_are_no_reason_against_labelled_rows() -> None:
    source, target = drawn(200, 1), drawn(200, 2)
    usual, few = source_only(source, target, HEAD), Shift(ShiftKind.UNKNOWN, "5 target rows are too few.")
    labelled = AdaptCandidate("with-rows", usual.outputs, Evidence.LABELS, labelled_rows=32)
    choice = choose([*candidates(source, target, "zscore"), labelled], usual, few)
    assert choice.name == "with-rows" and "too few rows" in choice.judgements[1].reason
    assert choose(candidates(source, target, "zscore"), usual, few).reason.startswith("Do not adapt. 5 target rows")


def test_the_probe_is_asked_whether_it_is_in_the_ladder_or_not() -> None:
    source, target = clear(250, 1), moved(clear(250, 2))
    usual, shift = source_only(source, target), diagnose(source, target, WIDE)
    (probe,) = candidates(source, target, "zscore")
    offered = candidates(source, target, "coral")
    alone, beside = choose(offered, usual, shift, probe=probe.outputs), choose([*offered, probe], usual, shift)
    assert alone.judgements[1].intervals == beside.judgements[1].intervals != {}


def test_one_name_is_one_candidate() -> None:
    source, target = drawn(50, 1), drawn(50, 2)
    usual = source_only(source, target, HEAD)
    with pytest.raises(RequestError, match="one name"):
        choose([usual], usual, MOVED)
