"""The automatic runs of a store: a document, a page and a spec for each, under `automatic/<name>/`."""

from __future__ import annotations

import logging
from typing import Any

from regraft.errors import Damaged, NotFound
from regraft.store import documents
from regraft.store.documents import Document
from regraft.store.objects import ObjectStore, checked
from regraft.store.schemas import StoredAutomaticRun

log = logging.getLogger(__name__)
RECORD = "auto.json"
PAGE = "auto.html"
SPEC = "spec.yaml"


def automatic_folder(name: str) -> str:
    """Return the folder of an automatic run."""
    return checked(f"automatic/{name}")


def read_automatic_run(store: ObjectStore, name: str) -> Document | None:
    """Return the document of an automatic run; None if there is none, or it cannot be read and is to be made again."""
    try:
        return documents.read(store, f"{automatic_folder(name)}/{RECORD}", StoredAutomaticRun)
    except NotFound:
        return None
    except Damaged as error:
        log.warning("%s; it is written again", error)
        return None


def write_automatic_run(store: ObjectStore, name: str, document: dict[str, Any]) -> None:
    """Write or replace the document of an automatic run."""
    store.put(f"{automatic_folder(name)}/{RECORD}", documents.encode({"name": name, **document}))
