"""The bound on the size of a stored document, applied before it is read."""

from __future__ import annotations

from collections.abc import Callable

from regraft.errors import Damaged
from regraft.units import bytes_text


def refuse_large(size: int, most: int | None, where: str, close: Callable[[], None] = lambda: None) -> None:
    """Raise Damaged for a document of more than `most` bytes; None is no bound. `close` ends what would read it."""
    if most is not None and size > most:
        close()
        raise Damaged(f"has {bytes_text(size)}; a document has at most {bytes_text(most)}", where)
