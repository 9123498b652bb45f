"""The adaptations of a store: one document and one page for each, under `adaptations/<name>/`."""

from __future__ import annotations

from typing import Any

from regraft.errors import NotFound
from regraft.store import documents
from regraft.store.documents import Document
from regraft.store.objects import ObjectStore, checked
from regraft.store.schemas import StoredAdaptation

RECORD = "adaptation.json"
PAGE = "adapt.html"


def folder_of(adaptation: str) -> str:
    """Return the folder of an adaptation's document and page."""
    return checked(f"adaptations/{adaptation}")


def adaptation_record(store: ObjectStore, name: str) -> Document | None:
    """Return the document of an adaptation; None if there is none. Raises Damaged."""
    try:
        return documents.read(store, f"{folder_of(name)}/{RECORD}", StoredAdaptation)
    except NotFound:
        return None


def read_adaptation(store: ObjectStore, name: str) -> Document | None:
    """Return the document of an adaptation; None if there is none, or it cannot be read and is to be made again."""
    return documents.read_or_none(store, f"{folder_of(name)}/{RECORD}", StoredAdaptation)


def write_adaptation(store: ObjectStore, name: str, document: dict[str, Any]) -> None:
    """Write or replace the document of an adaptation."""
    store.put(f"{folder_of(name)}/{RECORD}", documents.encode({"name": name, **document}))


def adaptations(store: ObjectStore) -> list[str]:
    """Return the names of the adaptations that have a document, sorted."""
    keys = (stat.key.removeprefix("adaptations/").partition("/") for stat in store.list("adaptations/"))
    return sorted(name for name, _, document in keys if document == RECORD)
