"""The folder store: links to the outside, full disks, dead writers, file systems with fewer features."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from regraft.errors import Conflict, PermissionDenied, RequestError, StoreError
from regraft.store.folder import FolderStore
from regraft.store.objects import MARK, ObjectStore, open_store


def failing(number: int) -> Callable[..., int]:
    def call(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return call


OURS = {".regraft-lock", MARK}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name not in OURS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_symbolic_link_leads_nowhere(folder: ObjectStore, root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_bytes(b"secret")
    folder.put("inside", b"1")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "file").symlink_to(tmp_path / "secret" / "file")
    (root / "within").symlink_to(root / "inside")
    (root / "dangling").symlink_to(tmp_path / "secret" / "new")
    assert [stat.key for stat in folder.list()] == ["inside"]
    for key in ("link/file", "file", "within", "link/new", "dangling"):
        writing: list[Callable[[str], object]] = [lambda key: folder.put(key, b"2"), lambda key: folder.delete([key])]
        for call in (folder.get, folder.exists, folder.local, *writing):
            with pytest.raises(RequestError, match="symbolic link"):
                call(key)
    with pytest.raises(RequestError, match="symbolic link"):
        list(folder.list("link/"))
    assert names(tmp_path / "secret") == ["file"] and (tmp_path / "secret" / "file").read_bytes() == b"secret"


def test_the_store_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    store = open_store(str(tmp_path / "link"))
    store.put("a", b"1")
    assert store.url == str(tmp_path / "link") and (tmp_path / "disk" / "a").read_bytes() == b"1"


@pytest.mark.parametrize("call", ["put", "put_if_absent", "put_if_match", "fetch", "check"])
@pytest.mark.parametrize("fault", ["write", "fsync", "link", "replace"])
def test_a_full_disk_is_reported_and_leaves_nothing(
    folder: ObjectStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, fault: str
) -> None:
    folder.put("old", b"old")
    tag = folder.read("old")[1]
    calls: dict[str, Callable[[], object]] = {
        "put": lambda: folder.put("old", b"new"),
        "put_if_absent": lambda: folder.put_if_absent("new", b"new"),
        "put_if_match": lambda: folder.put_if_match("old", b"new", tag),
        "fetch": lambda: folder.fetch("old", tmp_path / "out" / "file"),
        "check": folder.check,
    }
    touched = {"put_if_absent": "write fsync link", "fetch": "write replace"}.get(call, "write fsync replace")
    if fault not in touched:
        return
    with monkeypatch.context() as patch:
        patch.setattr(os, fault, failing(errno.ENOSPC))
        with pytest.raises(StoreError, match="full: free space"):
            calls[call]()
    assert names(root) == ["old"] and folder.get("old") == b"old"
    assert names(tmp_path / "out") == []
    calls[call]()


def test_a_forbidden_folder_is_denied(folder: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.EACCES, errno.EROFS, errno.EPERM):
        with monkeypatch.context() as patch:
            patch.setattr(os, "mkdir", failing(number))
            for call in (partial(folder.put, "a/b", b""), folder.check):
                with pytest.raises(PermissionDenied, match="make the folder writable"):
                    call()


def test_a_file_in_the_way_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        store = open_store(str(path))
        for call in (store.check, lambda s=store: s.put("a", b"")):
            with pytest.raises(StoreError, match="there is a file where a folder is needed"):
                call()
    store = open_store(str(tmp_path / "store"))
    store.put("a", b"1")
    with pytest.raises(StoreError, match="there is a file where"):
        store.put("a/b", b"2")
    store.put("c/d", b"1")
    with pytest.raises(StoreError, match="there is a file where"):
        store.put("c", b"2")
    assert [stat.key for stat in store.list()] == ["a", "c/d"]


def test_a_folder_that_cannot_be_made_is_reported() -> None:
    with pytest.raises(StoreError):
        open_store("/proc/regraft-store").check()


def test_without_hard_links_the_second_still_loses(folder: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    folder.put_if_absent("a/b", b"1")
    with pytest.raises(Conflict):
        folder.put_if_absent("a/b", b"2")
    assert folder.get("a/b") == b"1"


def test_a_repeated_link_over_a_network_is_ours(folder: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def twice(source: Path, target: Path) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "link", twice)
    folder.put_if_absent("a", b"1")
    assert folder.get("a") == b"1"


def test_sweep_takes_old_leavings_and_nothing_else(folder: ObjectStore, root: Path) -> None:
    folder.put("a/b", b"1")
    old, new = root / "a" / ".regraft-tmp-1-x", root / ".regraft-tmp-2-y"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 100, time.time() - 100))
    assert [stat.key for stat in folder.list()] == ["a/b"]
    assert folder.sweep(50.0) == ("a/.regraft-tmp-1-x",)
    assert names(root) == [".regraft-tmp-2-y", "b"]
    assert folder.sweep(-1.0) == (".regraft-tmp-2-y",)


def test_writers_and_pruning_deleters_do_not_disturb_one_another(folder: ObjectStore) -> None:
    stop = threading.Event()

    def deleting() -> None:
        while not stop.is_set():
            folder.delete(["deep/er/gone"])
            folder.put("deep/er/gone", b"")

    thread = threading.Thread(target=deleting)
    thread.start()
    try:
        for number in range(100):
            folder.put(f"deep/er/{number % 2}", b"x")
            folder.delete([f"deep/er/{number % 2}"])
    finally:
        stop.set()
        thread.join()
    assert not [stat for stat in folder.list() if stat.key[-1].isdigit()]


def test_a_reader_never_sees_half_a_replacement(folder: ObjectStore) -> None:
    bodies = {bytes([value]) * 300_000 for value in range(2)}
    first, second = sorted(bodies)
    folder.put("k", first)
    stop = threading.Event()

    def replacing() -> None:
        while not stop.is_set():
            folder.put("k", second)
            folder.put("k", first)

    thread = threading.Thread(target=replacing)
    thread.start()
    try:
        assert {folder.get("k") for _ in range(200)} <= bodies
    finally:
        stop.set()
        thread.join()


def test_a_lock_that_is_never_given_back_is_reported(
    folder: ObjectStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.put("a", b"1")
    monkeypatch.setattr("regraft.store.folder._LOCK_PATIENCE_S", 0.05)
    assert isinstance(folder, FolderStore)
    with folder._locked(), pytest.raises(StoreError, match="another process has held"):
        folder.put("a", b"2")
    assert names(root) == ["a"] and folder.get("a") == b"1"
