"""SetFit: contrasts against reference formulas, balanced batches, and runs that do not depend on workers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from regraft import load
from regraft.contracts import TrainingFacts
from regraft.data.sampler import balanced_batches, batches_per_epoch
from regraft.errors import DataError, SpecError
from regraft.methods.setfit import Setfit, pair_contrast, supervised_contrast
from regraft.spec.run import RunSpec
from regraft.training.session import train_local
from support.processes import in_child, on_ranks, train_counted
from support.tiny import document
from unit.training.test_equal import losses
from unit.training.test_resume import delta


def rows(number: int = 9, width: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(number, width, generator=generator, dtype=torch.float64), torch.arange(number) % 3


def contrast(features: Tensor, labels: Tensor, temperature: float) -> float:
    """Khosla et al. (2020), equation 2, row by row."""
    units = features / features.norm(dim=1, keepdim=True)
    total, counted = 0.0, 0
    for i in range(len(labels)):
        others = [j for j in range(len(labels)) if j != i]
        positive = [j for j in others if labels[j] == labels[i]]
        if not positive:
            continue
        all_of_them = sum(math.exp(units[i] @ units[j] / temperature) for j in others)
        total -= sum(math.log(math.exp(units[i] @ units[p] / temperature) / all_of_them) for p in positive) / len(
            positive
        )
        counted += 1
    return total / counted


@pytest.mark.parametrize("labels", [[0, 1, 2] * 3, [0, 0, 0, 0, 1, 1, 1, 1, 2]])
def test_the_contrast_is_that_of_the_paper(labels: list[int]) -> None:
    features, _ = rows()
    found = Setfit(temperature=0.1).feature_loss(features, torch.tensor(labels))
    assert found.item() == pytest.approx(contrast(features, torch.tensor(labels), 0.1), rel=1e-5)


def test_pairs_weigh_alike_and_gradients_are_right() -> None:
    features, labels = rows()
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    itself = torch.eye(len(labels), dtype=torch.bool)

    def cosines(given: Tensor) -> Tensor:
        units = F.normalize(given, dim=1)
        return units @ units.T

    matrix = cosines(features)
    near, far = (1 - matrix[same & ~itself]).square().mean(), matrix[~same].square().mean()
    wanted = (near + far) / 2
    torch.testing.assert_close(pair_contrast(matrix, same & ~itself, ~same), wanted, rtol=1e-9, atol=0)
    moving = features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pair_contrast(cosines(x), same & ~itself, ~same), (moving,))
    assert torch.autograd.gradcheck(lambda x: supervised_contrast(cosines(x) / 0.5, same & ~itself, itself), (moving,))


def test_a_logistic_head_is_that_of_scikit_learn() -> None:
    features, labels = rows(60, 5)
    head = nn.Linear(5, 3)
    Setfit(strength=2.0).fit_head(head, features, labels)
    length = features.norm(dim=1).mean()
    known = LogisticRegression(C=2.0, tol=1e-10, max_iter=2000).fit((features / length).numpy(), labels.numpy())
    with torch.no_grad():
        found = head(features.float()).softmax(1).double()
    np.testing.assert_allclose(found, known.predict_proba((features / length).numpy()), atol=1e-4)


@pytest.mark.parametrize(
    ("counts", "size"), [([8, 8], 32), ([8] * 8, 32), ([2, 30], 8), ([5] * 20, 8), ([3, 4, 5], 32), ([2, 2], 1)]
)
def test_batches_hold_as_many_rows_of_each_class(counts: list[int], size: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    seen: set[int] = set()
    for epoch in range(40):
        found = balanced_batches(3, epoch, labels, size)
        assert len(found) == batches_per_epoch(len(labels), size)
        for batch in found:
            held = np.bincount(labels[batch])
            assert len(set(held[held > 0])) == 1 and held.max() >= 2 and (held > 0).sum() >= 2
            seen |= set(batch.tolist())
        again = balanced_batches(3, epoch, labels, size)
        assert all(np.array_equal(one, two) for one, two in zip(found, again, strict=True))
    assert seen == set(range(len(labels))), "every row has its turn"
    assert not np.array_equal(balanced_batches(3, 0, labels, size)[0], balanced_batches(4, 0, labels, size)[0])


def test_no_row_is_twice_in_a_batch_that_every_class_can_fill() -> None:
    labels = np.repeat(np.arange(2), 8)
    for epoch in range(5):
        (batch,) = balanced_batches(3, epoch, labels, 32)
        assert sorted(batch.tolist()) == list(range(16)), "16 rows, and not each of them twice for 32"
    assert all(len(batch) == 32 for batch in balanced_batches(3, 0, np.repeat(np.arange(2), [8, 60]), 32))


def few(folder: Path, *, method: Any = "setfit", **training: Any) -> dict[str, Any]:
    """Return a spec with a few rows of each class."""
    return document(folder, method=method, rows=12, eval_rows=30, **{"epochs": "auto", "batch_size": 12, **training})


@pytest.mark.parametrize("method", ["setfit", {"type": "setfit", "contrast": "pairs", "head": "means"}])
def test_a_few_rows_are_enough_and_the_version_answers_as_it_was_measured(tmp_path: Path, method: Any) -> None:
    written = few(tmp_path, method=method, lr=3e-3, steps=15)
    outcome = train_local(RunSpec.resolve(written))
    assert outcome.metrics["accuracy"] > 0.6, "chance is a third"
    texts = [line.rsplit(",", 1) for line in (tmp_path / "eval.csv").read_text().splitlines()[1:]]
    answers = load("tiny", store=written["store"]).predict([text for text, _ in texts])
    right = [answer["label"] == label for answer, (_, label) in zip(answers, texts, strict=True)]
    assert np.mean(right) == pytest.approx(outcome.metrics["accuracy"])


def test_epochs_follow_from_the_rows_and_the_cap_of_pairs() -> None:
    facts = TrainingFacts(rows=16, batch_size=32, tokens=True)
    assert Setfit().defaults(facts).epochs > 20
    assert Setfit(contrast="pairs", pairs_per_row=7).defaults(facts).epochs == 7


def test_a_class_with_one_row_is_refused_before_anything_trains(tmp_path: Path) -> None:
    written = few(tmp_path)
    lines = (tmp_path / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join([*lines, "a timer,odd"]) + "\n")
    with pytest.raises(DataError, match="one row of 'odd': add a second one"):
        train_local(RunSpec.resolve(written))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"task": {"type": "text-regression", "targets": ["label"]}}, "one label"),
        ({"losses": ["l2-sp"]}, "a loss of its own"),
        ({"training": {"accumulation": 2}}, "write accumulation 1"),
        ({"compute": {"workers": 2, "strategy": "fsdp"}}, "write ddp"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(tmp_path: Path, changes: Any, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        RunSpec.resolve({**few(tmp_path), **changes})


@pytest.mark.slow
def test_a_killed_run_ends_bit_identical_and_workers_change_no_loss(tmp_path: Path) -> None:
    written = few(tmp_path, dropout=0.0, steps=12, lr=1e-3, checkpoint_steps=3)
    assert in_child(train_counted, written, str(tmp_path / "one")) == 0
    killed = {**written, "store": str(tmp_path / "killed")}
    for step in (4, 9):
        assert in_child(train_counted, killed, str(tmp_path / "two"), step) == -9
    assert in_child(train_counted, killed, str(tmp_path / "two")) == 0
    assert delta(killed) == delta(written)
    ranks = {**written, "store": str(tmp_path / "ranks")}
    on_ranks(2, ranks, str(tmp_path / "three"))
    np.testing.assert_allclose(losses(ranks), losses(written), atol=1e-5)
