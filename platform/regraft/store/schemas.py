"""Types of stored documents, checked when they are read: whoever writes to a bucket may put anything there.

A document may hold keys that this edition does not know, and may lack keys; a value of a known key has its type.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from regraft.errors import Damaged

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Metrics = dict[str, Number | None]
_LATEST = 253_402_300_799.0
"""The last second of the year 9999, after which no calendar of Python's goes on."""
Time = Annotated[float, Field(ge=0, le=_LATEST)]
_SHOWN = 3
"""Most wrong values that one message names."""
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
}
_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),
    (str, "text"),
    ((int, float), "a number"),
    (Mapping, "a mapping"),
    ((list, tuple), "a list"),
)


class Stored(BaseModel):
    """A stored document, or a part of one. Keys of later editions are kept and not checked."""

    model_config = ConfigDict(strict=True, extra="allow")


class StoredMember(Stored):
    """A task, a method or a loss: its name, and its fields, which the member itself checks."""

    type: str = ""


class StoredBase(Stored):
    """The base of a version."""

    reference: str = ""
    hash: str = ""
    processor_hash: str | None = None
    family: str | None = None
    bytes: Count = 0


class StoredScore(Stored):
    """The deciding metric."""

    name: str = ""
    mode: Literal["min", "max"] = "max"


class StoredGain(Stored):
    """A gain over a baseline, with its interval."""

    mean: Number = 0.0
    low: Number = 0.0
    high: Number = 0.0


class StoredTest(Stored):
    """The result on the test rows."""

    rows: Count = 0
    metrics: Metrics = {}
    intervals: dict[str, dict[str, Number]] = {}
    checkpoint: str | None = None


class StoredRows(Stored):
    """Which rows a version was trained on."""

    fingerprint: str = ""
    rows: dict[str, Count] = {}
    notes: list[str] = []
    overlap: Count | None = None
    test_overlap: dict[str, Count] | None = None
    skipped: dict[str, Any] = {}


class StoredEffect(Stored):
    """Recall of one class before and after another was taught."""

    label: str = ""
    rows: Count = 0
    before: Number | None = None
    after: Number | None = None


class StoredTaught(Stored):
    """A class that was taught to a version without training."""

    rows: Count = 0
    bias: Number = 0.0
    moved: Count = 0
    recognised: Count | None = None
    measured_on: dict[str, Any] = {}
    effect: list[StoredEffect] = []
    created: str | None = None


class StoredLineage(Stored):
    """Where a version comes from."""

    run: str | None = None
    checkpoint: str | None = None
    parent: str | None = None
    adapted_from: str | None = None
    ancestors: list[str] = []
    soup: list[Count] = []
    taught: list[StoredTaught] = []
    data: StoredRows = StoredRows()


class StoredVersion(Stored):
    """Metadata of a registered version."""

    name: str = ""
    version: str = ""
    task: StoredMember = StoredMember()
    method: StoredMember = StoredMember()
    labels: list[str] = []
    dropout: Number | None = None
    base: StoredBase = StoredBase()
    metrics: Metrics = {}
    test: StoredTest | None = None
    baselines: dict[str, Any] = {}
    gain: StoredGain | None = None
    gains: dict[str, StoredGain | None] = {}
    score: StoredScore = StoredScore()
    seed: Count = 0
    lineage: StoredLineage = StoredLineage()
    delta_sha256: str = ""
    delta_bytes: Count | None = None
    seconds: Number | None = None
    created: str | None = None
    versions: dict[str, str] = {}
    adapt: dict[str, Any] | None = None
    comparison: dict[str, Any] | None = None


class StoredCheckpoint(Stored):
    """Metadata of a checkpoint."""

    run: str = ""
    step: Count = 0
    base: str = ""
    metrics: dict[str, Any] | None = None
    stopped: bool = False
    resumable: bool = True
    soup: list[Count] = []


class StoredSnapshot(Stored):
    """Metadata of checked rows."""

    format: Count = 1
    task: str = ""
    columns: dict[str, str]
    labels: list[str]
    rows: dict[str, Count] = {}


class StoredState(Stored):
    """State of the training loop, in a checkpoint."""

    step: Count = 0
    format: Count = 1
    best: Number | None = None
    best_correct: str = ""
    stale: Count = 0
    phase: Count = 0
    phase_began: Count = 0
    finished: bool = False
    seconds: Number = 0.0
    scaler: dict[str, Any] = {}
    log: list[dict[str, Any]] = []


class StoredRun(Stored):
    """The record of a run."""

    name: str = ""
    model: str = ""
    state: str = "unknown"
    step: Count = 0
    updated: Time = 0.0
    created: str | None = None
    version: str | None = None
    score: StoredScore | None = None
    metrics: Metrics | None = None
    test: StoredTest | None = None
    baselines: dict[str, Any] | None = None
    baseline_correct: str | None = None
    majority_correct: str | None = None
    gain: StoredGain | None = None
    seconds: Number | None = None
    base: str | None = None
    data: str | None = None
    rows: dict[str, Count] = {}
    skipped: dict[str, Any] | None = None
    notes: list[str] | None = None
    overlap: Count | None = None
    auto: dict[str, Number] | None = None
    test_overlap: dict[str, Count] | None = None


class StoredLease(Stored):
    """Who drives a run, and until when."""

    id: str = ""
    host: str = ""
    machine: str = ""
    pid: int = Field(1, ge=1, lt=1 << 31)
    started: str = ""
    since: Time = 0.0
    until: Time = 0.0


class StoredPriorVersion(Stored):
    """What an alias meant before."""

    version: str | None = None
    until: Time = 0.0


class StoredAlias(Stored):
    """The version of an alias, and its former ones."""

    version: str | None
    history: list[StoredPriorVersion] = []


class StoredSearchedBase(Stored):
    """One of several bases of a search."""

    hash: str
    baselines: dict[str, Any] = {}
    baseline_correct: str = ""


class StoredSearch(Stored):
    """The record of a search."""

    name: str = ""
    model: str = ""
    state: str = "unknown"
    score: StoredScore | None = None
    space: dict[str, Any] = {}
    sampler: str = ""
    scheduler: str = ""
    store: str = ""
    trials: Count | None = None
    created: str = ""
    seconds: Number = 0.0
    winner: str | None = None
    shared: dict[str, Any] = {}
    base: str = ""
    rows: dict[str, Count] = {}
    base_hash: str = ""
    fingerprint: str = ""
    baselines: dict[str, Any] = {}
    baseline_correct: str = ""
    majority_correct: str = ""
    skipped: dict[str, Any] = {}
    overlap: Count | None = None
    auto: list[str] | None = None
    test: dict[str, StoredTest] = {}
    test_overlap: dict[str, Count] | None = None
    bases: dict[str, StoredSearchedBase] = {}


class StoredAdaptation(Stored):
    """The record of an adaptation to another domain."""

    name: str = ""
    model: str = ""
    state: str = "unknown"
    created: str = ""
    seconds: Number = 0.0
    fingerprint: str = ""
    labelled: str = ""
    source: str = ""
    version: str | None = None
    chosen: str = ""
    candidates: list[dict[str, Any]] = []
    diagnosis: dict[str, Any] = {}
    choice: dict[str, Any] = {}


class StoredAutomaticRun(Stored):
    """The record of `regraft auto` on some data."""

    name: str = ""
    state: str = "unknown"
    fingerprint: str = ""
    budget: Number = 0.0
    spent: Number = 0.0
    base: str = ""
    forward_s: Number = 0.0
    choice: dict[str, Any] = {}
    outcome: dict[str, Any] = {}


class StoredSelection(Stored):
    """The record of a selection among bases."""

    name: str = ""
    fingerprint: str = ""
    hashes: dict[str, str] = {}
    references: dict[str, str] = {}
    scoring: int = 0
    kept_for: list[str] = []
    created: str = ""
    seconds: Number = 0.0
    outcome: dict[str, Any] = {}


class StoredReport(Stored):
    """One evaluation of a trial."""

    step: Count
    epoch: Number
    metrics: Metrics
    seconds: Number


class StoredTrial(Stored):
    """A line of a search's trials."""

    id: str
    number: Count = 0
    overrides: dict[str, Any] = {}
    status: str = "waiting"
    reports: list[StoredReport] = []
    best: Metrics | None = None
    seconds: Number = 0.0
    checkpoint: str | None = None
    error: str | None = None
    depth: Count | None = None
    blocks: Count | None = None
    trainable: Count = 0
    total: Count = 0
    together: Count = 1
    attempts: Count = 0
    registered: str | None = None
    drawn: dict[str, Any] = {}
    correct: str = ""


def check_types(document: object, schema: type[Stored], where: str) -> None:
    """Raise Damaged, which names key, value and expected type, where a document does not have its types."""
    if problem := type_problem(document, schema):
        raise Damaged(problem, where)


def type_problem(document: object, schema: type[Stored]) -> str:
    """Return the keys whose values have the wrong type, with what was found and what is expected; "" for none."""
    try:
        schema.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False)
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return "; ".join(map(_problem, found[:_SHOWN])) + more
    return ""


def _problem(item: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "document"
    if item["type"] == "missing":
        return f"{key[:200]}: is missing"
    value, kind = item["input"], item["type"]
    expected = _EXPECTED.get(kind) or str(item["msg"]).removeprefix("Input should be ")
    called = next((name for types, name in _KINDS if isinstance(value, types)), "nothing")
    return f"{key[:200]}: found {reprlib.repr(value)} ({called}); expected {expected}"
