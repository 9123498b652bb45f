"""Validate the header of a safetensors file before any reader maps its tensors.

The format (https://github.com/huggingface/safetensors): an 8-byte little-endian header length, a JSON header naming
dtype, shape and byte range of each tensor, then the bytes, without gaps, overlaps or anything after them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 100 * 2**20
"""The largest header that is accepted, in bytes: the limit of the format's own reader."""
BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64, "C64": 64,
}  # fmt: skip
"""Bits of one number of each dtype."""


class DuplicateKey(ValueError):
    """A JSON object has a key twice, so that two readers may use different values."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict, as json's `object_pairs_hook`. Raises DuplicateKey when a key occurs twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise DuplicateKey(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return found


def find_problem(path: Path) -> str:
    """Return what is wrong with a safetensors file, to follow the file's name; empty when nothing is."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            # The file is truncated, or is not a safetensors file.
            return f"is cut short: its header should have {length} bytes and the file has {size}"
        if length > MAX_HEADER_BYTES:
            return f"has a header of {length} bytes; at most {MAX_HEADER_BYTES} are allowed"
        try:
            header = json.loads(file.read(length), object_pairs_hook=unique_keys)
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            wrong, end = _entries_problem(entries)
        except DuplicateKey as error:
            return f"has an invalid header: {error}"
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError, OverflowError):
            return "has a header that is not readable"
    if wrong:
        return f"has an invalid header: {wrong}"
    expected = 8 + length + end
    return (
        ""
        if expected == size
        else f"is cut short or padded: its header describes {expected} bytes and the file has {size}"
    )


def _entries_problem(entries: dict[str, Any]) -> tuple[str, int]:
    """Return what is wrong with the tensors' entries (empty when nothing is), and the end of the last one in bytes."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        first, last = entry["data_offsets"]
        if set(entry) != {"dtype", "shape", "data_offsets"} or entry["dtype"] not in BITS:
            return f"{name[:80]!r} has dtype {str(entry.get('dtype'))[:20]!r}", 0
        if not all(type(number) is int and number >= 0 for number in (first, last, *entry["shape"])):
            return f"{name[:80]!r} has an invalid shape or byte range", 0
        bits = math.prod(entry["shape"]) * BITS[entry["dtype"]]
        if first != end or last < first:
            return f"{name[:80]!r} does not begin where the tensor before it ends", 0
        if bits != 8 * (last - first):
            return f"{name[:80]!r} has {last - first} bytes, but its shape and dtype need another number", 0
        end = last
    return "", end
