"""Losses that adapt to a target domain equal reference formulae in float64, and have exact gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.contracts import Anatomy, ForwardPass, Loss, Step
from regraft.errors import Unsupported
from regraft.losses.cdan import Cdan, ConditionalAdversary
from regraft.losses.coral import Coral, coral
from regraft.losses.dann import Dann, FeatureAdversary
from regraft.losses.mcc import Mcc, class_confusion, row_weights
from regraft.losses.mmd import Mmd, kernel_widths, mmd
from regraft.losses.shared.adversary import Adversary, reversal, reversed_gradient

Numbers = NDArray[np.float64]
ANATOMY = Anatomy("base", (), (), ("head",), "")
FACTORS = [2.0**power for power in range(-3, 2)]


class Model(nn.Module):
    def __init__(self, width: int = 5, classes: int = 3) -> None:
        super().__init__()
        self.base = nn.Linear(4, width)
        self.head = nn.Linear(width, classes)


def features(rows: int, width: int = 5, seed: int = 0, shift: float = 0.0) -> Tensor:
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.normal(shift, 1.0, (rows, width)))


def step(model: Model, source: Tensor, target: Tensor, *, progress: float = 0.5, labels: Tensor | None = None) -> Step:
    known = torch.zeros(len(source), dtype=torch.long) if labels is None else labels
    passes = [SimpleNamespace(logits=model.head(rows)) for rows in (source, target)]
    return Step({"labels": known}, passes[0], source, progress, ForwardPass({}, passes[1], target))


def test_coral_is_the_distance_of_covariances() -> None:
    one, two = features(7), features(9, seed=1, shift=1.0)
    apart = np.cov(one.numpy(), rowvar=False) - np.cov(two.numpy(), rowvar=False)
    assert coral(one, two).item() == pytest.approx((apart**2).sum() / (4 * 25), abs=1e-12)
    term = Coral().build(Model(), ANATOMY)
    model = Model().double()
    assert term(step(model, one, two)).item() == pytest.approx(coral(one, two).item(), abs=1e-12)


def discrepancy(one: Tensor, two: Tensor) -> Tensor:
    return mmd(one, two, kernel_widths(one, two, FACTORS))


def reference_mmd(one: Numbers, two: Numbers, factors: list[float]) -> float:
    rows = np.concatenate([one, two])
    squared = np.array([[((x - y) ** 2).sum() for y in rows] for x in rows])
    mean, total = squared.mean(), 0.0
    for factor in factors:
        kernel = np.exp(-squared / (2 * factor * mean))
        n, m = len(one), len(two)
        within = sum(kernel[i, j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        beyond = sum(kernel[i, j] for i in range(n, n + m) for j in range(n, n + m) if i != j) / (m * (m - 1))
        total += within + beyond - 2 * kernel[:n, n:].mean()
    return float(total)


def test_mmd_is_the_unbiased_estimate_over_its_kernels() -> None:
    one, two = features(7), features(9, seed=1, shift=0.5)
    assert discrepancy(one, two).item() == pytest.approx(reference_mmd(one.numpy(), two.numpy(), FACTORS), abs=1e-12)
    model = Model().double()
    assert Mmd().build(model, ANATOMY)(step(model, one, two)).item() == pytest.approx(discrepancy(one, two).item())


def test_mmd_of_equal_distributions_is_zero_on_average_and_grows_with_their_distance() -> None:
    alike = [discrepancy(features(20, seed=seed), features(20, seed=seed + 100)).item() for seed in range(40)]
    apart = discrepancy(features(20), features(20, seed=1, shift=2.0)).item()
    assert abs(np.mean(alike)) < 3 * np.std(alike) / math.sqrt(40) and apart > 10 * np.std(alike)


def reference_confusion(logits: Numbers, temperature: float) -> float:
    scaled = logits / temperature
    odds = np.exp(scaled - scaled.max(1, keepdims=True))
    p = odds / odds.sum(1, keepdims=True)
    weight = 1 + np.exp((p * np.log(p)).sum(1))
    weight *= len(p) / weight.sum()
    confusion = np.einsum("nk,n,nl->kl", p, weight, p)
    confusion /= confusion.sum(1, keepdims=True)
    return float((confusion.sum() - np.trace(confusion)) / p.shape[1])


def test_mcc_is_the_weighted_confusion_of_the_target_rows() -> None:
    model, one, two = Model().double(), features(7), features(9, seed=1)
    logits = model.head(two).detach().numpy()
    found = Mcc().build(model, ANATOMY)(step(model, one, two)).item()
    assert found == pytest.approx(reference_confusion(logits, 2.5), abs=1e-12)


def test_mcc_of_several_labels_is_the_mean_over_labels() -> None:
    model, one, two = Model().double(), features(7), features(9, seed=1)
    labels = torch.ones(7, 3)
    logits = model.head(two).detach().numpy() / 2.5
    pairs = [np.stack([logits[:, label], np.zeros(9)], 1) for label in range(3)]
    expected = np.mean([reference_confusion(pair, 1.0) for pair in pairs])
    found = Mcc().build(model, ANATOMY)(step(model, one, two, labels=labels)).item()
    assert found == pytest.approx(expected, abs=1e-12)


def reference_adversary(adversary: nn.Module, source: Tensor, target: Tensor, weights: Numbers | None = None) -> float:
    rows = torch.cat([source, target]).detach().numpy()
    layers = [layer for layer in adversary.modules() if isinstance(layer, nn.Linear)]
    for number, layer in enumerate(layers):
        assert layer.bias is not None
        rows = rows @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        rows = np.maximum(rows, 0) if number + 1 < len(layers) else rows
    truth = np.array([1.0] * len(source) + [0.0] * len(target))
    losses = np.log1p(np.exp(-rows[:, 0])) * truth + np.log1p(np.exp(rows[:, 0])) * (1 - truth)
    losses = losses if weights is None else losses * weights
    return float((losses[: len(source)].mean() + losses[len(source) :].mean()) / 2)


def test_dann_is_the_cross_entropy_of_a_domain_classifier() -> None:
    torch.manual_seed(0)
    model, one, two = Model().double(), features(7), features(9, seed=1)
    term = Dann(width=6).build(model, ANATOMY).double()
    assert isinstance(term, FeatureAdversary)
    found = term(step(model, one, two)).item()
    assert found == pytest.approx(reference_adversary(term.adversary, one, two), abs=1e-12)


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("width", [5, 2000], ids=["product", "random maps"])
def test_cdan_reads_features_and_probabilities_together(width: int, entropy: bool) -> None:
    torch.manual_seed(0)
    model, one, two = Model(width).double(), features(7, width), features(9, width, seed=1)
    term = Cdan(width=6, entropy=entropy).build(model, ANATOMY).double()
    assert isinstance(term, ConditionalAdversary) and term.random == (width * 3 > 4096)
    p = [model.head(rows).detach().softmax(1) for rows in (one, two)]
    if term.random:
        maps = term.get_buffer("of_features"), term.get_buffer("of_classes")
        joined = [(rows @ maps[0]) * (each @ maps[1]) / 1024**0.5 for rows, each in zip((one, two), p, strict=True)]
    else:
        joined = [torch.einsum("nd,nk->ndk", rows, each).flatten(1) for rows, each in zip((one, two), p, strict=True)]
    every = torch.cat(p).numpy()
    weight = 1 + np.exp((every * np.log(every)).sum(1))
    weights = weight / weight.mean() if entropy else None
    found = term(step(model, one, two)).item()
    assert found == pytest.approx(reference_adversary(term.adversary, joined[0], joined[1], weights), abs=1e-12)


def test_gradients_reach_the_features_reversed_and_the_discriminator_as_they_are() -> None:
    assert [reversal(progress) for progress in (0.0, 1.0)] == pytest.approx([0.0, 0.99990920426], abs=1e-9)
    assert reversal(0.5) == pytest.approx(2 / (1 + math.exp(-5)) - 1)
    rows = features(3).requires_grad_()
    (reversed_gradient(rows, 0.25) * 2).sum().backward()
    assert rows.grad is not None and torch.equal(rows.grad, torch.full_like(rows, -0.5))


WIDTHS = kernel_widths(features(4), features(5, seed=1), FACTORS)
WEIGHTS = row_weights(torch.cat([features(4), features(5, seed=1)]).softmax(1))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(coral, id="coral"),
        pytest.param(lambda one, two: mmd(one, two, WIDTHS), id="mmd"),
        pytest.param(lambda one, two: class_confusion(torch.cat([one, two]).softmax(1), WEIGHTS), id="mcc"),
    ],
)
def test_gradients_are_those_of_finite_differences(value: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(value, (features(4).requires_grad_(), features(5, seed=1).requires_grad_()))


def test_the_discriminators_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    adversary = Adversary(5, 4).double()
    one, two, names = features(4), features(5, seed=1), [name for name, _ in adversary.named_parameters()]

    def value(*parameters: Tensor) -> Tensor:
        found = torch.func.functional_call(adversary, dict(zip(names, parameters, strict=True)), (one, two, 0.3))
        return torch.as_tensor(found)

    assert torch.autograd.gradcheck(value, tuple(adversary.parameters()))


@pytest.mark.parametrize("loss", [Coral(), Mmd()])
@pytest.mark.parametrize("rows", [(1, 5), (5, 1), (0, 3)])
def test_too_few_rows_add_nothing(loss: Loss, rows: tuple[int, int]) -> None:
    model, one, two = Model().double(), features(rows[0]).requires_grad_(), features(rows[1], seed=1)
    value = loss.build(model, ANATOMY)(step(model, one, two))
    assert value.item() == 0
    value.backward()


@pytest.mark.parametrize("loss", [Coral(), Mmd(), Mcc(), Dann(), Cdan()])
def test_a_step_without_target_rows_is_refused(loss: Loss) -> None:
    model, rows = Model().double(), features(4)
    lone = Step({"labels": torch.zeros(4, dtype=torch.long)}, SimpleNamespace(logits=model.head(rows)), rows, 0.0)
    with pytest.raises(Unsupported, match=r"data\.target"):
        loss.build(model, ANATOMY).double()(lone)
