"""Valid names of models and aliases, references to versions, and errors for names that do not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from regraft.errors import NotFound, RequestError

LATEST = "latest"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"v[0-9]+")
_NUMBERED = re.compile(r"v[1-9][0-9]*")


def model_name(name: str) -> str:
    """Return `name` if it is a valid name of a model; else raise RequestError."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise RequestError(
            f"model name {name[:80]!r}: write 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit"
        )
    return name


def alias_name(alias: str) -> str:
    """Return `alias` if it is a valid name of an alias; else raise RequestError."""
    if not _NAME.fullmatch(alias) or ".." in alias:
        raise RequestError(f"alias {alias[:80]!r}: write 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit")
    if _VERSION.fullmatch(alias) or alias == LATEST:
        raise RequestError(f"alias {alias!r} would read as a version: choose a word such as production")
    return alias


def is_version(ref: str) -> bool:
    """Return whether `ref` is a version (`v3`), not an alias."""
    return _NUMBERED.fullmatch(ref) is not None


def number_of(version: str) -> int:
    """Return the number of a version: 3 for `v3`."""
    return int(version[1:])


def parse(reference: str) -> tuple[str, str]:
    """Split `name`, `name@alias` or `name@v3` into the model and the version or alias; `latest` without one."""
    name, at, ref = reference.partition("@")
    model_name(name)
    if not at:
        return name, LATEST
    if ref == LATEST or is_version(ref):
        return name, ref
    return name, alias_name(ref)


def unknown(what: str, wanted: str, known: Iterable[str], where: str) -> NotFound:
    """Return the error for a name that does not exist, with the existing names and the most similar of them."""
    known = list(known)
    if not known:
        return NotFound(f"{what} {wanted!r} does not exist; there is none yet", where)
    near = difflib.get_close_matches(wanted, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return NotFound(f"{what} {wanted!r} does not exist; there are {shown}{meant}", where)
