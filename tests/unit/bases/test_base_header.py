"""The header of a base is read by ranges: its weights stay where they are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from regraft.bases.base_header import read_header
from regraft.bases.locate import locate
from regraft.errors import BaseError
from regraft.store.s3 import S3Store
from support.tiny import tiny_bert
from unit.bases.test_locate_s3 import URL, Bucket, bucket, endpoint

__all__ = ["bucket", "endpoint"]


def test_a_folder_and_a_hub_id_in_the_mirror_have_the_same_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_bert(tmp_path / "mirror" / "acme" / "tiny")
    monkeypatch.setenv("REGRAFT_HUB_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    one, other = read_header(str(folder), tmp_path / "a"), read_header("acme/tiny", tmp_path / "b")
    assert one.shapes == other.shapes and one.bytes == other.bytes == 4 * one.numbers
    assert one.shapes["embeddings.word_embeddings.weight"][1] == 32
    assert not (tmp_path / "cache").exists()  # no private copy


def test_of_a_base_in_s3_the_headers_alone_are_fetched(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges: list[tuple[str, int]] = []
    start = S3Store.read_start

    def counted(store: S3Store, key: str, size: int) -> Any:
        ranges.append((key, size))
        return start(store, key, size)

    fetched: list[str] = []
    fetch = S3Store.fetch
    monkeypatch.setattr(S3Store, "read_start", counted)
    monkeypatch.setattr(S3Store, "fetch", lambda store, key, path: (fetched.append(key), fetch(store, key, path)))
    found = read_header(URL, tmp_path / "fetched")
    assert found.shapes == read_header(str(bucket.folder), tmp_path / "other").shapes
    assert {key for key, _ in ranges} == {"model.safetensors"} and not [key for key in fetched if "safetensors" in key]
    assert sum(size for _, size in ranges) < (bucket.folder / "model.safetensors").stat().st_size / 2
    assert (found.folder / "config.json").is_file()
    with pytest.raises(BaseError, match="nothing is stored under s3://bases/other"):
        read_header("s3://bases/other", tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x05", "is no safetensors file"),
        (b"\xff" * 16, "is no safetensors file"),
        (b"\x04\0\0\0\0\0\0\0nope", "not readable"),
        (b"\x02\0\0\0\0\0\0\0{}", "no \\*.safetensors with tensors"),
        (b'\x2c\0\0\0\0\0\0\0{"a": {"dtype": "F32", "shape": [-1, true]}}', "not readable"),
    ],
)
def test_a_header_that_lies_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "base")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(BaseError, match=message):
        read_header(str(folder), tmp_path / "scratch")


def test_code_beside_weights_is_refused(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "base")
    shutil.copyfile(__file__, folder / "modeling.py")
    with pytest.raises(BaseError, match="is code"):
        read_header(str(folder), tmp_path / "scratch")
    (folder / "modeling.py").unlink()
    assert locate(str(folder)).path
