"""Targets that fp32 cannot hold: scores are of the file's own numbers, and answers are as far off as is said."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.errors import DataError, Unsupported
from regraft.serving.export import export
from regraft.spec.run import RunSpec
from regraft.tasks.outputs.number_range import deviation_of, mean_of
from regraft.tasks.outputs.regression import ScaledLinear, _fit
from regraft.training.session import train_local
from unit.serving import tiny

WORDS = tiny.SPOKEN.split()
TARGETS: dict[str, Callable[[int], float]] = {
    "large and close together": lambda n: 10**15 + n,
    "unix times": lambda n: 1_700_000_000 + 10 * n,
    "beyond fp32": lambda n: 1e40 if n % 2 else -1e40,
    "far beyond fp32": lambda n: 1e299 * (n % 5 - 2),
    "below fp32": lambda n: (1 + n % 2) * 1e-290,
    "small beside a large mean": lambda n: 1e9 + 1e-6 * n,
    "ordinary": lambda n: n / 7,
}
SHORT = ("large and close together", "below fp32")
"""Kinds of the default run; the others take as long each."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.bert(tmp_path_factory.mktemp("bases") / "cls")


def written(path: Path, targets: list[float], count: int = 40) -> list[str]:
    rng = random.Random(0)
    texts = [" ".join(rng.choice(WORDS) for _ in range(5)) for _ in range(count)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "y"), *((text, repr(y)) for text, y in zip(texts, targets, strict=True))])
    return texts


def spec(tmp_path: Path, base: Path) -> RunSpec:
    rows = str(tmp_path / "n.csv")
    return RunSpec.resolve({
        "name": "n", "base": str(base), "task": "text-regression", "method": "full", "store": str(tmp_path / "store"),
        "data": {"train": rows, "eval": rows, "columns": {"text": "text", "target": "y"}},
        "training": {"epochs": 1, "batch_size": 8, "lr": 1e-3}, "compute": {"workers": 0},
    })  # fmt: skip


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in SHORT else pytest.mark.slow) for kind in sorted(TARGETS)]
)
def test_the_error_that_is_said_is_the_error_of_the_answers(
    tmp_path: Path, base: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    targets = [TARGETS[kind](n) for n in range(40)]
    texts = written(tmp_path / "n.csv", targets)
    outcome = train_local(spec(tmp_path, base))
    model = regraft.load("n", store=str(tmp_path / "store"))
    answers = [answer["values"]["target"] for answer in model.predict(texts)]
    spread = max(targets) - min(targets)
    errors = [abs(answer - target) for answer, target in zip(answers, targets, strict=True)]
    assert outcome.metrics["mae"] == pytest.approx(sum(error / spread for error in errors) / 40 * spread, rel=1e-3)
    assert 0 < outcome.metrics["mae"] <= outcome.metrics["rmse"] * (1 + 1e-9) < spread
    assert len(set(answers)) > 30, "answers are as fine as the model's own outputs"
    assert np.isfinite(list(outcome.metrics.values())).all()
    json.dumps(outcome.metrics, allow_nan=False)


@pytest.mark.parametrize("cell", ["1e308", "-1.7e308", "inf", "-inf", "nan", "NaN", "1e999", "9" * 400])
def test_numbers_that_nothing_can_be_computed_with_are_bad_rows(tmp_path: Path, base: Path, cell: str) -> None:
    written(tmp_path / "n.csv", [float(n) for n in range(40)])
    with (tmp_path / "n.csv").open("a") as file:
        file.write(f"reset it,{cell}\n")
    with pytest.raises(DataError, match=r"n\.csv:42: y:? is .*(too large to compute with|finite number is wanted)"):
        train_local(spec(tmp_path, base))


def test_numbers_that_hardly_differ_are_refused_with_their_column(tmp_path: Path, base: Path) -> None:
    written(tmp_path / "n.csv", [(1 + n % 2) * 1e-310 for n in range(40)])
    with pytest.raises(DataError, match=r"column target: the numbers differ by 5e-311 .* multiply the column"):
        train_local(spec(tmp_path, base))


def test_a_model_that_fp32_cannot_hold_is_not_exported(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    task = {"type": "text-regression", "mean": [1e15], "deviation": [11.5]}
    tiny.publish(tmp_path / "store", base, task, "feature-extraction", "far", labels=())
    with pytest.raises(Unsupported, match=r"fp32, which cannot hold its targets: their mean is 1e\+15"):
        export(str(tmp_path / "store"), "far", tmp_path / "out")
    task = {"type": "text-regression", "mean": [2000.0], "deviation": [5.0]}
    tiny.publish(tmp_path / "store", base, task, "feature-extraction", "near", labels=())
    assert export(str(tmp_path / "store"), "near", tmp_path / "out").folder.is_dir()


def scores(true: list[float], predicted: list[float]) -> dict[str, float]:
    return _fit(np.array(true), np.array(predicted))


@pytest.mark.parametrize("scale", [2.0**-1000, 2.0**-300, 1.0, 2.0**40, 2.0**300, 2.0**900])
@pytest.mark.parametrize("shift", [0.0, 2.0**20, 2.0**50])
def test_scores_do_not_depend_on_the_unit_or_the_origin(scale: float, shift: float) -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 1000, 50).astype(float), rng.integers(0, 1000, 50).astype(float)
    wanted, found = scores(list(true), list(predicted)), _fit((true + shift) * scale, (predicted + shift) * scale)
    for name in ("spearman", "pearson", "r2"):
        assert found[name] == pytest.approx(wanted[name], abs=1e-9)
    for name in ("mae", "rmse"):
        assert found[name] == pytest.approx(wanted[name] * scale, rel=1e-9)


def test_means_and_deviations_are_those_of_numpy_where_it_computes_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        numbers = rng.normal(rng.normal() * 1e3, 10.0 ** rng.integers(-6, 6), 30)
        assert (mean_of(numbers), deviation_of(numbers)) == (numbers.mean(), numbers.std())
        assert deviation_of(np.full(7, numbers[0])) == 0.0


def test_a_layer_answers_between_the_steps_of_fp32() -> None:
    layer: Any = ScaledLinear(torch.nn.Linear(4, 1), torch.tensor([1e15], dtype=torch.float64), torch.tensor([11.5]))
    states = torch.randn(64, 4)
    with torch.no_grad():
        found = layer(states)
    assert found.dtype == torch.float64 and len(found.unique()) > 40
    assert (found - 1e15).abs().max() < 100
