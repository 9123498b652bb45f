"""Images in S3 are answered where they are, as the same images in a folder."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from pictures import tiny_mobilenet
from regraft.serving.bulk import Request, predict_here
from regraft.store.objects import open_store
from unit.serving import tiny
from unit.store.conftest import moto_endpoint as moto_endpoint
from unit.store.conftest import moto_url as moto_url


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
        predict_here(Request("tiny", f"{place}/photos", out, str(store), device="cpu"))
        found[place] = [json.loads(line) for line in Path(out).read_text().splitlines()]
    for place, lines in found.items():
        assert [line["image"] for line in lines] == [f"{place}/photos/{number}.png" for number in range(3)]
    here, there = ([line["answer"] for line in lines] for lines in found.values())
    assert here == there
