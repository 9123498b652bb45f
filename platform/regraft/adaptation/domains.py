"""The rows of both domains as one model sees them, and the candidates made of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regraft.adaptation.choice import AdaptCandidate, Evidence
from regraft.adaptation.correction import Correction
from regraft.adaptation.forward import SideOutputs
from regraft.adaptation.ladder import SOURCE_ONLY
from regraft.adaptation.sides import LinearHead, Side
from regraft.adaptation.validator import Outputs

AGREES = 0.05
"""Largest deviation of a head's logits from the model's, as a share of their spread: less precise arithmetic."""


@dataclass(frozen=True, eq=False)
class Domains:
    """What the source-only model makes of training, evaluation and target rows, and the head that reads them."""

    train: SideOutputs
    eval: SideOutputs
    target: SideOutputs
    head: LinearHead

    @property
    def fitted(self) -> Side:
        """The training rows."""
        return side(self.train)

    @property
    def held_out(self) -> Side:
        """The evaluation rows, which no candidate was fitted on."""
        return side(self.eval)

    @property
    def other(self) -> Side:
        """The target rows, without labels."""
        return Side(self.target.features)

    @property
    def linear(self) -> bool:
        """Whether the head alone makes the logits of the features, so that it may hold a correction."""
        return all(_agree(self.head.logits(one.features), one.logits) for one in (self.eval, self.target))

    def source_only(self) -> AdaptCandidate:
        """Return the candidate that leaves the model as it is."""
        return trained_candidate(SOURCE_ONLY, self.eval, self.target)

    def corrected(self, correction: Correction) -> tuple[LinearHead, AdaptCandidate]:
        """Return the head that holds a correction, and the candidate that it makes.

        Features are aligned to those of the training rows; the prior is estimated beside rows that the head was not
        fitted on.
        """
        label_shift = correction.for_label_shift
        reference = self.held_out if label_shift else self.fitted
        head = correction.fold(self.head, reference, self.other)
        evidence = Evidence.PRIOR if label_shift else Evidence.VALIDATORS
        features = correction.mapped(reference, self.other)
        outputs = Outputs(
            self.eval.features, self.eval.logits, self.eval.labels, features, head.logits(self.other.features)
        )
        return head, AdaptCandidate(correction.name, outputs, evidence)

    def with_head(self, name: str, head: LinearHead) -> AdaptCandidate:
        """Return the candidate of another head on the same features, which reads source rows too."""
        outputs = Outputs(
            self.eval.features,
            head.logits(self.eval.features),
            self.eval.labels,
            self.target.features,
            head.logits(self.target.features),
        )
        return AdaptCandidate(name, outputs)


def side(outputs: SideOutputs) -> Side:
    """Return rows as the arithmetic of adaptation reads them."""
    return Side(outputs.features, outputs.labels)


def trained_candidate(
    name: str, source: SideOutputs, target: SideOutputs, evidence: Evidence = Evidence.VALIDATORS, *, labelled: int = 0
) -> AdaptCandidate:
    """Return the candidate of a trained model, from its outputs for evaluation and target rows."""
    outputs = Outputs(source.features, source.logits, source.labels, target.features, target.logits)
    return AdaptCandidate(name, outputs, evidence, labelled)


def _agree(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) <= AGREES * max(float(other.std()), 1e-6) if len(one) else True


def head_of(layer: torch.nn.Linear) -> LinearHead:
    """Return a linear layer as the arithmetic of adaptation reads it; one without a bias has a bias of 0."""
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
    return LinearHead(layer.weight, bias)
