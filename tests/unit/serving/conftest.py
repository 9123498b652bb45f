"""A separate cache and store for every test of the serving floor."""

from __future__ import annotations

from pathlib import Path

import pytest

from unit.serving import tiny


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """cls: a BERT; mean: a sentence encoder; squares: a YOLOS; shapes: a DETR."""
    folder = tmp_path_factory.mktemp("bases")
    return {
        "cls": tiny.bert(folder / "cls"),
        "mean": tiny.bert(folder / "mean", pooling="mean"),
        "squares": tiny.yolos(folder / "squares"),
        "shapes": tiny.detr(folder / "shapes"),
    }


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return tiny.images(tmp_path_factory.mktemp("pictures"))
