"""Labelled rows of another domain: trained on beside the training rows, each as ten of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regraft.data.snapshot import Snapshot, build_snapshot
from regraft.errors import DataError
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from support.tiny import document, tickets


def spec_in(folder: Path, **data: Any) -> RunSpec:
    written = document(folder, rows=30, eval_rows=9)
    return RunSpec.resolve({**written, "data": {**written["data"], **data}})


def snapshot_of(spec: RunSpec) -> Snapshot:
    store = open_store(spec.store)
    store.begin()
    store.create()
    return build_snapshot(store, spec.task, spec.data)


def test_each_labelled_row_of_the_target_counts_as_ten_training_rows(tmp_path: Path) -> None:
    target = tickets(tmp_path / "few.csv", 3, seed=9)
    found = snapshot_of(spec_in(tmp_path, target_labels=str(target)))
    assert found.counts == {"train": 60, "eval": 9}
    assert len({found.train.row(index)["text"] for index in range(30, 60)}) == 3
    assert found.fingerprint != snapshot_of(spec_in(tmp_path)).fingerprint


def test_rows_of_a_share_stay_on_their_sides(tmp_path: Path) -> None:
    target = tickets(tmp_path / "few.csv", 3, seed=9)
    plain, more = (snapshot_of(spec_in(tmp_path, eval=0.2, **data)) for data in ({}, {"target_labels": str(target)}))
    assert more.counts == {"train": plain.counts["train"] + 30, "eval": plain.counts["eval"]}


def test_a_label_that_the_source_has_not_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("text,label\nlamp is off,light\nwhere is it,place\n")
    with pytest.raises(DataError, match=r"'place' of data\.target_labels is in no row of data\.train") as raised:
        snapshot_of(spec_in(tmp_path, target_labels=str(tmp_path / "few.csv")))
    assert raised.value.where.endswith("few.csv:3")


def test_a_spec_without_the_key_is_stored_and_named_as_before(tmp_path: Path) -> None:
    plain = spec_in(tmp_path)
    assert "target_labels" not in plain.dump()
    more = plain.override({"data.target_labels": "few.csv"})
    assert more.run != plain.run
    assert more.data.target_labels == str(Path.cwd() / "few.csv")
