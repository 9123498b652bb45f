"""The bases that are to be compared: named on the command line, in a file, or by the spec's search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from regraft.errors import RequestError
from regraft.spec.document import absolute_base
from regraft.spec.run import RunSpec

MOST_CHARACTERS = 1 << 20
MOST = 64
"""Most bases of one comparison."""


def written_bases(written: str) -> tuple[str, ...]:
    """Return the bases in `a,b,c`, or in a file with one a line; a line that begins with # is none.

    Raises RequestError for a file that cannot be read.
    """
    path = Path(written).expanduser()
    if "," in written or not path.is_file():
        return tuple(name.strip() for name in written.split(",") if name.strip())
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot be read as a list of bases, one a line: {error}", where=written) from error
    return tuple(line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#"))


def compared_bases(spec: RunSpec, given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the references of the bases to compare, each once. Raises RequestError where there are none."""
    space = spec.search.space if spec.search is not None else {}
    drawn = space["base"].values if "base" in space else None
    named = tuple(given) if given is not None else tuple(map(str, drawn or ()))
    found = tuple(dict.fromkeys(absolute_base(name) for name in named))
    if not found:
        raise RequestError(
            "no base is named: write them with commas between, name a file of them, or write search.space.base",
            where="--bases",
        )
    if len(found) > MOST:
        raise RequestError(f"{len(found)} bases are named; allowed are {MOST}", where="--bases")
    if strange := next((name for name in found if name.startswith("random:")), None):
        raise RequestError(
            f"{strange} is written; random weights of the first choice are compared by themselves", where="--bases"
        )
    return found
