"""The contract of ObjectStore, tested on each kind of store."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from regraft.errors import Conflict, NotFound, RequestError, StoreError
from regraft.store import multipart, s3
from regraft.store.folder import FolderStore
from regraft.store.objects import Body, ObjectStore, open_store
from regraft.store.s3 import S3Store

EVERY_KIND = ["folder", "small", "moto", *(["real"] if os.environ.get("REGRAFT_TEST_S3") else [])]


@pytest.fixture(params=EVERY_KIND)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store of each kind, moto's included."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return str(request.getfixturevalue(f"{request.param}_url"))


def test_a_real_server_is_among_the_stores() -> None:
    if not os.environ.get("REGRAFT_TEST_S3"):
        pytest.skip("moto's S3 and a folder only: set REGRAFT_TEST_S3=s3://bucket/prefix and AWS_* for a real server")


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [stat.key for stat in store.list(prefix)]


def unique() -> bytes:
    return uuid4().hex.encode()


def test_what_was_put_is_got(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"from a file")
    bodies: list[Body] = [b"bytes", bytearray(b"array"), memoryview(b"xviewx")[1:5], source, b""]
    for number, body in enumerate(bodies):
        store.put(f"a/{number}", body)
    assert [store.get(f"a/{n}") for n in range(5)] == [b"bytes", b"array", b"view", b"from a file", b""]
    store.put("a/0", b"replaced")
    assert store.get("a/0") == b"replaced"


def test_a_memoryview_of_numbers_is_stored_as_its_bytes(store: ObjectStore) -> None:
    numbers = memoryview(bytes(range(16))).cast("I")
    store.put("numbers", numbers)
    assert store.get("numbers") == bytes(range(16))


def test_a_missing_key_is_not_there(store: ObjectStore, tmp_path: Path) -> None:
    for ask in (store.get, store.read, lambda key: store.fetch(key, tmp_path / "out")):
        with pytest.raises(NotFound, match="missing/key"):
            ask("missing/key")
    assert not store.exists("missing/key") and not (tmp_path / "out").exists()
    assert list(tmp_path.glob("**/.regraft-tmp*")) == []


def test_a_folder_of_keys_is_no_key(store: ObjectStore) -> None:
    store.put("a/b/c", b"1")
    assert not store.exists("a/b")
    with pytest.raises(NotFound):
        store.get("a/b")


def test_fetch_streams_into_a_file_and_makes_its_folders(store: ObjectStore, tmp_path: Path) -> None:
    store.put("k", b"x" * 3_000_000)
    store.fetch("k", tmp_path / "new" / "folder" / "file")
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == b"x" * 3_000_000
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["file"]


def test_listing_is_by_prefix_and_in_order_of_keys(store: ObjectStore) -> None:
    names = ["a", "a-b", "a-b/c", "a/b/1", "a/b0", "b/ä", "b/Z", "c/.hidden"]
    names.remove("a-b")  # a file and a folder of one name cannot both be in a folder store
    names.remove("a")
    for name in names:
        store.put(name, name.encode())
    assert keys(store) == sorted(names)
    assert keys(store, "a/") == ["a/b/1", "a/b0"]
    assert keys(store, "a/b") == ["a/b/1", "a/b0"]
    assert keys(store, "a-") == ["a-b/c"]
    assert keys(store, "nothing/here") == []
    assert {stat.key: stat.size for stat in store.list()} == {name: len(name.encode()) for name in names}
    assert all(stat.modified > 1.7e9 and stat.tag for stat in store.list())


def test_an_empty_store_lists_nothing(store: ObjectStore) -> None:
    assert keys(store) == []


def test_many_pages_are_one_listing(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_PAGE", 7)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.put(f"many/{n:05d}", b""), range(30)))
    assert keys(store, "many/") == [f"many/{n:05d}" for n in range(30)]
    store.delete(keys(store))
    assert keys(store) == []


def test_deleting_what_is_not_there_is_fine(store: ObjectStore) -> None:
    store.put("a/b", b"1")
    store.delete(["a/b", "a/c", "nowhere/at/all", "x"])
    assert keys(store) == []
    store.delete([])


def test_put_if_absent_refuses_the_second(store: ObjectStore) -> None:
    store.put_if_absent("a/one", b"first")
    with pytest.raises(Conflict, match="a/one"):
        store.put_if_absent("a/one", b"second")
    with pytest.raises(Conflict):
        store.put_if_absent("a/one", b"first")
    assert store.get("a/one") == b"first"
    store.delete(["a/one"])
    store.put_if_absent("a/one", b"third")
    assert store.get("a/one") == b"third"


def test_put_if_match_refuses_a_stale_tag(store: ObjectStore) -> None:
    store.put("a", b"1")
    data, tag = store.read("a")
    assert data == b"1"
    store.put_if_match("a", b"2", tag)
    with pytest.raises(Conflict):
        store.put_if_match("a", b"3", tag)
    assert store.get("a") == b"2"
    store.put_if_match("a", b"4", store.read("a")[1])
    assert store.get("a") == b"4"


def test_put_if_match_refuses_what_is_gone(store: ObjectStore) -> None:
    store.put("a", b"1")
    _, tag = store.read("a")
    store.delete(["a"])
    with pytest.raises(Conflict):
        store.put_if_match("a", b"2", tag)
    assert not store.exists("a")


def race(count: int, write: Callable[[int], None]) -> list[int]:
    """Return the numbers of the writers that succeeded."""
    barrier = threading.Barrier(count)

    def one(number: int) -> int | None:
        barrier.wait()
        try:
            write(number)
        except Conflict:
            return None
        return number

    with ThreadPoolExecutor(count) as pool:
        return [number for number in pool.map(one, range(count)) if number is not None]


def test_of_sixteen_writers_one_creates(store: ObjectStore) -> None:
    for turn in range(4):
        bodies = [unique() for _ in range(16)]
        winners = race(16, lambda n, b=bodies, t=turn: store.put_if_absent(f"race/{t}", b[n]))  # type: ignore[misc]
        assert len(winners) == 1
        assert store.get(f"race/{turn}") == bodies[winners[0]]


def test_of_sixteen_writers_one_replaces(store: ObjectStore) -> None:
    store.put("race", unique())
    for _ in range(4):
        bodies = [unique() for _ in range(16)]
        _, tag = store.read("race")
        winners = race(16, lambda n, b=bodies, t=tag: store.put_if_match("race", b[n], t))  # type: ignore[misc]
        assert len(winners) == 1
        assert store.get("race") == bodies[winners[0]]


def test_a_large_body_goes_in_parts_and_comes_back_whole(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart, "PART", 5 << 20)
    data = bytes(range(256)) * (11 * 4096) + b"end"
    path = tmp_path / "large"
    path.write_bytes(data)
    for body in (data, memoryview(data), path):
        store.put("large", body)
        assert store.get("large") == data
    assert next(store.list("large")).size == len(data)


def test_a_local_file_that_is_not_there_is_named(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no-such-file"):
        store.put("a", tmp_path / "no-such-file")
    assert keys(store) == []


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a\\b", "a\0b", "a\nb", ".regraft-lock", "a/.regraft-tmp-1",
     "\ud800", "a" * 2000],
)  # fmt: skip
def test_an_unsafe_key_is_refused(store: ObjectStore, key: str, tmp_path: Path) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.get(key),
        lambda: store.put(key, b""),
        lambda: store.put_if_absent(key, b""),
        lambda: store.put_if_match(key, b"", "tag"),
        lambda: store.delete([key]),
        lambda: store.exists(key),
        lambda: store.fetch(key, tmp_path / "out"),
    ]
    for call in calls:
        with pytest.raises(RequestError, match="not allowed"):
            call()


def test_check_is_content_and_leaves_nothing(store: ObjectStore, url: str) -> None:
    store.check()
    assert keys(store) == []
    if isinstance(store, FolderStore):
        assert not Path(url).exists()
    store.put("a", b"1")
    store.check()
    assert keys(store) == ["a"]
    assert store.sweep(0.0) == ()


def test_the_url_opens_the_same_store(store: ObjectStore) -> None:
    store.put("a", b"1")
    again = open_store(store.url)
    assert again.get("a") == b"1" and again.url == store.url and type(again) is type(store)


def test_only_a_folder_gives_real_files(store: ObjectStore) -> None:
    store.put("a/b", b"1")
    path = store.local("a/b")
    assert path is None if isinstance(store, S3Store) else path is not None and path.read_bytes() == b"1"


def test_a_folder_may_be_written_as_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for written in ("with space", str(tmp_path / "with space"), f"file://{tmp_path}/with%20space", "~/with space",
                    f"FILE://localhost{tmp_path}/with%20space", "./x/../with space"):  # fmt: skip
        assert open_store(written).url == str(tmp_path / "with space")
    assert not (tmp_path / "with space").exists()


def test_a_bucket_may_be_written_with_slashes() -> None:
    assert {open_store(url).url for url in ("s3://b/p/q", "s3://b/p/q/", "S3://b//p/q/")} == {"s3://b/p/q"}
    assert open_store("s3://b").url == open_store("s3://b/").url == "s3://b"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gs://bucket/x", "unknown scheme gs://; allowed: a folder, file://, s3://"),
        ("s3a://bucket/x", "did you mean s3://"),
        ("s3:/bucket", "two slashes"),
        ("s3:bucket", "two slashes"),
        ("", "write a folder"),
        ("s3://", "lacks its bucket"),
        ("s3:///x", "lacks its bucket"),
        ("s3://b/../x", "not allowed"),
        ("s3://key:secret@b/x", "AWS_ENDPOINT_URL"),
        ("s3://b/x?endpoint=y", "AWS_ENDPOINT_URL"),
        ("file://server/x", "this machine"),
    ],
)
def test_a_url_that_means_nothing_is_refused(url: str, message: str) -> None:
    with pytest.raises(RequestError, match=message.replace("?", r"\?")) as caught:
        open_store(url)
    assert "secret" not in str(caught.value).replace("AWS_SECRET_ACCESS_KEY", "")
