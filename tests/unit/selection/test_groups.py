"""Rows that belong together: known from the snapshot, judged by no row of their group, drawn together."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import regraft
from regraft.data.snapshot import Snapshot, build_snapshot
from regraft.selection.choice import BY_ROW, RANKED, BaseScores, DepthScores, ahead, chosen_probe, deciding, score_depth
from regraft.selection.score import FeatureTarget, Scored, TargetKind
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from support.tiny import TOPICS, WORDS, document, tiny_bert

PERSONS, EACH = 30, 4


def rows_of_persons(folder: Path, sure: bool = False) -> dict[str, Any]:
    """A spec of persons with four nearly equal rows each; their labels have nothing to do with what they wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(3)
    with (folder / "train.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "label", "person"])
        for number in range(PERSONS):
            said, label = draw.choices(WORDS, k=12), draw.choice(sorted(TOPICS)[:2])
            for _ in range(EACH):
                out.writerow([" ".join([*said, draw.choice(WORDS)]), label, f"p{number}"])
    written = document(folder, method="feature-extraction")
    data = {"train": str(folder / "train.csv"), "eval": 0.2, **({} if sure else {"group": "person"})}
    return {**written, "data": data}


def snapshot_of(written: dict[str, Any]) -> Snapshot:
    spec = RunSpec.resolve(written)
    store = open_store(spec.store)
    store.begin()
    return build_snapshot(store, spec.task, spec.data)


def test_a_snapshot_that_was_just_read_knows_which_rows_belong_together(tmp_path: Path) -> None:
    written = rows_of_persons(tmp_path)
    found = snapshot_of(written)
    assert found.groups is not None and len(found.groups) == len(found.train)
    said = [" ".join(found.train.stored(row)["text"].split()[:12]) for row in range(len(found.train))]
    assert len(set(zip(said, found.groups.tolist(), strict=True))) == len(set(said)) == len(set(found.groups.tolist()))
    again = snapshot_of(written)  # the same store has the snapshot now
    assert again.groups is not None and (again.groups == found.groups).all()
    plain = snapshot_of(rows_of_persons(tmp_path / "plain", sure=True))
    assert plain.groups is None


def test_rows_are_judged_by_no_row_of_their_group() -> None:
    draw = np.random.default_rng(0)
    persons = np.repeat(np.arange(40), 4)
    features = draw.normal(size=(40, 16))[persons] + 0.01 * draw.normal(size=(160, 16))
    labels = draw.integers(0, 2, 40)[persons]
    apart = FeatureTarget(TargetKind.CLASSES, labels)
    together = FeatureTarget(TargetKind.CLASSES, labels, persons)
    assert deciding(apart) == RANKED and deciding(together) == BY_ROW
    for name, found in score_depth(features, together, deciding(together)).items():
        assert found.value < 0.7 < score_depth(features, apart, [name])[name].value


def test_groups_are_drawn_together_in_every_interval() -> None:
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(25), 8)
    one, other = (np.repeat(draw.random(25) < 0.6, 8).astype(float) for _ in range(2))
    wide = ahead(Scored.of_rows(one), Scored.of_rows(other), groups=groups)
    narrow = ahead(Scored.of_rows(one), Scored.of_rows(other))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    depths = [DepthScores("depth 1 of 1", 1, {name: Scored.of_rows(one) for name in BY_ROW})]
    base = BaseScores("a", depths, operations=1.0, parameters=1, groups=groups)
    target = FeatureTarget(TargetKind.CLASSES, one.astype(int), groups)
    assert chosen_probe([base], target).value == one.mean()


@pytest.mark.slow
def test_a_selection_keeps_groups_together(tmp_path: Path) -> None:
    written = rows_of_persons(tmp_path)
    base = str(tiny_bert(tmp_path / "one", layers=1, seed=1))
    outcome = regraft.select(written, [base], progress=lambda event: None)
    assert max(outcome.bases[0]["scores"][name] for name in BY_ROW) < 0.75
    assert outcome.warning and "most frequent answer" in outcome.warning
    assert "logme" in outcome.bases[0]["scores"] and "logme" not in outcome.bases[0]["depths"][0]
