"""A worker with several bases: each trial is that of a worker with its base alone, and models of one base are held."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from doubles.fake_coordinator import FakeCoordinator, prepared_worker, searched, trials_of
from regraft.contracts import BaselinesMeasured
from regraft.errors import RequestError
from regraft.store.objects import open_store
from regraft.tuning.protocol import Trial
from regraft.tuning.worker.context import WorkerContext
from support.processes import in_child, search_and_weigh
from support.tiny import document, tiny_bert

HEADS: list[dict[str, Any]] = [{"method": "feature-extraction"}, {"method": "feature-extraction", "training.lr": 0.2}]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return two tiny bases, of two and of three blocks and of other widths."""
    folder = tmp_path_factory.mktemp("two")
    small, large = tiny_bert(folder / "small"), tiny_bert(folder / "large", layers=3, width=48, seed=3)
    return [str(small), str(large)]


def spec_in(folder: Path, **training: Any) -> dict[str, Any]:
    written = document(folder, **{"optimizer": "sgd", "lr": 0.05, "epochs": 1, **training})
    return {**written, "compute": {**written["compute"], "trunk": "disk"}}


def delta(written: dict[str, Any], prefix: str | None) -> dict[str, torch.Tensor]:
    assert prefix is not None
    return load(open_store(written["store"]).get(f"{prefix}delta.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("methods", [HEADS, [{"method": {"type": "freeze", "depth": "50%"}}]])
def test_each_trial_is_that_of_a_worker_with_its_base_alone(
    two: list[str], tmp_path: Path, methods: list[dict[str, Any]]
) -> None:
    written = spec_in(tmp_path, baselines=True)
    depths: dict[str, list[int | str]] = {two[0]: ["feature-extraction"], two[1]: ["feature-extraction"]}
    points = [{**point, "base": base} for point in methods for base in two]  # bases take turns
    both = searched(written, tmp_path / "w", *points, bases=depths)
    assert [end.error for end in both.ends.values()] == [None] * len(points)
    for base in two:
        own = [point for point in points if point["base"] == base]
        own_spec = {**written, "base": base}
        alone = searched(own_spec, tmp_path / "w", *own, search=Path(base).name, depths=("feature-extraction",))
        numbers = [number for number, point in enumerate(points) if point["base"] == base]
        for number, other in zip(numbers, range(len(own)), strict=True):
            one, two_ = both.ends[f"t{number:04d}"], alone.ends[f"t{other:04d}"]
            assert (one.depth, one.blocks, one.total, one.correct) == (
                two_.depth,
                two_.blocks,
                two_.total,
                two_.correct,
            )
            assert both.curve(f"t{number:04d}") == alone.curve(f"t{other:04d}")
            assert _equal(delta(written, one.checkpoint), delta(own_spec, two_.checkpoint))
    measured = {event.base: event for event in both.events if isinstance(event, BaselinesMeasured)}
    assert set(measured) == set(two)
    shared = both.shared()
    assert shared["rows"] == 90 and shared["computed"] + shared["reused"] in (180, 360), "a pass for each kind of cut"
    assert all(name in shared["why"] for name in ("small, all but the head", "large, all but the head"))


def _equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.slow
def test_models_of_another_base_are_released_and_its_outputs_stay(
    two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = spec_in(tmp_path)
    alive: dict[str, list[weakref.ref[Any]]] = {base: [] for base in two}
    made = WorkerContext.adapted

    def watched(self: WorkerContext, *args: Any) -> Any:
        adapted = made(self, *args)
        alive[self.spec.base].append(weakref.ref(adapted.model))
        return adapted

    monkeypatch.setattr(WorkerContext, "adapted", watched)
    coordinator = FakeCoordinator()
    worker = prepared_worker(written, tmp_path / "w", coordinator, bases={base: [] for base in two})
    assert alive == {base: [] for base in two}, "a base that no trial names costs nothing"
    turns = [two[0], two[1], two[0]]
    for number, base in enumerate(turns):
        worker.run([Trial(number, {**HEADS[0], "base": base, "training.lr": 0.1 + number})], coordinator)
        gc.collect()
        held = {name for name, models in alive.items() if any(ref() is not None for ref in models)}
        assert held == {base}
    assert coordinator.shared()["computed"] == 180, "the first base's outputs are found again"
    budgets = [cuts.budget for one in worker._bases.values() for cuts in one.context.cuts_by_task.values()]
    assert budgets == [4_000_000_000] * 2
    worker.close()


@pytest.mark.long
def test_more_bases_take_no_more_memory_than_one(tmp_path: Path) -> None:
    """Five bases of 33 MB take less than one more of them above a search of one base (7 MB where it was measured)."""
    bases = [str(tiny_bert(tmp_path / f"base-{seed}", layers=10, width=320, seed=seed)) for seed in range(5)]
    size = sum(path.stat().st_size for path in Path(bases[0]).glob("*.safetensors"))
    written = document(tmp_path, method="feature-extraction", rows=12, eval_rows=6, epochs=1)
    written["compute"]["trunk"] = "memory"
    peaks = []
    for count in (1, len(bases)):
        space = {"base": {"grid": bases[:count]}, "training.lr": {"grid": [1e-3, 1e-2]}}
        search = {"space": space, "scheduler": "none", "register": "none"}
        store, out = str(tmp_path / f"store-{count}"), tmp_path / f"peak-{count}"
        assert in_child(search_and_weigh, {**written, "store": store, "search": search}, str(out)) == 0
        peaks.append(int(out.read_text()))
    assert size > 30e6 and peaks[1] - peaks[0] < size, (peaks, size)


def test_a_budget_is_held_against_the_smallest_base(two: list[str], tmp_path: Path) -> None:
    written = {**spec_in(tmp_path), "budget": {"seconds": 1e-4}}
    with pytest.raises(RequestError, match="do not hold one epoch of the cheapest method"):
        prepared_worker(written, tmp_path / "w", FakeCoordinator(), bases={base: [] for base in two[::-1]})


@pytest.mark.slow
def test_a_base_that_is_none_of_the_searchs_fails_its_trial_alone(two: list[str], tmp_path: Path) -> None:
    other = str(tmp_path / "base")
    points = [{**HEADS[0], "base": other}, {**HEADS[0], "base": two[0]}]
    coordinator = searched(spec_in(tmp_path), tmp_path / "w", *points, bases={base: [] for base in two})
    assert str(coordinator.ends["t0000"].error).startswith("base: trials of one search share it")
    assert coordinator.ends["t0001"].status == "finished"
    assert trials_of({})[0].id == "t0000"
