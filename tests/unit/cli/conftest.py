"""Fixtures: the command line, a store with small real versions, and a fake training."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from doubles.fake_training import DOCUMENT, CommandResult, FakeTraining, Regraft
from regraft import plugins
from regraft.cli import dispatch, main
from regraft.store.objects import ObjectStore, open_store


@pytest.fixture(autouse=True)
def nothing_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Undo what a command sets up for its process (logging, environment), since this process goes on."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in ("REGRAFT_STORE", "RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(plugins, "_folders", [])
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def regraft(capfd: pytest.CaptureFixture[str]) -> Regraft:
    """Call the command line; stdout and stderr are captured as the process's own descriptors."""

    def call(*argv: str | Path) -> CommandResult:
        capfd.readouterr()
        code = main([str(part) for part in argv])
        return CommandResult(code, *capfd.readouterr())

    return call


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """Return a valid spec; nothing that it names exists."""
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({**DOCUMENT, "store": str(tmp_path / "store")}), encoding="utf-8")
    return path


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """Return a folder store at tmp_path/store."""
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    """Replace training in the dispatch table."""
    fake = FakeTraining()
    monkeypatch.setitem(dispatch.WORK, "train", fake)
    return fake
