"""A safetensors file laid out in memory once, so that a checkpoint is one copy and needs no serialisation.

The format (https://github.com/huggingface/safetensors): an 8-byte little-endian header length, a JSON header with
dtype, shape and byte range of each tensor, then the bytes. Names and shapes of a run's checkpoints never change. So
the header is made once, and each checkpoint copies the tensors to their places in one buffer.
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


def file_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names in the order of the file, widest types first."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor from all ranks (a collective); return any other unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_shards(tensors: Mapping[str, Tensor]) -> None:
    """Take part in gathering each sharded tensor while the first rank fills its file.

    Tensors are gathered one at a time, in the order of the file, so that no device holds more than one full tensor.
    """
    with torch.no_grad():
        for name in file_order(tensors):
            full_tensor(tensors[name])


def encode_header(tensors: Mapping[str, Tensor]) -> tuple[bytes, int]:
    """Return the bytes before the values, and the number of bytes of the values."""
    header: dict[str, object] = {}
    offset = 0
    # With the widest types first, every tensor starts at a multiple of its element size; the format forbids padding.
    for name in file_order(tensors):
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


class SafetensorsBuffer:
    """One safetensors file as a buffer in `data`, filled again for each checkpoint."""

    def __init__(self, tensors: Mapping[str, Tensor], *, pinned: bool = False) -> None:
        self.names = file_order(tensors)
        head, size = encode_header(tensors)
        self.data = torch.empty(len(head) + size, dtype=torch.uint8, pin_memory=pinned)
        self.data[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        self._places = self._cut(tensors, len(head))

    def _cut(self, tensors: Mapping[str, Tensor], start: int) -> dict[str, Tensor]:
        places = {}
        for name in self.names:
            tensor = tensors[name]
            size = tensor.numel() * tensor.element_size()
            places[name] = self.data[start : start + size].view(tensor.dtype).view(tensor.shape)
            start += size
        return places

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the tensors to their places, and wait until the copy is complete."""
        with torch.no_grad():
            for name in self.names:
                self._places[name].copy_(full_tensor(tensors[name]), non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()

    def bytes(self) -> memoryview:
        """Return the complete file; valid until the next `fill`."""
        return self.data.numpy().data
