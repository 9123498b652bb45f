"""Panics of libraries written in Rust (safetensors, tokenizers), raised as damage of the file that caused them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from regraft.errors import Damaged


def is_panic(error: BaseException) -> bool:
    """Return whether an error is a panic: its class derives from BaseException and cannot be imported."""
    return type(error).__name__ == "PanicException" and not isinstance(error, Exception)


@contextmanager
def panics_as_damage(what: str, where: str) -> Iterator[None]:
    """Raise Damaged in place of a panic: `what` (a file) at `where` made the library that reads it give up."""
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        text = " ".join(str(error).split())[:200]
        raise Damaged(f"{what} cannot be used: the library that reads it gave up ({text})", where) from None
