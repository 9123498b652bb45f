"""The prototypical loss equals Snell's formula in float64, with exact gradients, whatever the order of the rows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regraft.contracts import Anatomy, Step
from regraft.errors import Unsupported
from regraft.losses.prototypical import Prototypical, episode_loss, split_episode

ANATOMY = Anatomy("base", (), (), ("head",), "")
WAY, SHOT, QUERY = 4, 2, 3


def rows(seed: int = 0, width: int = 5) -> tuple[Tensor, Tensor]:
    draw = np.random.default_rng(seed)
    labels = np.repeat([7, 2, 9, 4], SHOT + QUERY)
    return torch.from_numpy(draw.normal(size=(len(labels), width))), torch.from_numpy(labels)


def value(loss: Prototypical, features: Tensor, labels: Tensor) -> Tensor:
    found: Tensor = loss.build(nn.Linear(5, 3), ANATOMY)(
        Step({"labels": labels}, SimpleNamespace(logits=None), features, 0.5)
    )
    return found


def reference(features: np.ndarray, labels: np.ndarray, *, cosine: bool = False, temperature: float = 1.0) -> float:
    if cosine:
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    names = sorted(set(labels.tolist()))
    places = {name: np.flatnonzero(labels == name) for name in names}
    means = np.stack([features[places[name][:SHOT]].mean(0) for name in names])
    losses = []
    for number, name in enumerate(names):
        for row in features[places[name][SHOT:]]:
            scores = -((row - means) ** 2).sum(1) / temperature
            losses.append(-scores[number] + np.log(np.exp(scores).sum()))
    return float(np.mean(losses))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_it_is_the_cross_entropy_over_distances_to_class_means(metric: str, temperature: float) -> None:
    features, labels = rows()
    loss = Prototypical.model_validate(
        {"way": WAY, "shot": SHOT, "query": QUERY, "metric": metric, "temperature": temperature}
    )
    expected = reference(features.numpy(), labels.numpy(), cosine=metric == "cosine", temperature=temperature)
    assert value(loss, features, labels).item() == pytest.approx(expected, abs=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    features, labels = rows()
    assert torch.autograd.gradcheck(lambda found: episode_loss(found, labels, SHOT), features.requires_grad_())


def test_rows_of_different_classes_may_come_in_any_order() -> None:
    features, labels = rows()
    order = torch.from_numpy(np.random.default_rng(1).permutation(len(labels)))
    order = torch.cat([order[labels[order] == name] for name in (2, 4, 7, 9)]).reshape(WAY, -1).T.flatten()
    places = [order[labels[order] == name] for name in (7, 2, 9, 4)]
    grouped = torch.cat(places)
    loss = Prototypical(way=WAY, shot=SHOT, query=QUERY)
    assert value(loss, features[order], labels[order]).item() == pytest.approx(
        value(loss, features[grouped], labels[grouped]).item(), abs=1e-12
    )


def test_the_first_rows_of_each_class_are_its_support() -> None:
    labels = torch.tensor([3, 1, 3, 3, 1, 5])
    assert split_episode(labels, 1)[0].tolist() == [True, True, False, False, False, True]
    assert split_episode(labels, 1)[1].tolist() == [0, 1, 0, 0, 1, 2]
    assert split_episode(labels, 2)[0].tolist() == [True, True, True, False, True, True]


def test_distances_are_exact_under_mixed_precision() -> None:
    features, labels = (found.float() if found.is_floating_point() else found for found in rows())
    far = features + 30  # with rounded products, differences of long vectors would be noise
    exact = value(Prototypical(shot=SHOT), far.double(), labels).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert value(Prototypical(shot=SHOT), far, labels).item() == pytest.approx(exact, rel=1e-3)


def test_without_query_rows_it_is_zero_with_a_gradient() -> None:
    features = rows()[0].requires_grad_()
    found = value(Prototypical(shot=9), features, rows()[1])
    found.backward()
    assert found.item() == 0 and features.grad is not None


def test_a_model_without_features_is_refused() -> None:
    with pytest.raises(Unsupported, match="one vector for each row"):
        value(Prototypical(), torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.long))
