"""Redaction of the secrets of this process's environment in texts that are written."""

from __future__ import annotations

import os
import re

_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|(^|_)KEYS?($|_)|ACCESS_KEY", re.IGNORECASE)
_MIN_LENGTH = 8
"""Shorter values are not redacted: they are words like `token` or `true`, which occur in ordinary sentences."""
_IN_URL = re.compile(r"(?<=://)[^/\s@:]+:[^/\s@]+@")


def redacted(text: str) -> str:
    """Return `text` with the values of secret environment variables, and passwords in URLs, replaced by `***`."""
    for name, value in os.environ.items():
        if len(value) >= _MIN_LENGTH and is_secret_name(name) and value in text:
            text = text.replace(value, "***")
    return _IN_URL.sub("***@", text)


def is_secret_name(name: str) -> bool:
    """Return whether an environment variable of that name holds a secret."""
    return _SECRET.search(name) is not None and not name.endswith(("_PATH", "_FILE", "_MODE"))
