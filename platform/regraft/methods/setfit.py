"""SetFit: a few rows of each class train the encoder by comparing them, and the head is solved from its features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from regraft.contracts import TrainingDefaults, TrainingFacts
from regraft.methods.full import Full
from regraft.methods.prototypes import Prototypes

ITERATIONS = 200
"""Most iterations of L-BFGS for a logistic head; it ends where the gradient is zero."""
STEPS = 30
"""Steps of supervised contrast: twice as many changed nothing on few rows (development halves of SST-2 and tickets, two
seeds each, 8 rows a class: .718 with 30, .718 with 60 on average)."""


class Setfit(Full):
    """Contrastive fine-tuning on a few rows a class (Tunstall et al., 2022), for 4 to some 32 rows of each class.

    Every step has as many rows of each class, which are drawn again where a class has fewer. Rows of one class move
    together and others apart, as the head sees them; the whole base moves. Before each evaluation the head is solved
    from the features of all training rows. It is evaluated once, at the end, unless training.eval_steps is written.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset({"contrastive", "supervised-contrastive", "few-shot", "set-fit"})
    by_depth: ClassVar[bool] = False
    usual: ClassVar[bool] = False
    trains_features: ClassVar[bool] = True

    contrast: Literal["supervised", "pairs"] = "supervised"
    """How rows are compared: supervised contrasts each row with all others of the step (Khosla et al., 2020); pairs
    draws the cosine of two rows of one class to 1 and of others to 0, both kinds weighing alike, as SetFit does."""
    temperature: float = Field(0.1, gt=0)
    """Divides the cosines of supervised contrast: lower values push the nearest rows apart."""
    pairs_per_row: int = Field(20, ge=1)
    """Rounds in which each row is compared, for contrast: pairs; they set the epochs where those are auto."""
    head: Literal["logistic", "means"] = "logistic"
    """How the head is solved: logistic regression, or the class means of directions."""
    strength: float = Field(10.0, gt=0)
    """Weight of the rows against the penalty on the weights of a logistic head (C)."""

    def defaults(self, facts: TrainingFacts) -> TrainingDefaults:
        """Return a rate for the whole base, and the epochs of enough steps on a few rows."""
        rounds = facts.epochs(STEPS, least=1, most=STEPS) if self.contrast == "supervised" else self.pairs_per_row
        return TrainingDefaults(lr=5e-5 if facts.tokens else 3e-4, epochs=rounds)

    def feature_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean contrast of a step's rows."""
        units = F.normalize(features.float(), dim=1)
        cosines = units @ units.T
        same = labels.unsqueeze(0) == labels.unsqueeze(1)
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        if self.contrast == "pairs":
            return pair_contrast(cosines, same & ~itself, ~same)
        return supervised_contrast(cosines / self.temperature, same & ~itself, itself)

    def fit_head(self, head: nn.Linear, features: Tensor, labels: Tensor) -> None:
        """Write the head's weights from the features (rows, width) and labels (rows,) of all training rows."""
        if self.head == "means":
            prototypes = Prototypes()
            prototypes.solve(head, prototypes.statistics(features, labels, head.out_features))
            return
        length = features.double().norm(dim=1).mean().clamp_min(torch.finfo(torch.float32).eps)
        weight, bias = logistic(features.double() / length, labels, head.out_features, strength=self.strength)
        with torch.no_grad():
            head.weight.copy_(weight / length)
            if head.bias is not None:
                head.bias.copy_(bias)


def supervised_contrast(logits: Tensor, positive: Tensor, itself: Tensor) -> Tensor:
    """Return the mean over rows of -log p of the other rows of its class, among all others; matrices (rows, rows).

    Rows without another of their class do not count; the result is 0 where no row has one.
    """
    logs = logits - torch.logsumexp(logits.masked_fill(itself, float("-inf")), dim=1, keepdim=True)
    counts = positive.sum(1)
    means = (logs * positive).sum(1) / counts.clamp_min(1)
    return -means.sum() / (counts > 0).sum().clamp_min(1)


def pair_contrast(cosines: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return the squared distance of cosines from 1 in `positive` pairs and from 0 in `negative` ones, (rows, rows).

    Both kinds weigh alike, which repeats the rarer one as SetFit does.
    """
    near = ((1 - cosines).square() * positive).sum() / positive.sum().clamp_min(1)
    far = (cosines.square() * negative).sum() / negative.sum().clamp_min(1)
    return (near + far) / 2


def logistic(rows: Tensor, labels: Tensor, classes: int, *, strength: float) -> tuple[Tensor, Tensor]:
    """Return weight (classes, width) and bias (classes,) of multinomial logistic regression.

    They minimise half the squared weights plus `strength` times the cross entropy summed over `rows`; biases are free.
    """
    weight = torch.zeros(classes, rows.shape[1], dtype=rows.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=rows.dtype, requires_grad=True)
    found: Sequence[Tensor] = (weight, bias)
    search = torch.optim.LBFGS(found, max_iter=ITERATIONS, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        search.zero_grad()
        total = F.cross_entropy(rows @ weight.T + bias, labels, reduction="sum") * strength
        total = total + weight.square().sum() / 2
        torch.autograd.backward(total)
        return total

    with torch.inference_mode(False), torch.enable_grad():
        search.step(cost)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
