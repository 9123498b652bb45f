"""The searches of a store; `regraft.tuning.driver.search_store` has their documents."""

from __future__ import annotations

import logging

from regraft.errors import Damaged, NotFound
from regraft.store import documents
from regraft.store.documents import Document
from regraft.store.objects import ObjectStore, checked
from regraft.store.schemas import StoredSearch, StoredTrial, check_types

_log = logging.getLogger(__name__)

RECORD = "search.json"
TRIALS = "trials.jsonl"


def folder_of(search: str) -> str:
    """Return the folder of a search's documents and checkpoints."""
    return checked(f"searches/{search}")


def searches(store: ObjectStore) -> list[str]:
    """Return the names of the searches that have a record, sorted."""
    found = []
    for stat in store.list("searches/"):
        name, _, document = stat.key.removeprefix("searches/").partition("/")
        if document == RECORD:
            found.append(name)
    return sorted(found)


def search_record(store: ObjectStore, name: str) -> Document:
    """Return the record of a search; its state is "damaged" if it cannot be read, with the reason as `problem`."""
    try:
        return documents.read(store, f"searches/{name}/{RECORD}", StoredSearch)
    except (Damaged, NotFound) as error:
        return {"name": name, "state": "damaged", "problem": str(error)}


def trial_documents(store: ObjectStore, name: str) -> list[Document]:
    """Return the stored trials of a search; lines without the types of a trial are left out, with a warning."""
    key, found = f"{folder_of(name)}/{TRIALS}", []
    for number, document in enumerate(documents.json_lines(store, key), 1):
        try:
            check_types(document, StoredTrial, f"{store.url}/{key}, trial {number}")
        except Damaged as error:
            _log.warning("%s; the trial is left out", error)
            continue
        found.append(document)
    return found
