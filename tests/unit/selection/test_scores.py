"""Each score equals its definition, derived again; none gives a number where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import helmert
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

from regraft.errors import RequestError
from regraft.selection.evidence import log_evidence
from regraft.selection.folds import folds
from regraft.selection.members import scores
from regraft.selection.score import FeatureScore, FeatureTarget, TargetKind
from regraft.selection.spectrum import spectrum
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


def linear_probe(features: Array, target: FeatureTarget) -> float:
    truth = target.values
    if target.kind is TargetKind.CLASSES:
        truth = np.array([[float(label == each) for each in sorted(set(target.values))] for label in target.values])
    predicted = np.full(truth.shape, np.nan)
    for fold in folds(target, 5, np.random.default_rng(0)):
        rows = np.setdiff1d(np.arange(len(truth)), fold)
        scaler = StandardScaler().fit(features[rows])
        known = scaler.transform(features[rows])
        mean_square = (known**2).sum() / min(len(rows) - 1, features.shape[1])
        alphas = [10 ** (power / 2) * mean_square for power in range(-8, 5)]
        model = RidgeCV(alphas).fit(known, truth[rows])
        predicted[fold] = model.predict(scaler.transform(features[fold]))
    if target.kind is TargetKind.CLASSES:
        return float((predicted.argmax(1) == truth.argmax(1)).mean())
    pooled = "variance_weighted" if target.kind is TargetKind.TAGS else "uniform_average"
    return float(r2_score(truth, predicted, multioutput=pooled))


def logme(features: Array, target: FeatureTarget) -> float:
    rows = len(features)
    contrasts = helmert(rows)  # without the mean, whose prior is flat
    gram = contrasts @ features @ features.T @ contrasts.T
    gram /= np.trace(gram) / rows
    truth = target.values
    if target.kind is TargetKind.CLASSES:
        truth = np.array([[float(label == each) for each in sorted(set(target.values))] for label in target.values])
    found = []
    for column in truth.T.astype(float):
        seen = contrasts @ column / column.std()

        def density(logs: Array, seen: Array = seen) -> float:
            covariance = np.eye(rows - 1) * math.exp(-logs[1]) + gram * math.exp(-logs[0])
            return float(np.linalg.slogdet(2 * np.pi * covariance)[1] + seen @ np.linalg.solve(covariance, seen)) / 2

        starts = [(a, b) for a in range(-2, 8, 3) for b in range(-2, 14, 5)]
        first = min(starts, key=lambda at: density(np.array(at, dtype=float)))
        simplex = np.array(first) + np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        options = {"xatol": 1e-6, "fatol": 1e-9, "initial_simplex": simplex}
        best = minimize(density, first, method="Nelder-Mead", options=options)
        found.append(-best.fun / (rows - 1))
    return float(np.mean(found))


def h_score(features: Array, target: FeatureTarget) -> float:
    if target.kind is TargetKind.TAGS:
        two = [FeatureTarget(TargetKind.CLASSES, tag) for tag in target.values.T]
        return float(np.mean([h_score(features, each) for each in two]))
    centred = features - features.mean(0)
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    means = np.array([centred[target.values == label].mean(0) for label in target.values])
    return float(np.trace(np.linalg.pinv(covariance) @ (means.T @ means / len(means))) * (1 - shrinkage))


def nleep(features: Array, target: FeatureTarget) -> float:
    draw = np.random.default_rng(0)
    truth = target.values
    labels, found = sorted(set(truth)), []
    centred = features - features.mean(0)
    centred /= math.sqrt((centred**2).mean())
    for half in folds(target, 2, draw):
        rows = np.setdiff1d(np.arange(len(truth)), half)
        middle = centred[rows].mean(0)
        _, spread, axes = np.linalg.svd(centred[rows] - middle, full_matrices=False)
        count = int((np.cumsum(spread**2) / (spread**2).sum() <= 0.8).sum()) + 1
        fitted, judged = ((centred[which] - middle) @ axes[:count].T for which in (rows, half))
        clusters = min(5 * len(labels), len(rows) // 5)
        seed = int(draw.integers(2**31))
        mixture = GaussianMixture(clusters, covariance_type="diag", reg_covar=1e-3, random_state=seed).fit(fitted)
        chances = []
        for side in (fitted, judged):
            densities = np.array(
                [
                    weight * multivariate_normal.pdf(side, mean, np.diag(widths))
                    for weight, mean, widths in zip(mixture.weights_, mixture.means_, mixture.covariances_, strict=True)
                ]
            )
            chances.append(densities / densities.sum(0))
        counts = [sum(truth[row] == label for row in rows) for label in labels]
        prior = [(count + 1) / (len(rows) + len(labels)) for count in counts]
        for place, row in enumerate(half):
            likely = 0.0
            for cluster in range(clusters):
                own = sum(chances[0][cluster, at] for at, row2 in enumerate(rows) if truth[row2] == truth[row])
                share = (own + prior[labels.index(truth[row])]) / (chances[0][cluster].sum() + 1)
                likely += chances[1][cluster, place] * share
            found.append(math.log(likely))
    return float(np.mean(found))


REFERENCES: dict[str, Callable[[Array, FeatureTarget], float]] = {
    "h_score": h_score,
    "knn": knn,
    "linear_probe": linear_probe,
    "logme": logme,
    "nleep": nleep,
}


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
    cases = ((1, 30, 50),) if groups else ((0, 45, 7), (1, 30, 50))
    for seed, rows, width in cases:
        features, target = made(kind, rows, width, groups, seed)
        if not score.accepts(target):
            assert kind in score.accepts(target).reason
            with pytest.raises(RequestError, match=kind):
                score.evaluate(features, target, np.random.default_rng(seed))
            continue
        found = score.evaluate(features, target, np.random.default_rng(0))
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


@pytest.mark.parametrize(("rows", "width"), [(60, 200), (60, 20)])
@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 2.0), (30.0, 0.4)])
def test_the_evidence_is_the_density_of_a_gaussian_whether_rows_or_columns_are_more(
    rows: int, width: int, alpha: float, beta: float
) -> None:
    draw = np.random.default_rng(0)
    features, column = draw.normal(size=(rows, width)), draw.normal(size=rows)
    dense = multivariate_normal.logpdf(column, np.zeros(rows), np.eye(rows) / beta + features @ features.T / alpha)
    found = log_evidence(spectrum(features), column, alpha, beta)
    assert found == pytest.approx(dense, abs=1e-6)
    published = found + (width - min(rows, width)) / 2 * math.log(alpha)
    if (width, alpha) == (200, 0.7):
        assert (round(log_evidence(spectrum(features), column, 0.7, 1.3), 2)) == -220.01
        assert round(log_evidence(spectrum(features), column, 0.7, 1.3) + 70 * math.log(0.7), 2) == -244.98
    assert (abs(published - dense) > 1) == (rows < width), "D / 2 ln(alpha) is wrong where rows are fewer"


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("kind", list(TargetKind))
def test_folds_hold_each_row_once_and_keep_groups_together(kind: str, groups: bool) -> None:
    _, target = made(kind, groups=groups)
    found = folds(target, 5, np.random.default_rng(0))
    assert sorted(np.concatenate(found)) == list(range(len(target)))
    assert max(map(len, found)) - min(map(len, found)) <= (3 if groups else 1)
    if target.groups is not None:
        homes = [{int(target.groups[row]) for row in fold} for fold in found]
        assert sum(map(len, homes)) == len(set().union(*homes))
    elif target.kind is TargetKind.CLASSES:
        counts = np.array([[int((target.values[fold] == label).sum()) for label in range(3)] for fold in found])
        assert (np.ptp(counts, axis=0) <= 1).all()


def test_a_group_of_copies_is_no_help_to_itself() -> None:
    draw = np.random.default_rng(0)
    features = np.repeat(draw.normal(size=(30, 40)), 4, 0)
    values = np.repeat(draw.integers(0, 2, 30), 4)
    for name in ("knn", "linear_probe", "nleep"):
        alone, together = (
            scores()[name].evaluate(features, FeatureTarget(TargetKind.CLASSES, values, groups), draw).value
            for groups in (None, np.repeat(np.arange(30), 4))
        )
        assert together < alone - 0.1, name


@pytest.mark.parametrize("name", ["knn", "linear_probe"])
@pytest.mark.parametrize("kind", list(TargetKind))
def test_half_of_the_other_rows_foretell_less(name: str, kind: str) -> None:
    features, target = made(kind, 400, 12)
    found = scores()[name].evaluate(features, target, np.random.default_rng(0))
    assert found.by_row is not None and found.by_half is not None
    assert found.by_half.shape == found.by_row.shape
    assert found.value - 0.2 < found.by_half.mean() < found.value


def test_targets_that_are_not_what_they_say_are_refused() -> None:
    for kind, values in (("classes", [[0, 1], [1, 0]]), ("numbers", [math.nan, 1.0]), ("tags", [[[True]]])):
        with pytest.raises(RequestError):
            FeatureTarget(TargetKind(kind), np.array(values))
    with pytest.raises(RequestError, match="groups"):
        FeatureTarget(TargetKind.CLASSES, np.array([0, 1]), np.array([1]))
