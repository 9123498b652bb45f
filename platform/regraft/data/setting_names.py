"""Names of the data settings in error messages: a spec's keys, or what a caller without a spec has for them."""

from __future__ import annotations

import re
from collections.abc import Mapping

SETTINGS = ("data.columns", "data.format", "data.bad_rows: skip", "data.labels allows")
"""The settings that messages of this package name, and that a caller may call otherwise."""


def with_names(message: str, names: Mapping[str, str]) -> str:
    """Return a message of this package with settings renamed; `names` maps a setting's name in a spec to the new one.

    Raises KeyError for a name that is not one of SETTINGS.
    """
    if strange := set(names) - set(SETTINGS):
        raise KeyError(f"{sorted(strange)[0]!r} is not among {', '.join(SETTINGS)}")
    pattern = "|".join(map(re.escape, names))
    return re.sub(pattern, lambda match: names[match[0]], message) if names else message
