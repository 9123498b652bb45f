"""A picture of each format, whole and cut, is answered or refused by name: trained on, predicted, evaluated, served."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.errors import DataError
from regraft.media.pixels.images import REQUEST_FORMATS
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from support.image_bases import tiny_resnet
from unit.data.test_file_kinds import PALE, READ, picture
from unit.endpoint.model_store import Endpoint, ModelStore

KINDS = {**{suffix: (kind, "RGB") for suffix, kind in READ.items()}, **PALE}
TASK = "image-classification"


@pytest.fixture(scope="module")
def asked(model_store: ModelStore, endpoint: Endpoint) -> Endpoint:
    return model_store.serve([TASK], endpoint)


def content(suffix: str, number: int, *, cut: bool) -> bytes:
    kind, mode = KINDS[suffix]
    whole = picture(kind, number, mode)
    return whole[: len(whole) // 2] if cut else whole


@pytest.mark.slow
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("suffix", sorted(KINDS))
def test_an_endpoint_answers_a_picture_or_names_it(suffix: str, cut: bool, asked: Endpoint) -> None:
    body = {"inputs": base64.b64encode(content(suffix, 1, cut=cut)).decode()}
    reply = asked.ask(f"/models/{TASK}", body)
    if KINDS[suffix][0] not in REQUEST_FORMATS:  # a sender may use fewer formats than the owner of the data
        assert (reply.status, b"allowed are PNG" in reply.body) == (422, True)
        assert cut or KINDS[suffix][0].encode() in reply.body or b"known format" in reply.body
    else:
        assert reply.status in ((200, 422) if cut else (200,)), reply.body
    assert b"Traceback" not in reply.body
    assert (
        asked.ask(f"/models/{TASK}", {"inputs": base64.b64encode(content("png", 2, cut=False)).decode()}).status == 200
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes with a whole and a cut picture of each format."""
    folder = tmp_path_factory.mktemp("photos")
    for label in ("many", "other"):
        (folder / label).mkdir()
    for number, suffix in enumerate(sorted(KINDS)):
        label = ("many", "other")[number % 2]
        for cut in (False, True):
            (folder / label / f"{number}-{'cut' if cut else 'whole'}.{suffix}").write_bytes(
                content(suffix, 2 * number + cut, cut=cut)
            )
    return folder


@dataclass(frozen=True)
class Registered:
    """A model that was trained on the pictures, and what its run passed over."""

    store: str
    known: dict[str, Any]


@pytest.fixture(scope="module")
def registered(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Registered:
    """A model of the pictures that can be read; with `fail` the others are named and nothing is trained."""
    folder = tmp_path_factory.mktemp("run")
    spec: dict[str, Any] = {
        "name": "photos",
        "base": str(tiny_resnet(folder / "base")),
        "task": TASK,
        "method": "feature-extraction",
        "data": {"train": str(photos), "eval": 0.3, "bad_rows": "fail"},
        "training": {"epochs": 1, "batch_size": 8, "baselines": False},
        "compute": {"workers": 0, "cpus": 1, "trunk": "off"},
        "store": str(folder / "store"),
    }
    with pytest.raises(DataError, match="cut"):
        regraft.train(spec)
    spec["data"]["bad_rows"] = "skip"
    outcome = regraft.train(spec)
    known = Runs(open_store(spec["store"])).find(outcome.run)
    assert known is not None
    return Registered(spec["store"], known)


def files_in(photos: Path) -> dict[str, Path]:
    return {file.name: file for file in photos.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_training_reads_or_counts_each_picture(photos: Path, registered: Registered) -> None:
    known = registered.known
    skipped = known["skipped"]
    assert sum(known["rows"].values()) + skipped["train"] + skipped["eval"] == len(files_in(photos))
    assert sum(known["rows"].values()) >= len(KINDS)
    assert not any("whole" in line for line in skipped["rows"])


@pytest.mark.slow
def test_predict_answers_or_names_each_picture(photos: Path, registered: Registered, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    where: dict[str, Any] = {"store": registered.store, "workers": 0}
    with pytest.raises(DataError, match=r"(?s)cannot be answered.*cut") as caught:
        regraft.predict("photos", str(photos), out, **where)
    assert not out.exists()
    regraft.predict("photos", str(photos), out, bad_rows="skip", **where)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    files = files_in(photos)
    assert sorted(Path(line["image"]).name for line in lines) == sorted(files), "each once"
    failed = [Path(line["image"]).name for line in lines if line.get("error")]
    assert not any("whole" in name for name in failed)
    assert all("label" in line["answer"] for line in lines if not line.get("error"))
    assert str(len(failed)) in str(caught.value)
    model = regraft.load("photos", store=registered.store)
    for name in sorted(files):
        if name not in failed:
            assert model.predict(files[name].read_bytes())[0]["label"] in model.labels, name


@pytest.mark.slow
def test_evaluate_measures_or_names_each_picture(photos: Path, registered: Registered, tmp_path: Path) -> None:
    where: dict[str, Any] = {"store": registered.store, "resamples": 0, "worst": 2}
    with pytest.raises(DataError, match="cut"):
        regraft.evaluate("photos", photos, tmp_path / "failed", **where)
    found = regraft.evaluate("photos", photos, tmp_path / "out", bad_rows="skip", **where)
    document = json.loads(found.json.read_text())
    skipped = document["data"]["skipped"]
    assert document["data"]["rows"] + skipped["count"] == len(files_in(photos))
    assert document["data"]["rows"] == sum(registered.known["rows"].values())
    assert not any("whole" in line for line in skipped["rows"])
