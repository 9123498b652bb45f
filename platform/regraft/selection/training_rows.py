"""The rows of a selection: those of a run that may follow, which every compared base can read."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from regraft.bases.load import load_processor
from regraft.bases.locate import Base
from regraft.contracts import Progress, Row, note
from regraft.data.base_reading import BaseReading
from regraft.data.snapshot import Snapshot, build_snapshot
from regraft.errors import DataError, RegraftError
from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore
from regraft.training.prepare import skipped_text
from regraft.training.text_checks import TextChecks

FEWEST_ROWS = 8
"""Fewest rows of which anything can be said."""


def training_rows(
    store: ObjectStore, spec: RunSpec, bases: Mapping[str, Base], progress: Progress, *, skip_bad: bool
) -> Snapshot:
    """Return the checked rows, the snapshot of the run that may follow; notes about them are emitted.

    A row that one of the bases cannot read is a bad row. Where bad rows fail and bad bases are left out (`skip_bad`),
    it is the base that is bad: its features tell.
    """
    first = next(iter(bases.values()))
    checks = {} if skip_bad and spec.data.bad_rows == "fail" else _with_gaps(spec, bases)
    unread = partial(_unread, checks) if checks else None
    reading = BaseReading(partial(load_processor, first, spec.task.modality), unread)
    snapshot = build_snapshot(store, spec.task, spec.data, base=reading)
    for text in (*([skipped_text(snapshot.skipped)] if snapshot.skipped else []), *snapshot.notes):
        note(progress, text)
    if len(snapshot.train) < FEWEST_ROWS:
        raise DataError(
            f"data.train has {len(snapshot.train)} rows; bases can be compared on {FEWEST_ROWS} or more",
            where=spec.data.train,
        )
    return snapshot


def _with_gaps(spec: RunSpec, bases: Mapping[str, Base]) -> dict[str, TextChecks]:
    """Return the checks of bases whose tokenizer has tokens that their table of embeddings lacks."""
    found: dict[str, TextChecks] = {}
    for reference, base in bases.items():
        with suppress(RegraftError):  # a base of another kind is named when it is read
            checks = TextChecks.of(spec.task, base)
            if checks is not None and checks.surplus:
                found[reference] = checks
    return found


def _unread(checks: Mapping[str, TextChecks], row: Row) -> str | None:
    """Return why one of the bases cannot read a row; None if all can."""
    problems = ((reference, found.problem(row)) for reference, found in checks.items())
    return next((f"{reference}: {problem}" for reference, problem in problems if problem), None)
