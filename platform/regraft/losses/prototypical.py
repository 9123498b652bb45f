"""Prototypical: every step is an episode, whose query rows go to the nearest class mean of its support rows."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from regraft.contracts import Anatomy, Episode, Loss, Need, Step
from regraft.losses.shared.pairs import features_of_rows


class Prototypical(Loss):
    """Prototypical networks (Snell et al., 2017): cross entropy of query rows over distances to class means.

    Each step draws `way` classes, and of each `shot` support rows and `query` query rows; training.batch_size is the
    number of all of them. An epoch is as many steps as it would be otherwise. It teaches features that tell classes
    apart which training never saw: use them by method prototypes, on a folder of few pictures a class. It moves the
    features, and needs a method that moves the base.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"features", "classes", "one-label"})
    whole_step: ClassVar[bool] = True

    way: int = Field(8, ge=2)
    """Classes of an episode. More of them than are told apart later teach more."""
    shot: int = Field(1, ge=1)
    """Support rows of each class: as many as there will be later."""
    query: int = Field(3, ge=1)
    """Query rows of each class."""
    metric: Literal["euclidean", "cosine"] = "euclidean"
    """How a row is compared with the class means: by squared distance, or by direction."""
    temperature: float = Field(1.0, gt=0)
    """Divides squared distances, or cosines, for which 0.1 is usual."""

    @property
    def episode(self) -> Episode:
        """How the rows of every step are drawn."""
        return Episode(self.way, self.shot, self.query)

    def build(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Return the term."""
        return EpisodeLoss(self.shot, self.metric, self.temperature)


class EpisodeLoss(nn.Module):
    """The mean cross entropy of an episode's query rows; the first `shot` rows of each class are its support."""

    def __init__(self, shot: int, metric: str, temperature: float) -> None:
        super().__init__()
        self.shot, self.metric, self.temperature = shot, metric, temperature

    def forward(self, step: Step) -> Tensor:
        """Return the loss, a scalar; 0 where there is no query row."""
        features, labels = features_of_rows(step), step.batch["labels"]
        # Products rounded to 16 bits would make noise of the differences between distances.
        with torch.autocast(features.device.type, enabled=False):
            if self.metric == "cosine":
                features = F.normalize(features, dim=1)
            return episode_loss(features, labels, self.shot, self.temperature)


def episode_loss(features: Tensor, labels: Tensor, shot: int, temperature: float = 1.0) -> Tensor:
    """Return the mean cross entropy of an episode's query rows, over distances to the class means of its support.

    The first `shot` rows of each class are the support. Logits are -|x - mean|^2 / temperature; a term that all classes
    share is left out.
    """
    support, classes = split_episode(labels, shot)
    if support.all():
        return features.sum() * 0
    count = int(classes.max()) + 1
    sums = features.new_zeros(count, features.shape[1]).index_add(0, classes[support], features[support])
    means = sums / torch.bincount(classes[support], minlength=count).unsqueeze(1)
    queries = features[~support]
    logits = (2 * queries @ means.T - means.square().sum(1)) / temperature
    return F.cross_entropy(logits, classes[~support])


def split_episode(labels: Tensor, shot: int) -> tuple[Tensor, Tensor]:
    """Return which rows are among the first `shot` of their class, and the number of each row's class, both (rows,)."""
    alike = labels.unsqueeze(0) == labels.unsqueeze(1)
    first = alike.int().argmax(1)
    number = (first == torch.arange(len(labels), device=labels.device)).cumsum(0) - 1
    return alike.tril(-1).sum(1) < shot, number[first]
