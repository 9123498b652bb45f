"""Bases as a command line has them: with commas between, or one a line of a file."""

from __future__ import annotations

from pathlib import Path

from regraft.errors import RequestError


def bases_of(written: str | None) -> tuple[str, ...] | None:
    """Return the bases in `a,b,c`, or those of a file with one a line; None where nothing is written."""
    if written is None:
        return None
    path = Path(written).expanduser()
    try:
        text = path.read_text(encoding="utf-8")[: 1 << 16] if path.is_file() else written.replace(",", "\n")
    except (OSError, UnicodeError) as error:
        raise RequestError(f"{written} is no list of bases: {error}", where="--bases") from None
    names = (line.partition("# ")[0].strip().removeprefix("- ").strip() for line in text.splitlines())
    found = tuple(dict.fromkeys(name for name in names if name))
    if not found:
        raise RequestError(
            "no base is written; allowed are names with commas between, or a file with one a line", where="--bases"
        )
    return found
