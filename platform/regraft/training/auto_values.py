"""The values of `auto` for a run: chosen when it begins, and those that it began with when it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from regraft.contracts import Progress, note
from regraft.errors import Damaged
from regraft.spec.auto import as_begun, choose, resolve_auto
from regraft.spec.run import RunSpec

CHOICE = "auto"
"""The field of a run's document that holds the values chosen for it; absent from runs of editions before `auto`."""


def settle(
    spec: RunSpec, run: str, *, known: Mapping[str, Any] | None, rows: int, progress: Progress | None
) -> tuple[RunSpec, dict[str, Any]]:
    """Return the spec with a number for each training key, and the fields of the run's document about the choice.

    A run that goes on keeps the numbers that it began with; a note says what is chosen for a new one.
    """
    if known is not None:
        return resolve_auto(with_numbers_of(spec, run, known), rows), {}
    chosen = choose(spec, rows)
    if chosen.text:
        note(progress, chosen.text)
    return resolve_auto(spec, rows), {CHOICE: chosen.values}


def with_numbers_of(spec: RunSpec, run: str, known: Mapping[str, Any]) -> RunSpec:
    """Return the spec with the numbers that the run of this document began with. Raises Damaged."""
    try:
        return as_begun(spec, known.get(CHOICE))
    except ValidationError as error:
        raise Damaged(f"{CHOICE} holds what training does not take: {error.errors()[0]['msg']}", f"run {run}") from None
