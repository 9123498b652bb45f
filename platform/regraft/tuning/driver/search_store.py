"""What a search writes down in the store: `search.json`, and `trials.jsonl` with a line for each trial.

Both are replaced whole, so a reader sees the old one or the new one, and the process may die at any moment. Results are
written at once; what is only on its way, now and then.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import fields
from typing import Any

from regraft.errors import Damaged, NotFound
from regraft.spec.run import RunSpec
from regraft.store import documents
from regraft.store.objects import Body, ObjectStore, checked
from regraft.store.searches import RECORD, folder_of
from regraft.tuning.records import SearchRecord, TrialRecord

log = logging.getLogger(__name__)
TRIALS = "trials.jsonl"
EVERY_S = 2.0
"""Between two writes of what is only on its way."""


class SearchStore:
    """The documents of one search, under `searches/<search>/`."""

    def __init__(self, store: ObjectStore, search: str) -> None:
        self.store = store
        self.folder = folder_of(search)
        self._written = 0.0

    def record(self) -> SearchRecord | None:
        """What `search.json` says; None where there is no such search, or it cannot be read."""
        try:
            document = documents.read(self.store, f"{self.folder}/{RECORD}")
        except NotFound:
            return None
        except Damaged as error:
            log.warning("%s; it is written anew", error)
            return None
        known = {field.name for field in fields(SearchRecord)}
        return SearchRecord(**{name: value for name, value in document.items() if name in known})

    def trials(self) -> list[TrialRecord]:
        """Every trial that is written down, by number; a line that cannot be read is left out, and its trial rerun."""
        try:
            text = self.store.get(f"{self.folder}/{TRIALS}").decode("utf-8", "replace")
        except NotFound:
            return []
        found = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                found.append(TrialRecord.read(json.loads(line)))
            except (ValueError, TypeError) as error:
                log.warning("line %d of %s/%s cannot be read: %s", number, self.folder, TRIALS, error)
        return sorted(found, key=lambda record: record.number)

    def write_record(self, record: SearchRecord) -> None:
        """Replace `search.json`."""
        self.store.put(f"{self.folder}/{RECORD}", documents.encode(record.document()))

    def write_trials(self, records: list[TrialRecord], *, at_once: bool = True) -> None:
        """Replace `trials.jsonl`; not at once: only when the last time was a while ago."""
        now = time.monotonic()
        if not at_once and now - self._written < EVERY_S:
            return
        text = "".join(f"{json.dumps(_plain(record.document()))}\n" for record in records)
        self.store.put(f"{self.folder}/{TRIALS}", text.encode())
        self._written = now

    def write_spec(self, spec: RunSpec) -> None:
        """The spec of the search, as resolved."""
        self.store.put(f"{self.folder}/spec.yaml", spec.dump().encode())

    def write(self, name: str, body: Body) -> None:
        """Any other file of the search, such as its report."""
        self.store.put(checked(f"{self.folder}/{name}"), body)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
