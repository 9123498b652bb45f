"""Memory that was freed, given back to the system: the C library keeps it for later, as much as a picture takes."""

from __future__ import annotations

import ctypes


def give_back_memory() -> None:
    """Have the C library give back what it keeps, where it is one that can."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
