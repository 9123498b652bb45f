"""What is known of a base before anything is computed: its size, and what it was trained for."""

from __future__ import annotations

import re
from typing import Any

from regraft.bases.locate import Base
from regraft.errors import BaseError
from regraft.store.bounded_json import parse_json

_POOLING = "1_Pooling/config.json"
_WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_SHOWN = 3
"""Labels of its own that are shown."""


def trained_for(base: Base) -> str:
    """Return what a base was trained for, by its own files: its head, its pooling, its labels."""
    if base.ancestors:
        return f"registered model {base.ancestors[0]}, adapted from {base.ancestors[-1]}"
    config = _config(base)
    named = str((config.get("architectures") or [""])[0])
    purpose = named.partition("For")[2]
    if (base.path / _POOLING).is_file():
        return "vectors of whole texts (a sentence encoder)"
    if not purpose:
        return "features (saved without a head)"
    what = " ".join(word.lower() if not word.isupper() else word for word in _WORDS.findall(purpose))
    labels = [str(label) for label in (config.get("id2label") or {}).values()]
    if len(labels) < 2 or all(re.fullmatch(r"LABEL_\d+", label) for label in labels):
        return what
    more = f" and {len(labels) - _SHOWN:,} more" if len(labels) > _SHOWN else ""
    return f"{what}: {', '.join(labels[:_SHOWN])}{more}"


def _config(base: Base) -> dict[str, Any]:
    try:
        found = parse_json((base.path / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise BaseError(f"config.json cannot be read: {error}", where=base.reference) from error
    return found if isinstance(found, dict) else {}
