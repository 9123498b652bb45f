"""Code of tasks whose model returns one vector of logits for each row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.contracts import Batch, Context, Example, Record, Row, Task


class OneVector(Task):
    """A task in two halves: one encodes its rows (`inputs.text`, `inputs.image`), the other interprets the logits.

    A member derives from one half of each kind. Logits are (rows, outputs).
    """

    problem: ClassVar[str]
    """transformers' `problem_type`, stored in an exported model's configuration."""

    def outputs(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return the name of each logit; `labels` are the classes, empty for tasks without classes."""
        return tuple(labels)

    @abstractmethod
    def target(self, row: Row, context: Context) -> Any:
        """Return a row's target as a number or a list of numbers, or None where the row has none.

        Raises DataError for a label that the model does not have.
        """

    @abstractmethod
    def targets(self, values: Sequence[Any]) -> Tensor:
        """Return the `target` values of several rows as one tensor (rows, ...)."""

    def target_tensor(self, rows: Iterable[Row], context: Context) -> Tensor | None:
        """Return the targets of rows as one tensor (rows, ...)."""
        return self.targets([self.target(row, context) for row in rows])

    def with_target(self, example: Example, row: Row, context: Context) -> Example:
        """Return the encoded row with its target under `labels`, if it has one."""
        value = self.target(row, context)
        return example if value is None else {**example, "labels": value}

    def with_targets(self, batch: Batch, examples: Sequence[Example]) -> Batch:
        """Return the collated inputs with `labels` (rows, ...), if every example has them."""
        if not all("labels" in example for example in examples):
            return batch
        return {**batch, "labels": self.targets([example["labels"] for example in examples])}


def class_tensor(values: Sequence[Any]) -> Tensor:
    """Return class numbers as a tensor (rows,) of int64, as torch's losses take them."""
    return torch.tensor(values, dtype=torch.long)


def float_tensor(values: Sequence[Any]) -> Tensor:
    """Return lists of numbers as a tensor (rows, outputs) of fp32."""
    return torch.tensor(values, dtype=torch.float32)


def stacked(records: Sequence[Record], *names: str) -> tuple[NDArray[Any], ...]:
    """Return the named vectors of all records as matrices (rows, outputs), one for each name."""
    return tuple(np.stack([record[name] for record in records]) for name in names)
