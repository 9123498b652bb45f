"""A picture of each format, whole and cut, is answered or refused by name, in a request and in training."""

from __future__ import annotations

import base64
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
        assert (reply.status, b"of a known format; allowed are PNG" in reply.body) == (422, True)
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


@pytest.mark.slow
def test_training_reads_or_counts_each_picture(photos: Path, tmp_path: Path) -> None:
    spec: dict[str, Any] = {
        "name": "photos",
        "base": str(tiny_resnet(tmp_path / "base")),
        "task": TASK,
        "method": "feature-extraction",
        "data": {"train": str(photos), "eval": 0.3, "bad_rows": "fail"},
        "training": {"epochs": 1, "batch_size": 8, "baselines": False},
        "compute": {"workers": 0, "cpus": 1, "trunk": "off"},
        "store": str(tmp_path / "store"),
    }
    with pytest.raises(DataError, match="cut"):
        regraft.train(spec)
    spec["data"]["bad_rows"] = "skip"
    outcome = regraft.train(spec)
    known = Runs(open_store(spec["store"])).find(outcome.run)
    assert known is not None
    files = sum(file.is_file() for file in photos.rglob("*"))
    skipped = known["skipped"]
    assert sum(known["rows"].values()) + skipped["train"] + skipped["eval"] == files
    assert sum(known["rows"].values()) >= len(KINDS)
