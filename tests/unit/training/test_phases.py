"""Runs in phases: the same whether interrupted, on several workers, or with kept outputs of the frozen part."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from regraft.contracts import Event, Note, TrunkProgress
from regraft.errors import SpecError
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.training.kept_outputs import verify_kept
from regraft.training.session import train_local
from support.processes import in_child, on_ranks, train_counted
from support.tiny import document

LP_FT = {"type": "lp-ft", "probe": 0.5}
UNFREEZING = "gradual-unfreezing"
STEPS, PER_EPOCH = 24, 8  # 60 rows, batches of 8, 3 epochs
BEGINS = {"lp-ft": 16, UNFREEZING: 8}
"""A step before which a phase begins: half of three epochs is two whole ones."""


def spec_in(folder: Path, method: Any = LP_FT, store: str = "store", trunk: str = "off", **changes: Any) -> Any:
    written = document(folder, method=method, **{"epochs": 3, "dropout": 0.0, **changes})
    compute = {**written["compute"], "trunk": trunk}
    return {**written, "store": str(folder / store), "compute": compute}


def delta(written: dict[str, Any]) -> bytes:
    store = open_store(written["store"])
    return store.get(f"{Registry(store).version('tiny').prefix}delta.safetensors")


def lines(written: dict[str, Any], key: str = "loss") -> list[float]:
    text = Runs(open_store(written["store"])).read(RunSpec.resolve(written).run, "metrics.jsonl")
    return [line[key] for line in map(json.loads, text.decode().splitlines()) if key in line]


def last_files(written: dict[str, Any]) -> list[bytes]:
    store = open_store(written["store"])
    saved = Checkpoints(store, RunSpec.resolve(written).run).listed()[-1]
    return [store.get(f"{saved.prefix}{name}.safetensors") for name in ("delta", "optimizer")]


def trained(written: dict[str, Any], events: list[Event] | None = None) -> dict[str, Any]:
    train_local(RunSpec.resolve(written), progress=None if events is None else events.append)
    return written


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return runs that were not interrupted, by method."""
    made: dict[str, dict[str, Any]] = {}

    def run(key: str) -> dict[str, Any]:
        if key not in made:
            method = LP_FT if key == "lp-ft" else key
            folder = tmp_path_factory.mktemp(key)
            made[key] = trained(spec_in(folder, method, checkpoint_steps=3, dropout=0.2))
        return made[key]

    return run


def killed_and_continued(written: dict[str, Any], name: str, *steps: int) -> dict[str, Any]:
    killed = {**written, "store": f"{written['store']}-{name}"}
    for step in steps:
        assert in_child(train_counted, killed, f"{killed['store']}.log", step) == -9
    assert in_child(train_counted, killed, f"{killed['store']}.log") == 0
    return killed


def same(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert lines(one) == lines(two)
    assert delta(one) == delta(two)
    assert last_files(one) == last_files(two)


@pytest.mark.slow
def test_a_run_killed_where_a_phase_begins_ends_bit_identical(straight: Any) -> None:
    begins = BEGINS["lp-ft"]
    same(killed_and_continued(straight("lp-ft"), "begins", begins), straight("lp-ft"))


KILLS = sorted(random.Random(15).sample(range(STEPS), 4))


@pytest.mark.long
@pytest.mark.parametrize("key", BEGINS)
def test_kills_at_any_step_leave_a_bit_identical_run(key: str, straight: Any) -> None:
    begins = BEGINS[key]
    same(killed_and_continued(straight(key), "any", *sorted({*KILLS, begins - 1, begins})), straight(key))


@pytest.mark.long
@pytest.mark.parametrize("key", BEGINS)
def test_a_plateau_is_found_again_after_a_kill(key: str, tmp_path: Path) -> None:
    method = {"type": UNFREEZING, "by": "plateau"} if key == UNFREEZING else LP_FT
    written = trained(spec_in(tmp_path, method, lr=1e-6, epochs=4, early_stopping=1, checkpoint_steps=3))
    same(killed_and_continued(written, "plateau", 8, 15, 16, 17), written)


@pytest.mark.slow
@pytest.mark.parametrize("key", BEGINS)
def test_two_workers_and_micro_batches_give_the_losses_of_one(key: str, tmp_path: Path) -> None:
    method = LP_FT if key == "lp-ft" else key
    alone = trained(spec_in(tmp_path, method, optimizer="sgd", lr=0.05))
    two = {**alone, "store": f"{alone['store']}-two"}
    on_ranks(2, two, f"{two['store']}.log")
    assert lines(two) == pytest.approx(lines(alone), abs=1e-5)
    parts = trained(spec_in(tmp_path, method, "parts", optimizer="sgd", lr=0.05, accumulation=3))
    assert lines(parts) == pytest.approx(lines(alone), abs=1e-5)
    assert lines(two, "eval_loss") == pytest.approx(lines(alone, "eval_loss"), abs=1e-5)


@pytest.mark.long
def test_a_run_may_go_on_with_other_workers_in_another_phase(tmp_path: Path) -> None:
    alone = trained(spec_in(tmp_path, optimizer="sgd", lr=0.05, checkpoint_steps=4))
    other = {**alone, "store": f"{alone['store']}-other"}
    assert in_child(train_counted, other, f"{other['store']}.log", 13) == -9
    on_ranks(2, other, f"{other['store']}.log")
    assert lines(other) == pytest.approx(lines(alone), abs=1e-5)


def test_the_probe_is_feature_extraction_and_reads_what_that_kept(tmp_path: Path) -> None:
    kept: list[Event] = []
    plain = spec_in(tmp_path, "feature-extraction", trunk="disk", epochs=2, lr=1e-2, warmup=0.1)
    trained(plain, kept)
    assert any(isinstance(event, TrunkProgress) for event in kept)
    seen: list[Event] = []
    written = trained(spec_in(tmp_path, trunk="disk", warmup=0.1), seen)
    assert lines(written)[: 2 * PER_EPOCH] == lines(plain)
    assert not any(isinstance(event, TrunkProgress) for event in seen)
    texts = [event.message for event in seen if isinstance(event, Note)]
    assert any("phase 2 of 2 begins after step 16" in text for text in texts), texts


@pytest.mark.slow
def test_kept_outputs_of_every_phase_can_be_verified(tmp_path: Path) -> None:
    written = trained(spec_in(tmp_path, {"type": UNFREEZING, "epochs": 2, "blocks": 1}, trunk="disk", epochs=6))
    notes, rows = verify_kept(open_store(written["store"]), RunSpec.resolve(written).run)
    assert (notes, rows) == ([], 2 * 90)


def test_kept_outputs_give_the_losses_of_a_run_without(tmp_path: Path) -> None:
    method = {"type": UNFREEZING, "epochs": 1.5, "blocks": 1}
    plain = trained(spec_in(tmp_path, method, optimizer="sgd", lr=0.05, epochs=5))
    kept = trained(spec_in(tmp_path, method, "kept", "memory", optimizer="sgd", lr=0.05, epochs=5))
    assert lines(kept) == pytest.approx(lines(plain), abs=1e-5)
    assert lines(kept, "lr")[11:13] == lines(plain, "lr")[11:13]


def test_early_stopping_counts_in_the_last_phase_alone(tmp_path: Path) -> None:
    method = {**LP_FT, "probe_lr": 1e-12}
    written = trained(spec_in(tmp_path, method, lr=1e-12, epochs=6, early_stopping=1))
    assert len(lines(written, "eval_loss")) < 6
    assert len(lines(written)) > 3 * PER_EPOCH


def test_shards_cannot_change_with_the_phase(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"compute\.strategy: fsdp is written, and method lp-ft trains in phases"):
        RunSpec.resolve(spec_in(tmp_path), overrides={"compute.strategy": "fsdp"})
