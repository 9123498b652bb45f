"""Prototypes against nearest class means computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn

from regraft.contracts import Method
from regraft.errors import Unsupported
from regraft.methods.prototypes import NEVER, SHARPNESS, Prototypes
from regraft.training.closed_form import solved as solved_head

METRICS = pytest.mark.parametrize("method", [Prototypes(metric="cosine"), Prototypes(metric="euclidean")])
ALL = pytest.mark.parametrize(
    "method",
    [
        Prototypes(metric=metric, covariance=covariance)
        for metric in ("cosine", "euclidean")
        for covariance in ("none", "shared")
    ],
    ids=lambda method: f"{method.metric}-{method.covariance}",
)


def rows(number: int = 60, width: int = 5, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(number, width, generator=generator) + 0.5
    return features, torch.randint(0, classes, (number,), generator=generator)


def solved(method: Prototypes, features: torch.Tensor, labels: torch.Tensor, classes: int = 4) -> nn.Linear:
    head = nn.Linear(features.shape[1], classes, dtype=features.dtype)
    return solved_head(method, features, labels, classes, head=head)


def test_euclidean_logits_are_distances_to_the_class_means() -> None:
    features, labels = rows()
    means = torch.stack([features[labels == label].mean(0) for label in range(4)])
    logits = solved(Prototypes(metric="euclidean"), features, labels)(features)
    distances = -torch.cdist(features, means).square() + features.square().sum(1, keepdim=True)
    torch.testing.assert_close(logits, distances, rtol=1e-4, atol=1e-4)


def test_cosine_logits_are_angles_to_the_mean_directions() -> None:
    features, labels = rows()
    units = nn.functional.normalize(features, dim=1)
    means = nn.functional.normalize(torch.stack([units[labels == label].mean(0) for label in range(4)]), dim=1)
    head = solved(Prototypes(), features, labels)
    wanted = features @ means.T * SHARPNESS / features.norm(dim=1).mean()
    torch.testing.assert_close(head(features), wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(head(features).argmax(1), (units @ means.T).argmax(1))
    assert not head.bias.any()


@ALL
def test_statistics_add_up_over_any_split(method: Prototypes) -> None:
    features, labels = rows()
    first = method.statistics(features, labels, 4)
    whole = first | method.refine(features, labels, first)
    parts = [
        method.statistics(features[cut], labels[cut], 4) | method.refine(features[cut], labels[cut], first)
        for cut in (slice(0, 7), slice(7, 7), slice(7, None))
    ]
    for name, total in whole.items():
        assert total.dtype == torch.float64
        torch.testing.assert_close(sum(part[name] for part in parts), total, rtol=1e-12, atol=1e-12)


@ALL
def test_a_class_without_rows_is_never_answered(method: Prototypes) -> None:
    features, labels = rows()
    head = solved(method, features[labels != 2], labels[labels != 2])
    logits = head(1e3 * features)
    assert head.bias[2] == NEVER
    assert torch.isfinite(logits).all()
    assert (logits.softmax(1)[:, 2] == 0).all()


@ALL
def test_rows_without_a_label_do_not_count(method: Prototypes) -> None:
    features, labels = rows()
    some, hidden = labels.clone(), torch.arange(60) % 3 == 0
    some[hidden] = -100
    one, two = solved(method, features, some), solved(method, features[~hidden], labels[~hidden])
    assert torch.equal(one.weight, two.weight)


@ALL
def test_no_rows_at_all_is_reported(method: Prototypes) -> None:
    features, labels = rows(0)
    with pytest.raises(Unsupported, match="no labelled rows"):
        solved(method, features, labels)


@ALL
def test_features_of_zeros_stay_finite(method: Prototypes) -> None:
    head = solved(method, torch.zeros(4, 5), torch.arange(4))
    assert torch.isfinite(head.weight).all()


def test_a_head_without_bias_serves_cosine_only() -> None:
    features, labels = rows()
    head = nn.Linear(5, 4, bias=False)
    Prototypes().solve(head, Prototypes().statistics(features, labels, 4))
    euclidean = Prototypes(metric="euclidean")
    with pytest.raises(Unsupported, match="the head has no bias"):
        euclidean.solve(head, euclidean.statistics(features, labels, 4))


def uneven(number: int = 90, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows in float64 of four classes of uneven sizes, whose features are correlated and have other scales."""
    draw = np.random.default_rng(7)
    labels = draw.choice(4, number, p=[0.5, 0.3, 0.15, 0.05])
    mixing = draw.normal(size=(width, width)) * draw.uniform(0.3, 3, width)
    features = draw.normal(size=(number, width)) @ mixing + draw.normal(size=(4, width))[labels] + 1
    return torch.from_numpy(features), torch.from_numpy(labels)


def reference(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and bias of W = S^-1 mu, b = ln pi - mu' S^-1 mu / 2, with scikit-learn's Ledoit and Wolf."""
    means = np.stack([features[labels == label].mean(0) for label in range(4)])
    covariance, _ = sklearn_ledoit_wolf(features - means[labels], assume_centered=True)
    weight = np.linalg.solve(covariance, means.T).T
    return weight, np.log(np.bincount(labels) / len(labels)) - 0.5 * (weight * means).sum(1)


class Fixed:
    """A covariance that is known: scikit-learn asks for one a class, and averages them."""

    def __init__(self, covariance: np.ndarray) -> None:
        self.covariance_ = covariance

    def fit(self, rows: np.ndarray) -> Fixed:
        return self


@pytest.mark.parametrize(("number", "width"), [(90, 6), (40, 60), (2000, 6)])
def test_a_shared_covariance_is_gaussian_discriminant_analysis(number: int, width: int) -> None:
    features, labels = uneven(number, width)
    head = solved(Prototypes(cosine=False, covariance="shared"), features, labels)
    weight, bias = reference(features.numpy(), labels.numpy())
    np.testing.assert_allclose(head.weight.detach(), weight, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(head.bias.detach(), bias, rtol=1e-6, atol=1e-6)


def test_a_shared_covariance_is_that_of_scikit_learn_given_the_same_shrinkage() -> None:
    """Its `shrinkage="auto"` shrinks each class by itself: the oracle gets the covariance of all classes instead."""
    features, labels = uneven()
    means = torch.stack([features[labels == label].mean(0) for label in range(4)])
    covariance, _ = sklearn_ledoit_wolf((features - means[labels]).numpy(), assume_centered=True)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Fixed(covariance))
    oracle.fit(features.numpy(), labels.numpy())
    head = solved(Prototypes(cosine=False, covariance="shared"), features, labels)
    with torch.no_grad():
        probabilities = head(features).softmax(1)
    np.testing.assert_allclose(probabilities, oracle.predict_proba(features.numpy()), rtol=1e-6, atol=1e-6)


def test_with_one_class_and_equal_scales_it_shrinks_as_scikit_learn_does_by_itself() -> None:
    """Two classes that are shifted copies of standardised rows: each class then has the covariance of both."""
    rows_of_one = np.random.default_rng(3).normal(size=(50, 4))
    rows_of_one = (rows_of_one - rows_of_one.mean(0)) / rows_of_one.std(0)
    features, labels = np.concatenate([rows_of_one, rows_of_one + 1.5]), np.repeat([0, 1], 50)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(features, labels)
    head = solved(
        Prototypes(cosine=False, covariance="shared"), torch.from_numpy(features), torch.from_numpy(labels), 2
    )
    with torch.no_grad():
        logits = head(torch.from_numpy(features))
    found, wanted = (logits[:, 1] - logits[:, 0]).numpy(), oracle.decision_function(features)
    assert (np.sign(found) == np.sign(wanted)).mean() > 0.98
    np.testing.assert_allclose(found, wanted, rtol=0.05, atol=0.2)


def test_directions_have_a_covariance_of_their_own() -> None:
    features, labels = uneven()
    length = features.norm(dim=1).mean()
    units = nn.functional.normalize(features, dim=1)
    weight, bias = reference(units.numpy(), labels.numpy())
    head = solved(Prototypes(covariance="shared"), features, labels)
    np.testing.assert_allclose(head.weight.detach() * length, weight, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(head.bias.detach(), bias, rtol=1e-6, atol=1e-6)


@ALL
def test_one_row_a_class_gives_plain_prototypes_and_says_so(method: Prototypes) -> None:
    features, labels = rows(4)[0], torch.arange(4)
    head = nn.Linear(5, 4)
    statistics = method.statistics(features, labels, 4)
    note = method.solve(head, statistics | method.refine(features, labels, statistics))
    plain = solved(Prototypes(metric=method.metric), features, labels)
    assert torch.equal(head.weight, plain.weight) and torch.equal(head.bias, plain.bias)
    assert head(features).argmax(1).tolist() == [0, 1, 2, 3]
    assert (note is None) == (method.covariance == "none")
    assert note is None or "no class has two different rows" in note


def test_equal_rows_have_no_covariance_either() -> None:
    features = rows(4)[0].repeat(3, 1)
    labels = torch.arange(4).repeat(3)
    method = Prototypes(cosine=False, covariance="shared")
    assert torch.equal(
        solved(method, features, labels).weight, solved(Prototypes(cosine=False), features, labels).weight
    )


def test_two_rows_of_one_class_are_enough() -> None:
    features, labels = rows(5)[0].double(), torch.tensor([0, 1, 2, 3, 3])
    head = solved(Prototypes(cosine=False, covariance="shared"), features, labels)
    assert torch.isfinite(head.weight).all()
    assert head(features).argmax(1)[:3].tolist() == [0, 1, 2]


def test_cosine_is_another_word_for_the_metric() -> None:
    for written, metric in ((True, "cosine"), (False, "euclidean")):
        method = Method.parse({"type": "prototypes", "cosine": written})
        assert method == Method.parse({"type": "prototypes", "metric": metric})
    with pytest.raises(ValidationError, match="cosine"):
        Method.parse({"type": "prototypes", "cosine": "often"})


def test_new_fields_at_their_defaults_are_in_no_document() -> None:
    assert Prototypes().model_dump(mode="json") == {"type": "prototypes", "metric": "cosine"}
    method = Prototypes(covariance="shared")
    assert Method.parse(method.model_dump(mode="json")) == method


@pytest.mark.parametrize("written", ["full", "own", None, True])
def test_a_covariance_of_another_kind_is_refused(written: object) -> None:
    with pytest.raises(ValidationError, match="'none' or 'shared'"):
        Method.parse({"type": "prototypes", "covariance": written})


def test_it_needs_no_steps_and_serves_by_its_head() -> None:
    assert Prototypes.closed_form
    assert Prototypes().serves == "head"
