"""The stored documents of a search: `search.json`, and `trials.jsonl` with one line per trial.

Both are replaced atomically, so that a reader sees the old or the new document, and the process may die at any moment.
Results are written at once, the progress of running trials at intervals.
"""

from __future__ import annotations

import json
import logging
import time

from regraft.errors import Damaged, NotFound
from regraft.spec.run import RunSpec
from regraft.store import documents
from regraft.store.bounded_json import parse_json
from regraft.store.objects import Body, ObjectStore, checked
from regraft.store.schemas import StoredSearch, StoredTrial, check_types
from regraft.store.searches import RECORD, TRIALS, folder_of
from regraft.tuning.records import SearchRecord, TrialRecord
from regraft.units import finite

log = logging.getLogger(__name__)
EVERY_S = 2.0
"""Seconds between two writes of mere progress."""


class SearchStore:
    """The documents of one search, under `searches/<search>/`."""

    def __init__(self, store: ObjectStore, search: str) -> None:
        self.store = store
        self.folder = folder_of(search)
        self._written = 0.0

    def record(self) -> SearchRecord | None:
        """Return the search's record; None if there is no such search, or it cannot be read."""
        document = documents.read_or_none(self.store, f"{self.folder}/{RECORD}", StoredSearch)
        return None if document is None else documents.of_known_keys(SearchRecord, document)

    def trials(self) -> list[TrialRecord]:
        """Return every stored trial, by number; an unreadable line is left out, so that its trial runs again."""
        try:
            text = self.store.get(f"{self.folder}/{TRIALS}").decode("utf-8", "replace")
        except NotFound:
            return []
        found = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                found.append(_trial(parse_json(line)))
            except (Damaged, ValueError, TypeError) as error:
                log.warning("line %d of %s/%s cannot be read: %s", number, self.folder, TRIALS, error)
        return sorted(found, key=lambda record: record.number)

    def write_record(self, record: SearchRecord) -> None:
        """Replace `search.json`."""
        self.store.put(f"{self.folder}/{RECORD}", documents.encode(record.document()))

    def write_trials(self, records: list[TrialRecord], *, at_once: bool = True) -> None:
        """Replace `trials.jsonl`; without `at_once` only if the last write was at least EVERY_S seconds ago."""
        now = time.monotonic()
        if not at_once and now - self._written < EVERY_S:
            return
        text = "".join(f"{json.dumps(finite(record.document()))}\n" for record in records)
        self.store.put(f"{self.folder}/{TRIALS}", text.encode())
        self._written = now

    def write_spec(self, spec: RunSpec) -> None:
        """Write the resolved spec of the search."""
        self.store.put(f"{self.folder}/spec.yaml", spec.dump().encode())

    def write(self, name: str, body: Body) -> None:
        """Write any other file of the search, such as its report."""
        self.store.put(checked(f"{self.folder}/{name}"), body)


def _trial(document: object) -> TrialRecord:
    """Return a line of `trials.jsonl` as a record. Raises Damaged where a value has the wrong type."""
    check_types(document, StoredTrial, TRIALS)
    return TrialRecord.read(document)  # type: ignore[arg-type]
