"""Curves are nested and measured on rows that fit nothing; the law recovers what made the scores."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from regraft.errors import RequestError
from regraft.selection.curve_findings import curve_findings
from regraft.selection.learning_curve import MeasuredCurve, measure_curve, rows_to_reach
from regraft.selection.learning_law import fit_law
from regraft.selection.ridge import fit_ridge
from regraft.selection.score import FeatureTarget, TargetKind

Array = NDArray[np.float64]
SHARES = np.array([0.05, 0.1, 0.25, 0.5, 1.0])


def rows_of(count: int, noise: float = 1.0, seed: int = 0) -> tuple[Array, FeatureTarget]:
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(count, 30))
    signal = features @ np.random.default_rng(99).normal(size=(30, 3)) + draw.normal(size=(count, 3)) * noise
    return features, FeatureTarget(TargetKind.CLASSES, signal.argmax(1))


def lawful(a: float, b: float, c: float, noise: float = 0.0, total: int = 1000) -> MeasuredCurve:
    rows = SHARES * total
    scores = a - b * SHARES**-c + np.random.default_rng(0).normal(0, 1, (10, 5)) * noise
    return MeasuredCurve(SHARES, rows, scores)


def test_more_labels_score_higher_and_all_rows_are_one_fit() -> None:
    features, target = rows_of(500)
    judges = np.arange(300, 500)
    found = measure_curve(features, target, np.random.default_rng(0), judges=judges)
    assert found.scores.shape == (10, 5) and list(found.rows) == [15, 30, 75, 150, 300]
    assert found.values[-1] > found.values[0] + 0.1
    assert found.spreads[-1] < 1e-9, "all orders of all rows are the same rows"
    predicted = fit_ridge(features[:300], target.columns()[:300]).predict(features[judges])
    assert found.values[-1] == pytest.approx((predicted.argmax(1) == target.values[judges]).mean())


def test_without_judges_every_row_is_judged_by_heads_of_others() -> None:
    features, target = rows_of(200)
    shuffled = FeatureTarget(TargetKind.CLASSES, np.random.default_rng(1).permutation(target.values))
    found = measure_curve(features, shuffled, np.random.default_rng(0))
    assert list(found.rows) == [8, 16, 40, 80, 160]
    assert abs(found.values[-1] - 1 / 3) < 0.12, "labels without meaning are not foretold"


@pytest.mark.parametrize("kind", [TargetKind.NUMBERS, TargetKind.TAGS])
def test_numbers_and_tags_have_a_curve_and_groups_enter_whole(kind: TargetKind) -> None:
    features, _ = rows_of(240)
    values = features[:, :2] + np.random.default_rng(0).normal(size=(240, 2)) * 0.5
    target = FeatureTarget(kind, values > 0 if kind is TargetKind.TAGS else values, np.arange(240) // 4)
    found = measure_curve(features, target, np.random.default_rng(0))
    assert found.values[-1] > found.values[0]
    assert all(count % 4 == 0 for count in found.rows)


def test_two_bases_with_equal_generators_have_the_same_rows() -> None:
    features, target = rows_of(200)
    one, other = (measure_curve(features, target, np.random.default_rng(3)) for _ in range(2))
    assert (one.scores == other.scores).all()


def test_too_few_rows_are_refused() -> None:
    features, target = rows_of(8)
    with pytest.raises(RequestError, match="8 labelled rows are too few"):
        measure_curve(features, target, np.random.default_rng(0))


def test_the_rows_that_reach_a_value_are_read_off_the_curve() -> None:
    curve = lawful(0.9, 0.1, 0.5)
    assert rows_to_reach(curve, float(curve.values[2])) == pytest.approx(250)
    assert 250 < (rows_to_reach(curve, float(curve.values[2]) + 0.01) or 0) < 500
    assert rows_to_reach(curve, 0.0) == 50
    assert rows_to_reach(curve, 0.95) is None


@pytest.mark.parametrize(("a", "b", "c"), [(0.95, 0.05, 0.5), (0.8, 0.1, 0.3), (0.99, 0.02, 1.0), (0.7, 0.0, 0.5)])
def test_the_law_holds_what_made_the_scores(a: float, b: float, c: float) -> None:
    law = fit_law(lawful(a, b, c, noise=0.004).up_to(0.5), np.random.default_rng(0))
    truth = a - b
    found = law.at(1000)
    assert found.low <= truth <= found.high and found.high - found.low < 0.1
    gain = fit_law(lawful(a, b, c, noise=0.004), np.random.default_rng(0)).gain(1000, 2000)
    assert gain.low - 0.003 <= b * (1 - 2**-c) <= gain.high + 0.003
    assert gain.low >= 0


def test_scores_that_fall_with_more_labels_promise_nothing() -> None:
    falling = MeasuredCurve(SHARES, SHARES * 1000, np.tile(0.8 - 0.3 * SHARES, (10, 1)))
    law = fit_law(falling, np.random.default_rng(0))
    assert law.gain(1000, 2000).value < 0.01
    assert np.isfinite([law.at(2000).low, law.at(2000).high]).all()


def test_the_findings_say_what_more_labels_bring_and_what_transfer_saves() -> None:
    found = curve_findings(lawful(0.95, 0.05, 0.5), lawful(0.9, 0.1, 0.5))
    assert [point["rows"] for point in found["points"]] == [50, 100, 250, 500, 1000]
    assert found["points"][0]["adapted"] > found["points"][0]["random"]
    assert found["doubled"]["rows"] == 2000 and 0 < found["doubled"]["value"] < 0.03
    assert found["saved"]["of"] == 1000 and 50 < found["saved"]["rows"] < 500
    assert found["sentences"][0].startswith("twice the labels (1,000 to 2,000) would bring +0.0")
    assert found["sentences"][1].startswith("with ") and "transfer saves" in found["sentences"][1]
    assert found["law"][-1]["low"] < found["law"][-1]["value"] < found["law"][-1]["high"]


def test_a_base_that_never_reaches_random_weights_saves_nothing_and_one_that_always_does_saves_at_least() -> None:
    worse = curve_findings(lawful(0.8, 0.1, 0.5), lawful(0.9, 0.1, 0.5))
    assert worse["saved"] is None and worse["sentences"][1].endswith("transfer saves none")
    better = curve_findings(lawful(0.99, 0.01, 0.5), lawful(0.6, 0.1, 0.5))
    assert better["sentences"][1].endswith("with 1,000: transfer saves at least 950")
    assert len(curve_findings(lawful(0.9, 0.1, 0.5))["sentences"]) == 1
