"""The choice among bases: order, ties, words, what is sampled, and what is refused before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regraft.contracts import Task
from regraft.data.rows import Rows, RowWriter
from regraft.errors import RequestError
from regraft.selection.choice import BY_ROW, RANKED, BaseScores, DepthScores, ahead, chosen_probe, proposed_depth, rank
from regraft.selection.page import large, short_names
from regraft.selection.pooling import pooled
from regraft.selection.references import compared_bases, written_bases
from regraft.selection.sampled_rows import sampled
from regraft.selection.score import FeatureTarget, Scored, TargetKind
from regraft.selection.words import headline
from regraft.spec.run import RunSpec
from regraft.trunk.boundary import Boundary
from regraft.trunk.shapes import ROWS, Dim
from support.tiny import document


def at_depth(depth: int, right: float, *, logme: float = 0.0, rows: int = 200) -> DepthScores:
    """Scores of features with which this share of the rows is right."""
    by_row = (np.arange(rows) % 100 < 100 * right).astype(float)
    scores = {name: Scored.of_rows(by_row) for name in RANKED[:2]} | {RANKED[2]: Scored(logme)}
    return DepthScores(f"depth {depth} of 3", depth, scores)


def base(name: str, *rights: float, cost: float = 1.0, logme: float = 0.0) -> BaseScores:
    depths = [at_depth(number, right, logme=logme) for number, right in enumerate(rights, 1)]
    return BaseScores(name, depths, operations=cost, parameters=1)


def test_the_first_base_has_the_least_mean_rank_and_others_are_tied_or_behind() -> None:
    ranking = rank([base("c", 0.3, 0.4, logme=-2), base("a", 0.5, 0.91, logme=-1), base("b", 0.9, 0.2, logme=-1.5)])
    assert [one.base.reference for one in ranking] == ["a", "b", "c"]
    assert [one.tied for one in ranking] == [True, True, False]
    assert ranking[0].behind is None and ranking[2].behind is not None
    assert ranking[2].behind.low > 0


def test_a_base_that_is_ahead_by_rows_alone_is_not_called_tied() -> None:
    bases = [
        BaseScores(name, [at_depth(1, right, logme=logme)], operations=1.0, parameters=1)
        for name, right, logme in (("a", 0.6, 2.0), ("b", 0.5, 1.0), ("c", 0.65, 0.0))
    ]
    # c is best by k-NN and probe, but last by LogME; with a's k-NN of the same value as c's, a is first by mean rank.
    bases[0].depths[0] = DepthScores(
        "depth 1 of 3", 1, {**bases[0].depths[0].scores, "knn": bases[2].depths[0].scores["knn"]}
    )
    ranking = rank(bases)
    assert [one.base.reference for one in ranking] == ["a", "c", "b"]
    first, leading, behind = ranking
    assert first.tied and not first.leads and leading.leads and not leading.tied
    assert not behind.tied and not behind.leads
    assert "a; c is ahead by rows (0.0" in headline(ranking) and ") and behind by rank" in headline(ranking)
    assert "within noise" not in headline(ranking)


def test_noise_beats_no_control_more_often_than_its_interval_says() -> None:
    draw = np.random.default_rng(0)
    target = FeatureTarget(TargetKind.CLASSES, np.arange(100) % 2)
    beaten, naive, cases = 0, 0, 60
    for _ in range(cases):
        bases = []
        for name in "abcd":
            rows = (draw.random((6, 100)) < 0.5).astype(float)
            depths = [
                DepthScores(str(at), at, dict.fromkeys(BY_ROW, Scored.of_rows(one))) for at, one in enumerate(rows)
            ]
            bases.append(BaseScores(name, depths, operations=1.0, parameters=1))
        control = Scored.of_rows((draw.random(100) < 0.5).astype(float))
        best = max((one.judged() for base in bases for one in base.depths), key=lambda one: one.value)
        beaten += ahead(chosen_probe(bases, target), control).low > 0
        naive += ahead(best, control).low > 0
    assert naive > 0.2 * cases and beaten <= 0.1 * cases


def test_each_score_counts_at_the_best_depth_of_a_base() -> None:
    ranking = rank([base("deep", 0.2, 0.2, 0.8), base("flat", 0.7, 0.7, 0.7)])
    assert ranking[0].base.reference == "deep"


def test_of_equal_bases_the_cheaper_comes_first() -> None:
    ranking = rank([base("dear", 0.9, cost=4.0), base("cheap", 0.9, cost=1.0)])
    assert [one.base.reference for one in ranking] == ["cheap", "dear"]
    assert headline(ranking) == "cheap; dear is within noise and four times dearer"


def test_the_verdict_names_ties_from_the_cheapest_and_says_how_much_cheaper() -> None:
    ranking = rank(
        [
            base("a", 0.91, cost=4.0, logme=3),
            base("b", 0.9, cost=1.0, logme=2),
            base("c", 0.9, cost=1.6, logme=1),
            base("d", 0.2, cost=0.1),
        ]
    )
    assert headline(ranking) == "a; b is within noise and four times cheaper; c is within noise and 2.5 times cheaper"
    assert headline(ranking[:1]) == "a, the only one"
    assert headline([ranking[0], ranking[-1]]) == "a; the others are behind beyond noise"


def test_the_depth_is_the_deepest_within_noise_of_the_best() -> None:
    assert proposed_depth(base("a", 0.5, 0.9, 0.9)).depth == 3
    assert proposed_depth(base("a", 0.5, 0.9, 0.6)).depth == 2
    assert proposed_depth(base("a", 0.9, 0.5, 0.6)).depth == 1


def rows_in(folder: Path, labels: list[str]) -> Rows:
    columns = {"text": "text", "label": "label"}
    with RowWriter(folder / "rows.arrow", columns) as writer:
        for number, label in enumerate(labels):
            writer.add({"text": f"text {number}", "label": label}, 1)
    return Rows(folder / "rows.arrow", columns)


def test_a_sample_keeps_the_shares_of_classes_and_two_rows_of_a_rare_one(tmp_path: Path) -> None:
    train = rows_in(tmp_path, ["often"] * 900 + ["seldom"] * 97 + ["rare"] * 3)
    task: Any = Task.lookup(next(name for name in Task.names() if "prototypes" in Task.lookup(name).supports))()
    chosen = sampled(task, train, 100, 0)
    labels = [train.stored(int(index))["label"] for index in chosen]
    assert len(set(chosen.tolist())) == 100 and sorted(chosen) == chosen.tolist()
    assert 85 <= labels.count("often") <= 91 and 9 <= labels.count("seldom") <= 13 and labels.count("rare") >= 2
    assert (chosen == sampled(task, train, 100, 0)).all()
    assert sampled(task, train, 5000, 0).tolist() == list(range(1000))


def boundary(*dims: Dim) -> Boundary:
    return Boundary("layer", 0, "kept", dims=(Dim(ROWS, 1), *dims))


@pytest.mark.parametrize(
    ("shape", "axes", "dims"),
    [
        ((5, 3), 0, (Dim("input_ids.1", 1), Dim(None, 3))),
        ((3, 5), 1, (Dim(None, 3), Dim("input_ids.1", 1))),
        ((5, 3), 0, (Dim(None, 5), Dim(None, 3))),
        ((3, 4, 5), (1, 2), (Dim(None, 3), Dim(None, 4), Dim(None, 5))),
        ((3,), (), (Dim(None, 3),)),
    ],
)
def test_a_value_is_pooled_over_its_positions(shape: tuple[int, ...], axes: Any, dims: tuple[Dim, ...]) -> None:
    value = torch.randn(shape)
    expected = value if axes == () else value.mean(axes)
    assert torch.allclose(pooled(value, boundary(*dims)), expected)


def test_bases_are_read_from_commas_or_from_a_file(tmp_path: Path) -> None:
    assert written_bases("a, org/b@main,,c") == ("a", "org/b@main", "c")
    (tmp_path / "bases.txt").write_text("# the small ones\na\n\n  org/b  \n")
    assert written_bases(str(tmp_path / "bases.txt")) == ("a", "org/b")


def test_no_base_and_random_weights_are_refused(tmp_path: Path) -> None:
    spec = RunSpec.resolve({**document(tmp_path), "base": "org/some"})
    with pytest.raises(RequestError, match=r"no base is named.*search\.space\.base"):
        compared_bases(spec, None)
    with pytest.raises(RequestError, match="random weights of the first choice"):
        compared_bases(spec, ["org/a", "random:0:org/a"])
    assert compared_bases(spec, ["org/a", "org/b", "org/a"]) == ("org/a", "org/b")
    searched = RunSpec.resolve({**spec.model_dump(mode="json"), "search": {"space": {"base": ["org/a", "org/b"]}}})
    assert compared_bases(searched, None) == ("org/a", "org/b")


def test_names_on_the_page_are_as_short_as_they_differ() -> None:
    assert short_names(["/x/a/model", "/x/b/model"]) == {"/x/a/model": "a/model", "/x/b/model": "b/model"}
    assert short_names(["org/a", "org/b"]) == {"org/a": "a", "org/b": "b"}
    assert (large(22_568_456), large(999.0)) == ("22.6 M", "999")
