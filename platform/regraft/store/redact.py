"""What may be written of a text? Everything but the secrets that this process knows from its environment."""

from __future__ import annotations

import os
import re

_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|(^|_)KEYS?($|_)|ACCESS_KEY", re.IGNORECASE)
_SHORTEST = 8
"""A value shorter than that is a word like `token` or `true`, which would be struck out of every sentence."""
_IN_URL = re.compile(r"(?<=://)[^/\s@:]+:[^/\s@]+@")


def redacted(text: str) -> str:
    """`text` with the value of every secret variable of the environment, and passwords in URLs, struck out."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and secret(name) and value in text:
            text = text.replace(value, "***")
    return _IN_URL.sub("***@", text)


def secret(name: str) -> bool:
    """Whether a variable of that name holds what nobody may see."""
    return _SECRET.search(name) is not None and not name.endswith(("_PATH", "_FILE", "_MODE"))
