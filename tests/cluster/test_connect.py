"""An address that is no Ray is answered before Ray would try for minutes."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from regraft.cluster import connect, visibility
from regraft.errors import RequestError
from regraft.store.objects import MARK, open_store
from support.processes import free_port


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_port_that_another_program_holds_is_reported(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "CONNECT_S", 1.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def serve() -> None:
            line, _ = other.accept()
            line.recv(64)
            line.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConnectionError, match="another program holds this port") as caught:
            connect.check_reachable(address)
    assert "not a Ray that accepts this client" in connect.explain(caught.value)


def test_a_port_where_nobody_listens_is_reported() -> None:
    with pytest.raises(connect.Unreachable) as caught:
        connect.check_reachable(f"127.0.0.1:{free_port()}")
    assert "no Ray answers there" in connect.explain(caught.value)


@pytest.mark.parametrize("creates", [True, False])
def test_a_store_of_several_nodes_is_made_only_in_a_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, creates: bool
) -> None:
    monkeypatch.setattr(visibility, "usable_nodes", lambda: [{}, {}])
    monkeypatch.setattr(visibility, "count_unlike", lambda paths, wanted: [0])
    visibility.check_store(str(tmp_path / "new"), creates=creates)
    assert (tmp_path / "new" / MARK).exists() == creates
    (tmp_path / "empty").mkdir()
    if creates:
        with pytest.raises(RequestError, match="--create"):
            visibility.check_store(str(tmp_path / "empty"), creates=True)
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_store_that_nodes_see_is_compared_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visibility, "usable_nodes", lambda: [{}, {}])
    asked: list[str] = []

    def count(paths: list[str], wanted: list[str]) -> list[int]:
        assert wanted == [visibility.proof(path) for path in paths]
        asked.extend(paths)
        return [len(asked) - 1]

    monkeypatch.setattr(visibility, "count_unlike", count)
    store = open_store(str(tmp_path / "store"))
    store.create()
    before = sorted((tmp_path / "store").iterdir())
    (tmp_path / "store").chmod(0o555)
    visibility.check_store(str(tmp_path / "store"))
    assert asked == [str(tmp_path / "store" / MARK)]
    with pytest.raises(RequestError, match="1 of 2 nodes do not see"):
        visibility.check_store(str(tmp_path / "store"))
    assert sorted((tmp_path / "store").iterdir()) == before


def test_marks_distinguish_two_stores(tmp_path: Path) -> None:
    proofs = set()
    for name in "ab":
        open_store(str(tmp_path / name)).create()
        proofs.add(visibility.proof(str(visibility.seen_at(str(tmp_path / name)))))
    (tmp_path / "old" / "runs").mkdir(parents=True)
    assert len(proofs) == 2 and visibility.seen_at(str(tmp_path / "old")) == tmp_path / "old"
