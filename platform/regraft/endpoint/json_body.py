"""Parsing of JSON that strangers send: UTF-8, without NaN, nested within a limit."""

from __future__ import annotations

import json
from typing import Any

from regraft.endpoint.http_errors import wrong

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def parse_json(body: bytes, what: str = "the body") -> Any:
    """Parse JSON; a byte order mark before it is left out (RFC 8259). Raises HttpError 422, about `what`."""

    def refuse(name: str) -> Any:
        raise wrong(f"{name} is written, which JSON does not have")

    coding = json.detect_encoding(body).removesuffix("-sig")
    if coding != "utf-8":
        raise wrong(f"{what} is not UTF-8, as JSON must be: it is {coding.upper()}")
    try:
        return json.loads(body.removeprefix(BYTE_ORDER_MARK).decode("utf-8"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        advice = "PowerShell needs -ContentType 'application/json; charset=utf-8'"
        raise wrong(
            f"{what} is not UTF-8, as JSON must be: byte {error.start} is 0x{error.object[error.start]:02X} ({advice})"
        ) from None
    except RecursionError:
        raise wrong("the JSON is nested too deep") from None
    except ValueError as error:
        raise wrong(f"{what} is not JSON: {str(error)[:120]}") from None


def refuse_deep(document: Any, most: int) -> None:
    """Raise HttpError 422 for a document that is nested deeper than `most`."""
    level = [document]
    for _ in range(most):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise wrong(f"the JSON is nested deeper than {most}")
