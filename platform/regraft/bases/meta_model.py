"""What a model would look like, without its weights: built on torch's meta device in a moment, whatever its size."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from regraft.bases.anatomy import dissect
from regraft.bases.load import BaseLoader
from regraft.bases.locate import Base
from regraft.contracts import Anatomy, Method, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Moved:
    """What a method would move."""

    depth: int
    """Blocks that stand still."""
    blocks: int
    trainable: int
    """Parameters that move."""
    bytes: int
    """Of a checkpoint's delta: what moves, in fp32."""
    whole: bool
    """Whether everything but the head stands still."""


class _Bare(BaseLoader):
    """Makes models with shapes alone."""

    def _loaded(self, family: Any, settings: Any, arguments: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        with torch.device("meta"):
            model = family.from_config(settings, **arguments)
        return model, {"missing_keys": [], "mismatched_keys": []}


def sketch(task: Task, base: Base, labels: tuple[str, ...]) -> tuple[nn.Module, Anatomy]:
    """The task's model on the base without values, and its parts."""
    model = task.build(_Bare(base), labels)
    return model, dissect(model)


def moved(task: Task, method: Method, base: Base, labels: tuple[str, ...]) -> Moved:
    """What the method would move; Unsupported as training itself would say it."""
    model, anatomy = sketch(task, base, labels)
    depth = method.depth_of(anatomy)
    method.adapt(model, anatomy)
    counts = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    blocks = len(anatomy.blocks)
    return Moved(depth, blocks, sum(counts), 4 * sum(counts), bool(blocks) and depth == blocks)
