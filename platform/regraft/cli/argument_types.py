"""Types of arguments of the command line: each returns the value, or says what is allowed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable


def among(*allowed: str) -> Callable[[str], str]:
    """Return an argument type that accepts these words."""

    def check(written: str) -> str:
        if written not in allowed:
            raise argparse.ArgumentTypeError(f"{written!r} is written; allowed are {', '.join(allowed)}")
        return written

    return check


def count(written: str) -> int:
    """Return a whole number, 0 or more."""
    if not written.isdecimal():
        raise argparse.ArgumentTypeError(f"{written!r} is written; allowed is a whole number, 0 or more")
    return int(written)


def registered(written: str) -> str | int:
    """Return which trials become versions."""
    if written in ("none", "best"):
        return written
    if trial := re.fullmatch(r"t(\d+)", written):
        return f"t{int(trial[1]):04d}"
    if not written.isdecimal() or int(written) < 1:
        raise argparse.ArgumentTypeError(
            f"{written!r} is written; allowed are none, best, a number from 1 on (that many of the best), or a trial "
            "such as t0011 (that one)"
        )
    return int(written)
