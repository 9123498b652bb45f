"""Memory that was freed, given back to the system: the C library keeps it for later, as much as a picture takes."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Names of glibc's parameters (`mallopt`)."""
_ARENAS = 4
"""Most pools of freed memory; there are eight for each core otherwise, and threads that decode leave some in each."""
_MAPPED = 12 << 20
"""Bytes from which on memory goes back to the system at once; large pictures are made of blocks of 16 MiB."""
_KEPT = 32 << 20
"""Bytes that a pool keeps at its end, so that pictures of usual sizes need no new memory each."""


def give_back_memory() -> None:
    """Have the C library give back what it keeps, where it is one that can."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def keep_little_memory() -> None:
    """Have the C library keep little freed memory from now on, where it is one that can."""
    if option := getattr(ctypes.CDLL(None), "mallopt", None):
        for name, value in ((_ARENA_MAX, _ARENAS), (_MMAP_THRESHOLD, _MAPPED), (_TRIM_THRESHOLD, _KEPT)):
            option(name, value)
