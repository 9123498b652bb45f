"""Read the header of an array file (NPY) that anyone may have written."""

from __future__ import annotations

import tokenize
from typing import Any, NamedTuple

import numpy as np

LONGEST = 10_000
"""Bytes of the longest header that is read."""
DAMAGED = (ValueError, EOFError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError)
"""What NumPy raises for headers that no program wrote: it evaluates them as literals of Python."""
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class NpyHeader(NamedTuple):
    """The shape of an array, whether its first axis varies fastest, and its type."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def read_npy_header(file: Any) -> NpyHeader:
    """Return the header of an array file that is open at its beginning. ValueError for one that is damaged."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in _READERS:
            raise ValueError(f"version {version[0]}.{version[1]} is written; 1.0 and 2.0 are read")
        found = NpyHeader(*_READERS[version](file, max_header_size=LONGEST))
    except DAMAGED as error:
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from None
    if not all(type(side) is int and side >= 0 for side in found.shape):
        raise ValueError(f"the shape {found.shape} is written; sides are whole numbers from 0")
    return found
