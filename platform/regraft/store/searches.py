"""The searches of a store; `regraft.tuning.driver.search_store` has their documents."""

from __future__ import annotations

from regraft.errors import Damaged, NotFound
from regraft.store import documents
from regraft.store.documents import Document
from regraft.store.objects import ObjectStore, checked

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
    """Return the record of a search; its state is "damaged" if it cannot be read."""
    try:
        return documents.read(store, f"searches/{name}/{RECORD}")
    except (Damaged, NotFound):
        return {"name": name, "state": "damaged"}


def trial_documents(store: ObjectStore, name: str) -> list[Document]:
    """Return the stored trials of a search as they are."""
    return documents.json_lines(store, f"{folder_of(name)}/{TRIALS}")
