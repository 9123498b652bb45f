"""Prototypes against nearest class means computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regraft.errors import Unsupported
from regraft.methods.prototypes import NEVER, SHARPNESS, Prototypes

METRICS = pytest.mark.parametrize("method", [Prototypes(metric="cosine"), Prototypes(metric="euclidean")])


def rows(number: int = 60, width: int = 5, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(number, width, generator=generator) + 0.5
    return features, torch.randint(0, classes, (number,), generator=generator)


def solved(method: Prototypes, features: torch.Tensor, labels: torch.Tensor, classes: int = 4) -> nn.Linear:
    head = nn.Linear(features.shape[1], classes)
    method.solve(head, method.statistics(features, labels, classes))
    return head


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


@METRICS
def test_statistics_add_up_over_any_split(method: Prototypes) -> None:
    features, labels = rows()
    whole = method.statistics(features, labels, 4)
    parts = [method.statistics(features[cut], labels[cut], 4) for cut in (slice(0, 7), slice(7, 7), slice(7, None))]
    for name, total in whole.items():
        assert total.dtype == torch.float64
        torch.testing.assert_close(sum(part[name] for part in parts), total, rtol=1e-12, atol=1e-12)


@METRICS
def test_a_class_without_rows_is_never_answered(method: Prototypes) -> None:
    features, labels = rows()
    head = solved(method, features[labels != 2], labels[labels != 2])
    logits = head(1e3 * features)
    assert head.bias[2] == NEVER
    assert torch.isfinite(logits).all()
    assert (logits.softmax(1)[:, 2] == 0).all()


@METRICS
def test_rows_without_a_label_do_not_count(method: Prototypes) -> None:
    features, labels = rows()
    some, hidden = labels.clone(), torch.arange(60) % 3 == 0
    some[hidden] = -100
    one, two = solved(method, features, some), solved(method, features[~hidden], labels[~hidden])
    assert torch.equal(one.weight, two.weight)


@METRICS
def test_no_rows_at_all_is_reported(method: Prototypes) -> None:
    features, labels = rows(0)
    with pytest.raises(Unsupported, match="no labelled rows"):
        solved(method, features, labels)


@METRICS
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


def test_it_needs_no_steps_and_serves_by_its_head() -> None:
    assert Prototypes.closed_form
    assert Prototypes().serves == "head"
