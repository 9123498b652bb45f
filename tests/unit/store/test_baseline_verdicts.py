"""A score is better or worse than a baseline only where the interval of the difference says so."""

from __future__ import annotations

from typing import Any

import pytest

from regraft.store.baseline_verdicts import compare, recorded_verdicts, sentence

ACCURACY = {"name": "accuracy", "mode": "max"}


@pytest.mark.parametrize(
    ("mode", "value", "bounds", "outcome"),
    [
        ("max", 0.9, {"low": 0.05, "high": 0.15}, "better"),
        ("max", 0.7, {"low": -0.15, "high": -0.05}, "worse"),
        ("max", 0.81, {"low": -0.02, "high": 0.04}, "not distinguishable"),
        ("max", 0.9, {"low": 0.0, "high": 0.2}, "not distinguishable"),
        ("min", 0.7, {"low": -0.15, "high": -0.05}, "better"),
        ("min", 0.9, {"low": 0.05, "high": 0.15}, "worse"),
        ("max", 0.9, None, "above"),
        ("max", 0.7, None, "below"),
        ("min", 0.9, None, "below"),
        ("max", 0.8, None, "equal"),
    ],
)
def test_the_interval_decides(mode: str, value: float, bounds: Any, outcome: str) -> None:
    (verdict,) = compare({"name": "x", "mode": mode}, value, {"majority": {"x": 0.8}}, {"majority": bounds})
    assert verdict.outcome == outcome and verdict.value == 0.8
    assert ("no interval is known" in verdict.text) == (bounds is None)


def test_every_baseline_stands_in_one_sentence() -> None:
    meta = {
        "score": ACCURACY,
        "metrics": {"accuracy": 0.908},
        "baselines": {"majority": {"accuracy": 0.5}, "nearest_centroid": {"accuracy": 0.948}},
        "gain": {"mean": -0.04, "low": -0.07, "high": -0.01},
        "gains": {"majority": {"mean": 0.408, "low": 0.3, "high": 0.5}},
    }
    assert sentence(recorded_verdicts(meta), "accuracy") == (
        "By accuracy, this model is better than the baseline majority (0.5; +0.408, 95 % interval +0.300 to +0.500) "
        "and worse than the baseline nearest centroid (0.948; -0.040, 95 % interval -0.070 to -0.010)."
    )


def test_what_an_old_version_recorded_is_read_too() -> None:
    meta = {"score": ACCURACY, "metrics": {"accuracy": 0.9}, "baselines": {"majority": 0.5}, "gain": None}
    assert [verdict.outcome for verdict in recorded_verdicts(meta)] == ["above"]


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"score": ACCURACY, "metrics": {}, "baselines": {"majority": {"accuracy": 0.5}}},
        {"score": ACCURACY, "metrics": {"accuracy": float("nan")}, "baselines": {"majority": {"accuracy": 0.5}}},
        {"score": ACCURACY, "metrics": {"accuracy": 0.5}, "baselines": {"majority": {"f1": 0.5}}},
    ],
)
def test_nothing_is_said_where_nothing_can_be_compared(meta: Any) -> None:
    assert recorded_verdicts(meta) == () and sentence((), "accuracy") == ""
