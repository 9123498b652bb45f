"""Safetensors files of stored deltas and optimizer states, read into memory."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from regraft.errors import Damaged
from regraft.store.extension_panics import panics_as_damage


def read_tensors(path: Path, where: str = "checkpoint") -> dict[str, Tensor]:
    """Return the tensors of a file by name. Raises Damaged, which names the file, where it cannot be read."""
    try:
        with panics_as_damage(path.name, where):
            return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise Damaged(f"{path.name} cannot be read: {error}", where=where) from error
