"""Models without weights, on torch's meta device: quick to build at any size, to count what would be trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from regraft.bases.anatomy import dissect
from regraft.bases.load import BaseLoader
from regraft.bases.locate import Base
from regraft.contracts import Anatomy, Method, Task


@dataclass(frozen=True, slots=True)
class TrainableWeights:
    """Numbers about the weights that a method would train."""

    depth: int
    """Frozen blocks."""
    blocks: int
    trainable: int
    """Trained parameters."""
    bytes: int
    """Size of a checkpoint's delta: the trained parameters in fp32."""
    head_only: bool
    """Whether everything but the head is frozen."""


class _MetaLoader(BaseLoader):
    """Builds models whose tensors have shapes but no values."""

    def _load(self, family: Any, settings: Any, arguments: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        with torch.device("meta"):
            model = family.from_config(settings, **arguments)
        return model, {"missing_keys": [], "mismatched_keys": []}


def meta_model(task: Task, base: Base, labels: tuple[str, ...]) -> tuple[nn.Module, Anatomy]:
    """Return the task's model on the base, its tensors without values, and its anatomy."""
    model = task.build(_MetaLoader(base), labels)
    return model, dissect(model)


def trainable_weights(task: Task, method: Method, base: Base, labels: tuple[str, ...]) -> TrainableWeights:
    """Count the weights that the method would train. Raises Unsupported where training would."""
    model, anatomy = meta_model(task, base, labels)
    depth = method.depth_of(anatomy)
    method.adapt(model, anatomy)
    counts = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    blocks = len(anatomy.blocks)
    return TrainableWeights(depth, blocks, sum(counts), 4 * sum(counts), bool(blocks) and depth == blocks)
