"""A manifest protects its files: every file that does not match it is named and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regraft.errors import Conflict, Damaged, NotFound, RequestError
from regraft.store import checksummed
from regraft.store.manifest import Manifest, commit, fetch_verified, load, read_verified
from regraft.store.objects import ObjectStore

FILES = {"delta": b"d" * 1000, "processor/vocab.txt": b"words", "empty": b""}
META = {"step": 3, "metrics": {"f1": 0.5}, "names": ["a", "ü"], "none": None}


@pytest.fixture
def made(store: ObjectStore) -> Manifest:
    return commit(store, "x/y", FILES, kind="snapshot", meta=META)


def test_what_was_committed_is_loaded(store: ObjectStore, made: Manifest, tmp_path: Path) -> None:
    assert load(store, "x/y") == load(store, "x/y/") == made == Manifest.from_json(made.to_json())
    assert made.meta == META and made.size == 1005 and {entry.name for entry in made.files} == set(FILES)
    assert fetch_verified(store, "x/y", tmp_path / "into") == made
    assert {name: (tmp_path / "into" / name).read_bytes() for name in FILES} == FILES
    assert {name: read_verified(store, "x/y", name, made) for name in FILES} == FILES


def test_only_the_named_files_are_fetched(store: ObjectStore, made: Manifest, tmp_path: Path) -> None:
    fetch_verified(store, "x/y", tmp_path / "into", names=["delta"])
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["delta"]


def test_a_prefix_is_committed_once(store: ObjectStore, made: Manifest) -> None:
    with pytest.raises(Conflict):
        commit(store, "x/y", FILES, kind="snapshot", meta={})
    with pytest.raises(NotFound):
        load(store, "x")


def test_a_right_file_that_is_there_is_not_fetched_again(folder: ObjectStore, tmp_path: Path) -> None:
    commit(folder, "x", FILES, kind="snapshot", meta={})
    fetch_verified(folder, "x", tmp_path / "into")
    folder.delete(["x/delta"])
    (tmp_path / "into" / "empty").write_bytes(b"no longer empty")
    fetch_verified(folder, "x", tmp_path / "into", names=["delta", "empty"])
    assert (tmp_path / "into" / "empty").read_bytes() == b""


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("name", ["delta", "processor/vocab.txt"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "bytes and should have"),
        (lambda data: b"", "has 0 bytes"),
        (lambda data: data + b"\0", "bytes and should have"),
        (flip, "does not have the bytes that were written"),
        (lambda data: bytes(len(data)), "does not have the bytes that were written"),
        (None, "is missing"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    store: ObjectStore, made: Manifest, tmp_path: Path, name: str, damage: Callable[[bytes], bytes] | None, message: str
) -> None:
    key = f"x/y/{name}"
    if damage is None:
        store.delete([key])
    else:
        store.put(key, damage(FILES[name]))
    asks: list[Callable[[], object]] = [
        lambda: fetch_verified(store, "x/y", tmp_path / "into"),
        lambda: read_verified(store, "x/y", name, made),
    ]
    for ask in asks:
        with pytest.raises(Damaged, match=message) as caught:
            ask()
        assert f"{store.url}/{key}" in str(caught.value) and name in caught.value.message
    assert not (tmp_path / "into" / name).exists()
    assert not list((tmp_path / "into").rglob(".regraft-*"))


def test_any_changed_bit_of_a_manifest_is_noticed(folder: ObjectStore) -> None:
    data = commit(folder, "x", {"a": b"1"}, kind="checkpoint", meta={"step": 3, "f1": 0.25}).to_json()
    same = 0
    for at in range(len(data)):
        for bit in range(8):
            changed = data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]
            try:
                same += Manifest.from_json(changed).to_json() == data
            except Damaged:
                continue
            assert Manifest.from_json(changed).to_json() == data
    assert same == 0


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"1", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}']
)
def test_what_is_no_manifest_is_refused(store: ObjectStore, data: bytes) -> None:
    store.put("x/manifest.json", data)
    with pytest.raises(Damaged, match=r"x/manifest\.json"):
        load(store, "x")


def test_a_truncated_manifest_is_refused_wherever_it_ends() -> None:
    data = Manifest("version", "0" * 32, (), {"a": 1}).to_json()
    for end in range(len(data)):
        with pytest.raises(Damaged):
            Manifest.from_json(data[:end], "here")


ENTRY = {"name": "a", "size": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "reads 1: upgrade"),
        ({"kind": "party"}, "kind 'party'"),
        ({"id": "X" * 32}, "id "),
        ({"id": None}, "id None"),
        ({"meta": []}, "meta a mapping"),
        ({"files": {}}, "files is a list"),
        ({"kind": None}, "kind .None. is none of"),
        ({"files": [ENTRY | {"name": "../../outside"}]}, "outside"),
        ({"files": [ENTRY | {"name": "/etc/passwd"}]}, "/etc/passwd"),
        ({"files": [ENTRY | {"name": "a\\b"}]}, "file"),
        ({"files": [ENTRY | {"name": "manifest.json"}]}, "manifest.json"),
        ({"files": [ENTRY | {"name": 3}]}, "file"),
        ({"files": [ENTRY | {"size": -1}]}, "file"),
        ({"files": [ENTRY | {"size": True}]}, "file"),
        ({"files": [ENTRY | {"size": 1.5}]}, "file"),
        ({"files": [ENTRY | {"sha256": "0" * 63}]}, "file"),
        ({"files": [ENTRY, ENTRY]}, "listed twice"),
        ({"files": [3]}, "file 3"),
    ],
)
def test_a_manifest_of_another_shape_is_refused(
    folder: ObjectStore, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    body = {"format": 1, "kind": "version", "id": "0" * 32, "files": [ENTRY], "meta": {}}
    folder.put("x/manifest.json", checksummed.dump(body | change))
    with pytest.raises(Damaged, match=message):
        fetch_verified(folder, "x", tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_numbers_that_json_lacks_become_none(folder: ObjectStore) -> None:
    meta = {"loss": float("nan"), "best": [float("inf"), 1.5], "pair": (1, 2)}
    made = commit(folder, "x", {}, kind="checkpoint", meta=meta)
    assert made.meta == {"loss": None, "best": [None, 1.5], "pair": [1, 2]}
    assert load(folder, "x").meta["loss"] is None
    json.loads(folder.get("x/manifest.json"), parse_constant=lambda constant: pytest.fail(constant))


@pytest.mark.parametrize("meta", [{"path": Path("/x")}, {1: "one"}, {"a": {"b": [object()]}}])
def test_what_json_cannot_hold_is_refused_before_anything_is_put(folder: ObjectStore, meta: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="JSON"):
        commit(folder, "x", FILES, kind="checkpoint", meta=meta)
    assert list(folder.list()) == []


@pytest.mark.parametrize("name", ["manifest.json", "../a", "/a", ""])
def test_a_file_may_not_have_such_a_name(folder: ObjectStore, name: str) -> None:
    with pytest.raises(RequestError):
        commit(folder, "x", {name: b""}, kind="checkpoint", meta={})
    assert list(folder.list()) == []
