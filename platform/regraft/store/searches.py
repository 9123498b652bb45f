"""Which searches does the store know? What they say of themselves is theirs: `regraft.tuning.driver.search_store`."""

from __future__ import annotations

from regraft.errors import Damaged, NotFound
from regraft.store import documents
from regraft.store.documents import Document
from regraft.store.objects import ObjectStore, checked

RECORD = "search.json"


def folder_of(search: str) -> str:
    """Where a search's documents and checkpoints are."""
    return checked(f"searches/{search}")


def searches(store: ObjectStore) -> list[str]:
    """Names of the searches that have a record."""
    found = []
    for stat in store.list("searches/"):
        name, _, document = stat.key.removeprefix("searches/").partition("/")
        if document == RECORD:
            found.append(name)
    return sorted(found)


def told(store: ObjectStore, name: str) -> Document:
    """What a search's record says; of one that cannot be read that it is damaged."""
    try:
        return documents.read(store, f"searches/{name}/{RECORD}")
    except (Damaged, NotFound):
        return {"name": name, "state": "damaged"}
