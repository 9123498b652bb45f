"""Features of evaluation rows that a version keeps: those of its best checkpoint, small, and refused when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import regraft
from regraft.data.kept_features import FILE, KeptFeatures, chosen_rows, classes_of
from regraft.data.snapshot import open_snapshot
from regraft.errors import Damaged
from regraft.store.manifest import read_verified
from regraft.store.objects import open_store
from regraft.store.registry import Registry, Version
from regraft.teaching.head_reader import HeadReader
from support.tiny import document


def kept_by(store: str, name: str = "tiny") -> tuple[Version, KeptFeatures]:
    version = Registry(open_store(store)).version(name)
    data = read_verified(version.store, version.prefix, FILE, version.manifest)
    return version, KeptFeatures.load(data, len(version.meta["labels"]), str(version))


@pytest.mark.parametrize(
    "method", ["full", *(pytest.param(key, marks=pytest.mark.slow) for key in ("prototypes", "lora"))]
)
def test_a_version_keeps_what_its_head_reads_of_the_evaluation_rows(method: str, tmp_path: Path) -> None:
    written = document(tmp_path, method=method, rows=30, eval_rows=12, epochs=3, lr=3e-3)
    regraft.train(written, progress=lambda event: None)
    version, kept = kept_by(written["store"])
    rows = open_snapshot(version.store, version.meta["lineage"]["data"]["fingerprint"]).eval
    reader = HeadReader(regraft.load("tiny", store=written["store"]))
    wanted = reader.features(rows)
    torch.testing.assert_close(kept.features, wanted, rtol=2e-3, atol=2e-3 * float(wanted.abs().max()))
    assert kept.classes.tolist() == classes_of(rows, reader.predictor.labels).tolist()
    right = (reader.head().logits(kept.features).argmax(dim=1) == kept.classes).double().mean()
    assert float(right) == pytest.approx(version.meta["metrics"]["accuracy"])


def test_more_rows_than_are_kept_keep_the_shares_of_their_classes() -> None:
    classes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [6000, 3000, 1000]))
    found = chosen_rows(classes, 200)
    assert len(found) == len(set(found.tolist())) == 200 and bool((np.diff(found) > 0).all())
    assert np.bincount(classes[found]).tolist() == pytest.approx([120, 60, 20], abs=1)
    assert chosen_rows(classes[:50], 200).tolist() == list(range(50))


@pytest.mark.parametrize(("scale", "shift", "number"), [(1.0, 0.0, 2), (1e6, 0.0, 4), (1e-7, 0.0, 4), (1.0, 100.0, 4)])
def test_numbers_are_halves_where_rounding_does_not_matter(scale: float, shift: float, number: int) -> None:
    features = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)) * scale + shift
    stored = KeptFeatures(features, torch.arange(50) % 3).dump()
    assert len(stored) == pytest.approx(50 * 16 * number + 50 * 4, abs=300)
    found = KeptFeatures.load(stored, 3, "tiny@v1")
    assert float((found.features - features).norm()) <= float(features.norm()) / 1024
    assert found.classes.tolist() == (torch.arange(50) % 3).tolist()


WRONG = {
    "no safetensors": b"features",
    "a class that there is not": KeptFeatures(torch.zeros(2, 3), torch.tensor([0, 7])).dump(),
    "a negative class": KeptFeatures(torch.zeros(2, 3), torch.tensor([-1, 0])).dump(),
    "fewer classes than rows": KeptFeatures(torch.zeros(2, 3), torch.tensor([0])).dump(),
    "no number": KeptFeatures(torch.full((2, 3), torch.nan), torch.tensor([0, 1])).dump(),
}


@pytest.mark.parametrize("case", WRONG)
def test_damaged_features_are_refused_with_the_version(case: str) -> None:
    with pytest.raises(Damaged, match=FILE) as caught:
        KeptFeatures.load(WRONG[case], 3, "tiny@v1")
    assert caught.value.where == "tiny@v1"


def test_a_served_version_does_not_fetch_them(store: str, tmp_path: Path) -> None:
    model = regraft.load("tiny", store=store)
    assert not (model.fetched.folder / FILE).exists() and model.fetched.delta.exists()
