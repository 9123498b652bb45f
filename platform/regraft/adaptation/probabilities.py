"""Entropies of class probabilities, in nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy over the last dimension; a probability of 0 adds nothing."""
    return -torch.xlogy(probabilities, probabilities).sum(-1)


def effective_classes(logits: Tensor) -> float:
    """Return exp(H(mean p)): the number of equally frequent classes with the same entropy."""
    return math.exp(float(entropy(logits.softmax(1).mean(0))))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of rows whose largest logit is that of their label."""
    return float((logits.argmax(1) == labels).double().mean())
