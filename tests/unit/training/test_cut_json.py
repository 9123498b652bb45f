"""Every JSON document of a run, truncated anywhere: the run ends as usual, or its error names the lost file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from regraft.cli import main
from regraft.errors import Damaged, RegraftError
from regraft.spec.run import RunSpec
from regraft.store.objects import MARK, open_store
from regraft.store.registry import Registry
from regraft.training.session import train_local
from support.processes import in_child, train_counted
from support.tiny import document

REBUILT = ("run.json", "lease.json", "stop.json", "metrics.jsonl", "log.jsonl", "state.json", "manifest.json")
"""Documents of a run that it can replace; the manifest of a snapshot is made again from the rows."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, Path]:
    """A spec, the store of its run killed in the middle, and of the same run at its end."""
    folder = tmp_path_factory.mktemp("cut")
    written = document(folder, checkpoint_steps=3, epochs=1)
    assert in_child(train_counted, written, str(folder / "journal"), 6) == -9
    half, whole = folder / "half", folder / "whole"
    shutil.copytree(written["store"], half)
    assert in_child(train_counted, written, str(folder / "journal")) == 0
    shutil.copytree(written["store"], whole)
    shutil.rmtree(written["store"])
    return written, half, whole


def documents(store: Path) -> list[Path]:
    """The documents of runs and models; the store's own mark has a test of its own."""
    found = store.rglob("*.json*")
    return sorted(path for path in found if not path.name.startswith(".regraft") and path != store / MARK)


def cuts(path: Path) -> Iterator[bytes]:
    """The file at several lengths."""
    data = path.read_bytes()
    for length in sorted({0, 1, len(data) // 3, len(data) - 1}):
        yield data[:length]


def delta(store: str) -> bytes:
    opened = open_store(store)
    return opened.get(f"{Registry(opened).version('tiny').prefix}delta.safetensors")


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_whatever_document_was_cut(stores: Any) -> None:
    written, half, whole = stores
    right, seen = delta(str(whole)), set()
    for path in documents(half):
        for data in cuts(path):
            shutil.rmtree(written["store"], ignore_errors=True)
            shutil.copytree(half, written["store"])
            (Path(written["store"]) / path.relative_to(half)).write_bytes(data)
            train_local(RunSpec.resolve(written))
            assert delta(written["store"]) == right, (path.name, len(data))
            seen.add(path.name)
    assert {"run.json", "lease.json", "state.json", "manifest.json"} <= seen <= set(REBUILT)


@pytest.mark.slow
def test_a_finished_run_is_finished_still_or_says_which_document_is_lost(
    stores: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    written, _, whole = stores
    lost = set()
    for path in documents(whole):
        for data in cuts(path):
            shutil.rmtree(written["store"], ignore_errors=True)
            shutil.copytree(whole, written["store"])
            (Path(written["store"]) / path.relative_to(whole)).write_bytes(data)
            for words in (["runs", "list"], ["models", "list"]):
                assert main([*words, "--store", written["store"], "--json"]) == 0, capsys.readouterr().err
                json.loads(capsys.readouterr().out)
            try:
                train_local(RunSpec.resolve(written))
            except RegraftError as error:
                assert path.name in str(error) or path.parent.name in str(error), (path, error)
                lost.add(path.name)
                continue
            assert delta(written["store"])
    assert lost <= {"manifest.json", "claim.json"}


@pytest.mark.slow
def test_a_cut_mark_is_named_by_each_command_and_its_removal_lets_the_run_go_on(
    stores: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    written, half, whole = stores
    for data in cuts(half / MARK):
        shutil.rmtree(written["store"], ignore_errors=True)
        shutil.copytree(half, written["store"])
        mark = Path(written["store"]) / MARK
        mark.write_bytes(data)
        assert main(["runs", "list", "--store", written["store"], "--json"]) == 1
        assert MARK in capsys.readouterr().out
        with pytest.raises(Damaged, match=f"{MARK}.*delete it"):
            train_local(RunSpec.resolve(written))
        mark.unlink()
        train_local(RunSpec.resolve(written))
        assert delta(written["store"]) == delta(str(whole))
