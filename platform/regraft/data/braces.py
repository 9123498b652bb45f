"""Several files written as one: `train.{en,de}.gz`, as in a shell."""

from __future__ import annotations

import re

_BRACES = re.compile(r"\{([^{},/]+(?:,[^{},/]+)+)\}")


def alternatives(written: str) -> dict[str, str]:
    """What stands between the braces, each with the whole name that it makes; empty where there are no braces.

    ValueError where several pairs of braces stand in one name.
    """
    found = list(_BRACES.finditer(written))
    if not found:
        return {}
    if len(found) > 1:
        raise ValueError(f"{len(found)} pairs of braces are written; one is allowed, as in train.{{en,de}}.txt")
    start, end = found[0].span()
    return {name: written[:start] + name + written[end:] for name in found[0][1].split(",")}
