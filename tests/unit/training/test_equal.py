"""The result does not depend on how rows are distributed: workers, micro-batches and sharding give equal losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from support.processes import in_child, on_ranks, train_counted
from support.tiny import document

STEPS = 20


def losses(written: dict[str, Any]) -> list[float]:
    """The loss of every step, as metrics.jsonl holds it."""
    text = Runs(open_store(written["store"])).read(RunSpec.resolve(written).run, "metrics.jsonl")
    lines = [json.loads(line) for line in text.decode().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def spec_in(folder: Path, store: str, **changes: Any) -> dict[str, Any]:
    written = document(folder, rows=83, eval_rows=65, epochs=2, dropout=0.0, steps=STEPS, **changes)
    return {**written, "store": str(folder / store)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("equal")
    written = spec_in(folder, "alone")
    assert in_child(train_counted, written, str(folder / "alone.journal")) == 0
    assert len(losses(written)) == STEPS
    return written


def same_losses(first: dict[str, Any], second: dict[str, Any]) -> None:
    for one, other in zip(losses(first), losses(second), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def same_rows(folder: Path, name: str) -> None:
    """The same rows in the same steps, whichever rank held them."""
    held = [
        [line.split(maxsplit=1)[1] for line in (folder / f"{which}.journal").read_text().splitlines()]
        for which in ("alone", name)
    ]
    assert held[0] == held[1]


def test_accumulation_gives_the_losses_of_one_batch(alone: dict[str, Any]) -> None:
    folder = Path(alone["store"]).parent
    written = spec_in(folder, "accumulated", accumulation=3)
    assert in_child(train_counted, written, str(folder / "accumulated.journal")) == 0
    same_losses(alone, written)
    same_rows(folder, "accumulated")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_give_the_losses_of_one(strategy: str, alone: dict[str, Any]) -> None:
    folder = Path(alone["store"]).parent
    written = {**spec_in(folder, strategy), "compute": {"workers": 0, "cpus": 1, "strategy": strategy}}
    on_ranks(2, written, str(folder / f"{strategy}.journal"))
    same_losses(alone, written)
    same_rows(folder, strategy)


@pytest.mark.slow
def test_a_run_that_began_on_one_rank_goes_on_sharded_over_two(alone: dict[str, Any]) -> None:
    folder = Path(alone["store"]).parent
    written = spec_in(folder, "moved", checkpoint_steps=4)
    assert in_child(train_counted, written, str(folder / "moved.journal"), 9) == -9
    written["compute"] = {"workers": 0, "cpus": 1, "strategy": "fsdp"}
    on_ranks(2, written, str(folder / "moved.journal"))
    same_losses({**alone}, written)
