"""Values that the store holds are checked when a run begins: a wrong hit is worse than a miss."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regraft.contracts import Event, Note, TrunkProgress
from regraft.spec.run import RunSpec
from regraft.store import manifest
from regraft.store.manifest import MANIFEST, Manifest
from regraft.store.objects import ObjectStore, open_store
from regraft.store.registry import Registry
from regraft.training.session import train_local
from regraft.trunk.feature_store import DISTRUSTED, FORMAT, HASH, VERIFIED, Features, ShardWriter
from regraft.trunk.hit_check import deviation, sample_size
from support.image_bases import coloured_document
from support.processes import in_child, on_ranks
from support.tiny import document

Change = Callable[[int, torch.Tensor], torch.Tensor]


def spec_in(folder: Path, **compute: Any) -> dict[str, Any]:
    written = document(folder, method={"type": "freeze", "depth": 1}, optimizer="sgd", lr=0.05, epochs=2)
    return written | {"compute": {"workers": 0, "cpus": 1, "trunk": "disk"} | compute}


def delta_of(written: dict[str, Any]) -> str:
    found = Registry(open_store(written["store"])).version(written["name"], "latest").meta["delta_sha256"]
    return str(found)


def trained(written: dict[str, Any], **more: Any) -> tuple[str, str, int]:
    """Train under another name; return the delta's hash, the notes, and how many rows were computed."""
    events: list[Event] = []
    written = {**written, **more}
    train_local(RunSpec.resolve(written), progress=events.append)
    computed = max((event.total for event in events if isinstance(event, TrunkProgress)), default=0)
    return delta_of(written), "\n".join(e.message for e in events if isinstance(e, Note)), computed


def poisoned(monkeypatch: pytest.MonkeyPatch, written: dict[str, Any], change: Change) -> str:
    """Train a run that stores other values than its model computes; return its name."""
    add, count = ShardWriter.add, [0]

    def adding(self: ShardWriter, row: bytes, values: torch.Tensor) -> None:
        add(self, row, change(count[0], values))
        count[0] += 1

    with monkeypatch.context() as patched:
        patched.setattr(ShardWriter, "add", adding)
        spec = RunSpec.resolve({**written, "name": "victim"})
        train_local(spec)
    return spec.run


def shards(store: ObjectStore) -> dict[str, Manifest]:
    keys = [stat.key for stat in store.list("features/") if stat.key.endswith(f"/{MANIFEST}")]
    return {key.removesuffix(f"/{MANIFEST}"): manifest.load(store, key.removesuffix(f"/{MANIFEST}")) for key in keys}


def test_a_poisoned_store_gives_the_model_of_a_clean_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = spec_in(tmp_path)
    clean, _, _ = trained({**written, "store": str(tmp_path / "clean")})
    victim = poisoned(monkeypatch, written, lambda number, values: values + 1)
    [bad] = shards(open_store(written["store"]))
    after, notes, computed = trained(written, name="next")
    assert (after, computed) == (clean, 90)
    assert bad in notes and victim in notes and "from those that this model computes" in notes
    assert "regraft gc --verify" in notes
    assert open_store(written["store"]).exists(f"{bad}/{DISTRUSTED}")
    again, notes, computed = trained(written, name="after")
    assert (again, computed) == (clean, 0) and "set aside" not in notes, "it is not read again"


def one_in(every: int) -> Change:
    return lambda number, values: values + 1 if number % every == every // 2 else values


def test_one_wrong_row_is_found_by_all_and_left_by_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = spec_in(tmp_path)
    clean, _, _ = trained({**written, "store": str(tmp_path / "clean")})
    poisoned(monkeypatch, written, one_in(90))
    shutil.copytree(written["store"], tmp_path / "copy")
    trusting, notes, computed = trained(written | {"compute": written["compute"] | {"trunk_check": "off"}}, name="off")
    assert (computed, "set aside" in notes) == (0, False) and trusting != clean
    written["store"] = str(tmp_path / "copy")
    right, notes, computed = trained(written | {"compute": written["compute"] | {"trunk_check": "all"}}, name="all")
    assert right == clean and computed == 90 and "set aside" in notes


def test_all_shards_of_a_run_with_a_wrong_one_are_set_aside(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    keys = np.array([bytes([number + 1]) * HASH for number in range(4)], f"S{HASH}")
    for number, run in enumerate(("bad", "bad", "good", "")):
        with Features(store, "a" * 32, facts={"run": run}).writer(tmp_path) as writer:
            writer.add(bytes(keys[number]), torch.full((2,), float(number)))
    found = Features(store, "a" * 32)
    assert len(found.shards_of("bad")) == 2 and len(found.shards_of("good")) == 1
    found.distrust(found.shards_of("bad"), "it is wrong")
    found.refresh()
    assert [bool(place[0] >= 0) for place in found.find(keys)] == [False, False, True, True]


def test_a_shard_says_which_run_wrote_it(tmp_path: Path) -> None:
    written = spec_in(tmp_path)
    train_local(RunSpec.resolve(written))
    [found] = shards(open_store(written["store"])).values()
    assert found.meta["run"] == RunSpec.resolve(written).run and found.meta["format"] == VERIFIED


def as_first_edition(store: ObjectStore) -> None:
    """Write the shards' manifests as 0.1.0 did."""
    for prefix, found in shards(store).items():
        meta = {"format": FORMAT, "rows": found.meta["rows"], "bytes": found.meta["bytes"]}
        old = Manifest(found.kind, found.id, found.files, meta)
        store.put(f"{prefix}/{MANIFEST}", old.to_json())


def test_texts_that_the_first_edition_kept_are_read(tmp_path: Path) -> None:
    written = spec_in(tmp_path)
    first, _, _ = trained(written)
    as_first_edition(open_store(written["store"]))
    after, notes, computed = trained(written, name="next")
    assert (after, computed) == (first, 0) and "earlier edition" not in notes


def test_files_that_the_first_edition_kept_are_computed_again_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = coloured_document(tmp_path, each={"train": 8, "eval": 3}, epochs=2, batch_size=8)
    written["compute"] |= {"trunk": "disk", "trunk_check": "off"}
    clean, _, _ = trained(written, store=str(tmp_path / "clean"))
    poisoned(monkeypatch, written, one_in(33))
    as_first_edition(open_store(written["store"]))
    after, notes, computed = trained(written, name="next")
    assert after == clean and computed == 33
    assert "that an earlier edition kept are computed again" in notes
    assert trained(written, name="third")[2] == 0


def test_the_key_is_left_out_of_stored_specs_at_its_default(tmp_path: Path) -> None:
    plain = RunSpec.resolve(document(tmp_path))
    assert "trunk_check" not in plain.dump()
    other = RunSpec.resolve(document(tmp_path) | {"compute": {"workers": 0, "trunk_check": 100}})
    assert "trunk_check: 100" in other.dump() and other.run == plain.run


@pytest.mark.parametrize(
    ("hits", "amount", "wanted"),
    [
        (0, "auto", 0),
        (20, "auto", 20),
        (1000, "auto", 32),
        (20_000, "auto", 100),
        (10**6, "auto", 512),
        (50, "all", 50),
        (50, "off", 0),
        (50, 7, 7),
        (50, 70, 50),
    ],
)
def test_how_many_are_checked(hits: int, amount: Any, wanted: int) -> None:
    assert sample_size(hits, amount) == wanted


def test_a_deviation_is_seen_through_values_that_are_not_finite() -> None:
    inf, nan = float("inf"), float("nan")
    mask = torch.tensor([-inf, 1.0, nan])
    assert deviation(mask, mask.clone()) == 0
    assert deviation(torch.tensor([-inf, 1.5, nan]), mask) == 0.5
    for wrong in ([0.0, 1.0, nan], [-inf, nan, nan], [-inf, 1.0, 0.0], [inf, 1.0, nan]):
        assert deviation(torch.tensor(wrong), mask) == inf
    assert deviation(torch.zeros(2), torch.zeros(3)) == inf
    assert deviation(torch.zeros(0), torch.zeros(0)) == 0


@pytest.mark.slow
def test_ranks_share_the_check_and_agree_on_what_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = spec_in(tmp_path, trunk_check="all")
    clean = {**written, "store": str(tmp_path / "clean")}
    assert in_child(on_ranks, 2, clean, str(tmp_path / "counts")) == 0
    poisoned(monkeypatch, written, one_in(90))
    assert in_child(on_ranks, 2, written, str(tmp_path / "counts")) == 0
    assert json.dumps(delta_of(written)) == json.dumps(delta_of(clean))
