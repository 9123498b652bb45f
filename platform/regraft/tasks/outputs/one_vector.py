"""What do tasks share whose model answers a row by one vector of logits?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from regraft.contracts import Batch, Context, Example, Row, Task


class OneVector(Task):
    """A task in two halves: one says what a row is (`text_rows`, `image_rows`), the other what its logits mean."""

    problem: ClassVar[str]
    """transformers' `problem_type`: an exported model says by it what its logits are."""

    def outputs(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The name of each logit; `labels` are the classes, none where the task has none."""
        return tuple(labels)

    @abstractmethod
    def target(self, row: Row, context: Context) -> Any:
        """What the logits should say of a row, as a number or a list of numbers; None where the row does not tell."""

    @abstractmethod
    def targets(self, found: Sequence[Any]) -> Tensor:
        """The truths of several rows as one tensor (rows, ...)."""

    def with_target(self, example: Example, row: Row, context: Context) -> Example:
        """The encoded row with its truth under `labels`, if it has one."""
        truth = self.target(row, context)
        return example if truth is None else {**example, "labels": truth}

    def with_targets(self, batch: Batch, examples: Sequence[Example]) -> Batch:
        """The collated inputs with `labels` (rows, ...) when every example has them."""
        if not all("labels" in example for example in examples):
            return batch
        return {**batch, "labels": self.targets([example["labels"] for example in examples])}


def whole(found: Sequence[Any]) -> Tensor:
    """Class numbers (rows,) as torch's losses want them."""
    return torch.tensor(found, dtype=torch.long)


def real(found: Sequence[Any]) -> Tensor:
    """Lists of numbers (rows, outputs) in fp32."""
    return torch.tensor(found, dtype=torch.float32)
