"""A base in S3 is downloaded once, completely, and only if it is safe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from regraft.bases.locate import locate
from regraft.errors import BaseError
from support.local_s3 import local_server
from unit.bases.families import save

URL = "s3://bases/tiny/v1"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Bucket:
    """Return the base's folder in S3 and the local folder that it was copied from."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        self.folder = folder

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket="bases", Key=f"tiny/v1/{name}", Body=content)


@pytest.fixture
def bucket(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    local_server(monkeypatch, endpoint)
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    made = Bucket(endpoint, save("bert", tmp_path / "base"))
    made.client.create_bucket(Bucket="bases")
    for path in made.folder.iterdir():
        made.put(path.name, path.read_bytes())
    yield made
    for item in made.client.list_objects_v2(Bucket="bases")["Contents"]:
        made.client.delete_object(Bucket="bases", Key=item["Key"])
    made.client.delete_bucket(Bucket="bases")


def test_a_base_in_s3_is_the_same_base(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("1_Pooling/config.json", b"{}")
    bucket.put("pytorch_model.bin", b"never fetched")
    base = locate(URL)
    (bucket.folder / "1_Pooling").mkdir()
    (bucket.folder / "1_Pooling" / "config.json").write_bytes(b"{}")
    assert base.hash == locate(str(bucket.folder)).hash
    assert base.path.is_relative_to(tmp_path / "cache")
    assert not (base.path / "pytorch_model.bin").exists()
    assert len(list(base.path.parent.iterdir())) == 1


def test_it_is_fetched_once_and_again_when_it_changes(bucket: Bucket) -> None:
    first = locate(URL)
    (first.path / "mark").write_text("")
    assert (locate(URL).path / "mark").exists()
    bucket.put("config.json", (bucket.folder / "config.json").read_bytes() + b" ")
    second = locate(URL)
    assert second.path != first.path
    assert second.hash != first.hash


def test_what_is_unsafe_or_cut_is_refused_and_not_kept(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("model.safetensors", (bucket.folder / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(BaseError, match=r"model\.safetensors is cut"):
        locate(URL)
    bucket.put("modeling_mine.py", b"")
    with pytest.raises(BaseError, match=r"modeling_mine\.py is code"):
        locate(URL)
    assert list((tmp_path / "cache" / "bases").iterdir()) == []


def test_an_empty_prefix_is_reported(bucket: Bucket) -> None:
    with pytest.raises(BaseError, match="nothing is stored under s3://bases/other"):
        locate("s3://bases/other")
