"""The record of a selection in the store: what it decided, by which edition, and for which runs outputs were kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from regraft.bases.locate import Base
from regraft.selection.choice import SCORING
from regraft.selection.outcome import SelectOutcome
from regraft.selection.page import select_page
from regraft.spec.run import RunSpec
from regraft.store.documents import of_known_keys
from regraft.store.objects import ObjectStore
from regraft.store.selections import page_key, read_selection, write_selection


@dataclass
class SelectionRecord:
    """One selection's place in the store, and what a command must share with it to have its answer."""

    store: ObjectStore
    spec: RunSpec
    name: str
    fingerprint: str
    """The snapshot of the rows."""
    bases: Sequence[Base]
    _kept_for: list[str] = field(default_factory=list)

    def known(self, *, skip_bad: bool) -> SelectOutcome | None:
        """Return the outcome that is stored for these rows, bases and scores, with this command's references.

        None where bases were left out that this command does not leave out (`skip_bad`), and where outputs were not
        kept for a run of this spec's method: what was read is found again, so that deciding again costs little.
        """
        found = read_selection(self.store, self.name) or {}
        same = found.get("scoring"), found.get("fingerprint"), found.get("hashes")
        if same != (SCORING, self.fingerprint, self._hashes()):
            return None
        self._kept_for = list(found["kept_for"])
        outcome = of_known_keys(SelectOutcome, _moved(found["outcome"], found["references"], self._references()))
        wanted = kept_for(self.spec)
        if (outcome.left_out and not skip_bad) or (wanted and wanted not in self._kept_for):
            return None
        return replace(outcome, already=True, store=self.spec.store, page=self._page())

    def write(self, outcome: SelectOutcome) -> SelectOutcome:
        """Write the page, then the record, and return the outcome with the page's address."""
        outcome = replace(outcome, name=self.name, store=self.spec.store, page=self._page())
        self.store.put(page_key(self.name), select_page(outcome).encode())
        self._kept_for = sorted({*self._kept_for, *filter(None, [kept_for(self.spec)])})
        record = {
            "fingerprint": self.fingerprint,
            "hashes": self._hashes(),
            "references": self._references(),
            "scoring": SCORING,
            "kept_for": self._kept_for,
            "created": outcome.created,
            "seconds": outcome.seconds,
            "outcome": replace(outcome, already=False).document(),
        }
        write_selection(self.store, self.name, record)
        return outcome

    def _page(self) -> str:
        return f"{self.store.url}/{page_key(self.name)}"

    def _hashes(self) -> dict[str, str]:
        return {inside(base.reference): base.hash for base in self.bases}

    def _references(self) -> dict[str, str]:
        return {inside(base.reference): base.reference for base in self.bases}


def inside(reference: str) -> str:
    """Return a reference without this folder: in a checkout elsewhere it is the same one."""
    return reference.removeprefix(f"{Path.cwd()}/")


def kept_for(spec: RunSpec) -> str:
    """Return what decides which outputs a selection keeps beside the means; empty where it keeps none."""
    if spec.compute.trunk not in ("auto", "disk"):
        return ""
    method = spec.method
    first = method.by_depth and not method.has_phases() and not method.closed_form
    return json.dumps([method.model_dump(mode="json") if first else None, spec.compute.trunk_gb], sort_keys=True)


def _moved(document: Any, old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, Any]:
    """Return a document with the references of this command in place of those it was written with."""
    written = json.dumps(document)
    for key in sorted(old, key=lambda one: -len(old[one])):
        if old[key] != new[key]:
            written = written.replace(json.dumps(old[key])[1:-1], json.dumps(new[key])[1:-1])
    found: dict[str, Any] = json.loads(written)
    return found
