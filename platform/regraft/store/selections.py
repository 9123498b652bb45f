"""The selections of a store: one document and one page for each, `selections/<name>.json` and `.html`."""

from __future__ import annotations

from typing import Any

from regraft.store import documents
from regraft.store.documents import Document
from regraft.store.objects import ObjectStore, checked
from regraft.store.schemas import StoredSelection

_FOLDER = "selections/"


def page_key(name: str) -> str:
    """Return the key of a selection's page."""
    return checked(f"{_FOLDER}{name}.html")


def read_selection(store: ObjectStore, name: str) -> Document | None:
    """Return the document of a selection; None if there is none, or it cannot be read and is to be made again."""
    return documents.read_or_none(store, checked(f"{_FOLDER}{name}.json"), StoredSelection)


def write_selection(store: ObjectStore, name: str, document: dict[str, Any]) -> None:
    """Write or replace the document of a selection."""
    store.put(checked(f"{_FOLDER}{name}.json"), documents.encode({"name": name, **document}))


def selections(store: ObjectStore) -> list[str]:
    """Return the names of the selections that have a document, sorted."""
    keys = [stat.key.removeprefix(_FOLDER) for stat in store.list(_FOLDER)]
    return sorted(key.removesuffix(".json") for key in keys if key.endswith(".json") and "/" not in key)
