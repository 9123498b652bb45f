"""Each score equals its definition, derived again; none gives a number where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from regraft.errors import RequestError
from regraft.selection.members import scores
from regraft.selection.score import FeatureScore, FeatureTarget, TargetKind
from support.paths import PLATFORM

Array = NDArray[np.float64]
NAMES = sorted(path.stem for path in (PLATFORM / "regraft/selection/scores").glob("[a-z]*.py"))


def made(kind: str, rows: int = 61, width: int = 7, groups: bool = False, seed: int = 0) -> tuple[Array, FeatureTarget]:
    """Features that say something about a target of that kind."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(rows, width)) * np.linspace(0.5, 3, width) + 2
    signal = features @ draw.normal(size=(width, 3)) + draw.normal(size=(rows, 3)) * 3
    signal -= signal.mean(0)
    values = {"classes": signal.argmax(1), "numbers": signal[:, :2], "tags": signal > 0}[kind]
    return features, FeatureTarget(TargetKind(kind), values, np.arange(rows) // 3 if groups else None)


def knn(features: Array, target: FeatureTarget) -> float:
    centred = features - features.mean(0)
    truth, found = target.values, []
    for row in range(len(features)):
        others = [o for o in range(len(features)) if o != row]
        if target.groups is not None:
            others = [o for o in others if target.groups[o] != target.groups[row]]
        cosine = {
            o: centred[row] @ centred[o] / math.sqrt(centred[row] @ centred[row]) / math.sqrt(centred[o] @ centred[o])
            for o in others
        }
        near = sorted(others, key=lambda o: -cosine[o])[:5]
        if target.kind is TargetKind.CLASSES:
            votes = {label: [cosine[o] for o in near if truth[o] == label] for label in {truth[o] for o in near}}
            found.append(float(max(votes, key=lambda label: (len(votes[label]), sum(votes[label]))) == truth[row]))
        else:
            found.append((truth[near].mean(0) - truth[row]) ** 2)
    if target.kind is TargetKind.CLASSES:
        return float(np.mean(found))
    errors, variances = np.mean(found, axis=0), truth.var(0)
    pooled = target.kind is TargetKind.TAGS
    return float(1 - errors.sum() / variances.sum() if pooled else np.mean(1 - errors / variances))


REFERENCES: dict[str, Callable[[Array, FeatureTarget], float]] = {"knn": knn}


@pytest.fixture(params=NAMES)
def score(request: pytest.FixtureRequest) -> FeatureScore:
    return scores()[request.param]


def test_the_folder_holds_one_score_a_file_each_with_a_reference_here() -> None:
    assert list(scores()) == NAMES == sorted(REFERENCES)


def test_it_is_documented(score: FeatureScore) -> None:
    assert type(score).__doc__ and type(score).__doc__ != FeatureScore.__doc__


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("kind", list(TargetKind))
def test_it_equals_the_reference_or_says_why_there_is_none(score: FeatureScore, kind: str, groups: bool) -> None:
    for seed, rows, width in ((0, 61, 7), (1, 40, 90)):
        features, target = made(kind, rows, width, groups, seed)
        if not score.accepts(target):
            assert kind in score.accepts(target).reason
            with pytest.raises(RequestError, match=kind):
                score.evaluate(features, target, np.random.default_rng(seed))
            continue
        found = score.evaluate(features, target, np.random.default_rng(seed))
        assert found.value == pytest.approx(REFERENCES[score.name](features, target), abs=1e-6)
        if found.by_row is not None:
            assert found.by_row.shape == (rows,)
            assert found.value == pytest.approx(found.by_row.mean(), abs=1e-12)


@pytest.mark.parametrize("change", [lambda f: f * 1e-3, lambda f: f * 1e3, lambda f: f + 50.0])
@pytest.mark.parametrize("kind", list(TargetKind))
def test_scale_and_shift_of_features_change_nothing(
    score: FeatureScore, kind: str, change: Callable[[Array], Array]
) -> None:
    features, target = made(kind, 60, 80)
    if score.accepts(target):
        plain, changed = (
            score.evaluate(each, target, np.random.default_rng(0)) for each in (features, change(features))
        )
        assert changed.value == pytest.approx(plain.value, abs=1e-3)


@pytest.mark.parametrize("kind", list(TargetKind))
def test_rows_alike_and_features_without_meaning_give_a_number(score: FeatureScore, kind: str) -> None:
    features, target = made(kind, 40)
    if score.accepts(target):
        informed, alike, noise = (
            score.evaluate(each, target, np.random.default_rng(0)).value
            for each in (features, np.ones_like(features), np.random.default_rng(9).normal(size=features.shape))
        )
        assert math.isfinite(alike) and math.isfinite(noise)
        assert informed > noise


@pytest.mark.parametrize(
    ("kind", "values", "groups", "words"),
    [
        ("classes", [0, 1, 2], None, "no class has two rows"),
        ("classes", [1, 1, 1], None, "same label"),
        ("numbers", [[1.5], [1.5], [1.5]], None, "same label"),
        ("classes", [1], None, "at least 2"),
        ("classes", [0, 1, 1], [7, 7, 7], "one group"),
    ],
)
def test_targets_without_contrast_are_refused(
    score: FeatureScore, kind: str, values: list[object], groups: list[int] | None, words: str
) -> None:
    target = FeatureTarget(TargetKind(kind), np.array(values), None if groups is None else np.array(groups))
    if target.kind in score.kinds:
        assert words in score.accepts(target).reason
        with pytest.raises(RequestError, match=words):
            score.evaluate(np.ones((len(target), 2)), target, np.random.default_rng(0))


def test_features_that_do_not_fit_are_refused(score: FeatureScore) -> None:
    features, target = made("classes")
    for wrong in (features[:-1], features[:, :0], np.where(features > 4, np.nan, features)):
        with pytest.raises(RequestError, match="features"):
            score.evaluate(wrong, target, np.random.default_rng(0))


def test_targets_that_are_not_what_they_say_are_refused() -> None:
    for kind, values in (("classes", [[0, 1], [1, 0]]), ("numbers", [math.nan, 1.0]), ("tags", [[[True]]])):
        with pytest.raises(RequestError):
            FeatureTarget(TargetKind(kind), np.array(values))
    with pytest.raises(RequestError, match="groups"):
        FeatureTarget(TargetKind.CLASSES, np.array([0, 1]), np.array([1]))
