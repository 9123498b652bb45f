"""Models without weights, on torch's meta device: quick to build at any size, to count what would be trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.anatomy import dissect
from regraft.bases.base_header import BaseHeader
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
    """Builds models whose tensors have shapes but no values; `shapes` are those of the base's files, where known."""

    warns = False

    def __init__(
        self, base: Base, dropout: float | None = None, shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> None:
        super().__init__(base, dropout)
        self._shapes = shapes

    def _load(self, family: Any, settings: Any, arguments: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        with torch.device("meta"):
            model = family.from_config(settings, dtype=torch.float32, **arguments)
        return model, {"missing_keys": self._missing(model), "mismatched_keys": []}

    def _missing(self, model: Any) -> list[str]:
        """Return the parameters of heads and poolers that the files do not hold in this shape.

        Other names may be spelled otherwise in old files, and are taken to be there.
        """
        if self._shapes is None:
            return []
        inside = f"{model.base_model_prefix}."
        held = {name.removeprefix(inside): shape for name, shape in self._shapes.items()}
        return [
            name
            for name, parameter in model.named_parameters()
            if (not name.startswith(inside) and hasattr(model, inside[:-1])) or "pooler" in name.split(".")
            if held.get(name.removeprefix(inside)) != tuple(parameter.shape)
        ]


def meta_model(task: Task, base: Base, labels: tuple[str, ...]) -> tuple[nn.Module, Anatomy]:
    """Return the task's model on the base, its tensors without values, and its anatomy."""
    model = task.build(_MetaLoader(base), labels)
    return model, dissect(model)


def meta_adapted(header: BaseHeader, adaptation: Adaptation, processor: Any) -> Adapted:
    """Return the adapted model of a base of which the header alone is read; none of its tensors has values.

    Torch's global generator is left as it was. Raises what `adapt` raises.
    """
    base = header.as_base()
    with torch.random.fork_rng(devices=[]):
        adapted = adapt(base, adaptation, processor, loader=_MetaLoader(base, adaptation.dropout, shapes=header.shapes))
    adapted.model.to("meta")  # what a method or a task added
    return adapted


def trainable_weights(task: Task, method: Method, base: Base, labels: tuple[str, ...]) -> TrainableWeights:
    """Count the weights that the method would train. Raises Unsupported where training would."""
    model, anatomy = meta_model(task, base, labels)
    depth = method.depth_of(anatomy)
    method.adapt(model, anatomy)
    counts = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    blocks = len(anatomy.blocks)
    return TrainableWeights(depth, blocks, sum(counts), 4 * sum(counts), bool(blocks) and depth == blocks)
