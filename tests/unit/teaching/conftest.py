"""A store with a text classifier of three classes, and examples of a fourth."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import regraft
from support.tiny import document

FRESH = [f"cloud timer cloud {word}" for word in ["the", "a", "my", "is", "was", "not", "on", "off", "please", "help"]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tiny@v1`, its rows and its base."""
    folder = tmp_path_factory.mktemp("original")
    regraft.train(document(folder, method="prototypes", rows=90, eval_rows=60), progress=lambda event: None)
    return folder


@pytest.fixture
def trained(original: Path, tmp_path: Path) -> Path:
    """A copy of it for one test, with examples of `weather` in new.csv."""
    folder = tmp_path / "trained"
    shutil.copytree(original, folder)
    (folder / "new.csv").write_text("\n".join(["text", *FRESH]) + "\n")
    return folder


@pytest.fixture
def store(trained: Path) -> str:
    return str(trained / "store")


@pytest.fixture
def without_features(store: str) -> Callable[[], None]:
    """Replace the newest version by one as 0.1.0 published it, without features of evaluation rows."""

    def publish() -> None:
        from regraft.data.kept_features import FILE
        from regraft.store.objects import open_store
        from regraft.store.registry import Registry

        registry = Registry(open_store(store))
        version = registry.version("tiny")
        files = {
            entry.name: registry.store.get(version.prefix + entry.name)
            for entry in version.manifest.files
            if entry.name != FILE
        }
        registry.publish("tiny", files, {**version.meta, "lineage": {**version.meta["lineage"], "run": "another"}})

    return publish
