"""Registered models as a spec names them: `model:NAME`, `model:NAME@v2`."""

from __future__ import annotations

from regraft.errors import RequestError
from regraft.store.names import parse

MODEL = "model:"


def check_named(reference: str, where: str) -> None:
    """Raise ValueError for what does not name a registered model."""
    try:
        if not reference.startswith(MODEL):
            raise RequestError(f"{reference} is written; a registered model is named")
        parse(reference.removeprefix(MODEL))
    except RequestError as error:
        raise ValueError(f"{where}: {error.message}, as in model:NAME or model:NAME@v2") from None
