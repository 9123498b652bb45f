"""ExportParts: a model for which transformers has no class, as a base with tensors beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ExportParts:
    """What an exported folder holds, and the code that makes an answer of it."""

    base: Any
    """A transformers model, saved as such."""
    tensors: Mapping[str, Tensor]
    file: str
    """Name of the file of the tensors, which ends in `.safetensors`."""
    usage: str
    """Markdown for the top of the README: a block of Python that runs in the folder as it stands."""
    note: str
    """A sentence for the command line."""
