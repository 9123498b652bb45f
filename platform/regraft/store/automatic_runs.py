"""The automatic runs of a store: a document, a page and a spec for each, under `automatic/<name>/`."""

from __future__ import annotations

from typing import Any

from regraft.store import documents
from regraft.store.documents import Document
from regraft.store.objects import ObjectStore, checked
from regraft.store.schemas import StoredAutomaticRun

RECORD = "auto.json"
PAGE = "auto.html"
SPEC = "spec.yaml"


def automatic_folder(name: str) -> str:
    """Return the folder of an automatic run."""
    return checked(f"automatic/{name}")


def read_automatic_run(store: ObjectStore, name: str) -> Document | None:
    """Return the document of an automatic run; None if there is none, or it cannot be read and is to be made again."""
    return documents.read_or_none(store, f"{automatic_folder(name)}/{RECORD}", StoredAutomaticRun)


def write_automatic_run(store: ObjectStore, name: str, document: dict[str, Any]) -> None:
    """Write or replace the document of an automatic run."""
    store.put(f"{automatic_folder(name)}/{RECORD}", documents.encode({"name": name, **document}))
