"""Fixtures with small versions to evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regraft.evaluation.evaluate import EvaluationResult, evaluate
from regraft.evaluation.options import EvaluationOptions
from regraft.store.objects import open_store
from support.tiny import document, tickets


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that holds two versions of `tiny`, a text classifier, and with rows in `rows.csv`."""
    import regraft

    folder = tmp_path_factory.mktemp("trained")
    for epochs in (1, 3):
        regraft.train(document(folder, epochs=epochs, baselines=True))
    tickets(folder / "rows.csv", 45, seed=3)
    return folder


@pytest.fixture
def evaluated(trained: Path, tmp_path: Path) -> Any:
    """Evaluate `tiny` on a file, quickly."""

    def call(data: Path | str = trained / "rows.csv", reference: str = "tiny", **options: Any) -> EvaluationResult:
        chosen = EvaluationOptions(output=tmp_path / "out", **{"resamples": 0, **options})
        return evaluate(open_store(str(trained / "store")), reference, str(data), options=chosen)

    return call
