"""The linear head of a loaded model: its weights, and what it reads of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regraft.bases.delta import canonical_name
from regraft.contracts import Batch, Example, Row
from regraft.data.kept_features import TEACHABLE
from regraft.data.rows import Rows
from regraft.errors import Unsupported
from regraft.evaluation.measure import RowsOnAccess
from regraft.serving.predictor import Predictor, to_device
from regraft.serving.row_checks import batches
from regraft.teaching.imprint import HeadWeights


class HeadReader:
    """A model whose logits are the output of one linear layer with a bias."""

    def __init__(self, predictor: Predictor) -> None:
        """Raises Unsupported for a model of another kind."""
        self.predictor = predictor
        adapted, labels = predictor.adapted, predictor.labels
        layer = adapted.last_linear()
        if not adapted.task.supports >= TEACHABLE or adapted.task.classes() is not None:
            raise self._unsupported(f"task {adapted.task.key()} does not give each row one of several labels")
        if layer is None or layer.out_features != len(labels):
            raise self._unsupported("its head does not end in one linear layer with an output for each class")
        if layer.bias is None:
            raise self._unsupported("its head has no bias, which decides how often a class is answered")
        self._layer = layer
        names: dict[Any, str] = {tensor: name for name, tensor in adapted.model.named_parameters()}
        prefix = adapted.anatomy.prefix
        self.names = canonical_name(names[layer.weight], prefix), canonical_name(names[layer.bias], prefix)
        """Names of weight and bias in the delta."""
        if not set(self.names) <= set(adapted.delta_names):
            raise self._unsupported("its head is its base's own and is no part of the version")

    def head(self) -> HeadWeights:
        """Return the head's weights."""
        return HeadWeights(self._layer.weight.detach().double().cpu(), self._layer.bias.detach().double().cpu())

    def features(self, rows: Rows, indices: Sequence[int] | None = None) -> Tensor:
        """Return what the head reads of rows (all, or those of `indices`), (rows, width) in fp32 on the CPU.

        Raises DataError for a row that cannot be encoded, and Unsupported where the logits are another layer's.
        """
        adapted, chosen = self.predictor.adapted, RowsOnAccess(rows, indices)
        task, context = adapted.task, adapted.context
        targets = task.target_columns()

        def encode(row: Row) -> Example:
            given = {name: value for name, value in rows.row(row["row"]).items() if name not in targets}
            return task.encode(given, context, train=False)

        found = torch.zeros(len(chosen), self._layer.in_features)
        for positions, examples in batches(task, chosen, encode):
            batch = to_device(task.collate(examples, context), self.predictor.device)
            found[positions] = self._read(batch).float().cpu()
        return found

    def _read(self, batch: Batch) -> Tensor:
        seen: list[tuple[Any, Any]] = []
        hook = self._layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
        try:
            with torch.inference_mode():
                logits = getattr(self.predictor.adapted.forward(batch), "logits", None)
        finally:
            hook.remove()
        given, output = seen[0] if len(seen) == 1 else (None, None)
        linear = isinstance(output, Tensor) and isinstance(logits, Tensor) and torch.equal(output, logits)
        if not isinstance(given, Tensor) or given.ndim != 2 or not linear:
            raise self._unsupported("its logits are not the output of one linear layer that reads one vector a row")
        return given

    def _unsupported(self, why: str) -> Unsupported:
        return Unsupported(
            f"{why}: a class can be taught to single-label models with a linear head. Train it again, with rows of the "
            "new class among the others",
            where=self.predictor.name,
        )
