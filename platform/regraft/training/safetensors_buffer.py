"""A safetensors file laid out once in memory, so that a snapshot is one copy and a write needs no serialisation.

The format (https://github.com/huggingface/safetensors): an 8-byte little-endian header length, a JSON header naming
dtype, shape and byte range of each tensor, then the bytes. The names and shapes of a run's checkpoints never change, so
the header is made once and a checkpoint is a copy of the tensors to their places in one buffer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT = 64


def in_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names as the file holds them, widest types first."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all ranks (a collective), any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def take_part(tensors: Mapping[str, Tensor]) -> None:
    """What the other ranks do while the first fills its file: gather each sharded tensor, and drop it.

    One at a time and in the file's order, so that no rank ever holds more than one whole tensor on its device.
    """
    with torch.no_grad():
        for name in in_order(tensors):
            whole(tensors[name])


def head_of(tensors: Mapping[str, Tensor]) -> tuple[bytes, int]:
    """What the file begins with, and how many bytes of values follow."""
    header: dict[str, object] = {}
    offset = 0
    # Widest types first: every tensor then starts at a multiple of its element size without any padding, which the
    # format forbids between tensors.
    for name in in_order(tensors):
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, offset


class TensorFile:
    """One safetensors file as a buffer that is filled again for each checkpoint."""

    def __init__(self, tensors: Mapping[str, Tensor], *, pinned: bool = False) -> None:
        self.names = in_order(tensors)
        head, size = head_of(tensors)
        self.buffer = torch.empty(len(head) + size, dtype=torch.uint8, pin_memory=pinned)
        self.buffer[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        self._places = self._cut(tensors, len(head))

    def _cut(self, tensors: Mapping[str, Tensor], start: int) -> dict[str, Tensor]:
        places = {}
        for name in self.names:
            tensor = tensors[name]
            size = tensor.numel() * tensor.element_size()
            places[name] = self.buffer[start : start + size].view(tensor.dtype).view(tensor.shape)
            start += size
        return places

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the tensors to their places; returns when the copy is complete."""
        with torch.no_grad():
            for name in self.names:
                self._places[name].copy_(whole(tensors[name]), non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()

    def bytes(self) -> memoryview:
        """The whole file; valid until the next `fill`."""
        return self.buffer.numpy().data
