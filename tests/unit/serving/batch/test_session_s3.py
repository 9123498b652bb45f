"""Rows and outputs in S3 behave like those in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from regraft.errors import RequestError, StoreError
from regraft.serving.batch.session import BatchRequest, predict_here
from regraft.serving.predictor import Predictor
from regraft.store.objects import open_store
from support.image_bases import tiny_mobilenet
from unit.serving import tiny
from unit.store.conftest import moto_endpoint as moto_endpoint
from unit.store.conftest import moto_url as moto_url
from unit.store.conftest import small_server as small_server
from unit.store.conftest import small_url as small_url


def test_a_folder_of_images_is_answered_alike_in_s3_and_here(moto_url: str, store: Path, tmp_path: Path) -> None:
    tiny.publish(store, tiny_mobilenet(tmp_path / "base"), {"type": "image-classification"}, "full")
    (tmp_path / "photos").mkdir()
    bucket = open_store(f"{moto_url}/photos")
    for number in range(3):
        path = tmp_path / "photos" / f"{number}.png"
        Image.new("RGB", (32, 32), (60 * number, 90, 200 - 40 * number)).save(path)
        bucket.put(path.name, path)
    found = {}
    for place in (str(tmp_path), moto_url):
        out = str(tmp_path / f"{len(found)}.jsonl")
        predict_here(BatchRequest("tiny", f"{place}/photos", out, str(store), device="cpu"))
        found[place] = [json.loads(line) for line in Path(out).read_text().splitlines()]
    for place, lines in found.items():
        assert [line["image"] for line in lines] == [f"{place}/photos/{number}.png" for number in range(3)]
    here, there = ([line["answer"] for line in lines] for lines in found.values())
    assert here == there


def test_an_output_in_s3_appears_whole_and_an_unfinished_one_is_gone_on_with(
    small_url: str, store: Path, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.publish(store, bases["cls"], "text-classification", "full")
    bucket = open_store(small_url)
    bucket.put("in.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in tiny.TEXTS * 3).encode())
    requests = [
        BatchRequest("tiny", f"{small_url}/in.jsonl", f"{place}/out.{form}", str(store), block_rows=4, device="cpu")
        for form in ("jsonl", "parquet")
        for place in (small_url, tmp_path)
    ]
    answered: list[int] = []
    attempt = Predictor.attempt

    def failing(self: Predictor, rows: Any) -> Any:
        answered.append(len(rows))
        if len(answered) == 2:
            raise StoreError("the disk is full", "here")
        return attempt(self, rows)

    monkeypatch.setattr(Predictor, "attempt", failing)
    with pytest.raises(StoreError):
        predict_here(requests[0])
    assert not bucket.exists("out.jsonl")
    for request in requests:
        assert predict_here(request).rows == 12
    assert sum(answered[:4]) == 4 * 4, "of three blocks one failed once, and none was answered twice"
    assert sorted(stat.key for stat in bucket.list()) == ["in.jsonl", "out.jsonl", "out.parquet"]
    for name in ("out.jsonl", "out.parquet"):
        assert bucket.get(name) == (tmp_path / name).read_bytes()
    with pytest.raises(RequestError, match="exists already"):
        predict_here(requests[0])
