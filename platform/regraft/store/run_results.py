"""The score and the training time of runs and searches, as far as the store holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regraft.errors import Damaged, NotFound, RequestError
from regraft.store.checkpoints import STATE, Checkpoints, SavedCheckpoint, read_state
from regraft.store.documents import Document
from regraft.store.manifest import read_verified
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry
from regraft.store.runs import RunInfo
from regraft.store.searches import trial_documents
from regraft.units import finite_number


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run or a search has reached so far."""

    score: str = ""
    """Name of the deciding metric."""
    value: float | None = None
    """Its best value; None before the first evaluation."""
    seconds: float | None = None
    """Training time of all attempts."""

    def document(self) -> dict[str, Any]:
        """Return it as `--json` prints it: `score` maps the metric's name to its value."""
        return {"score": {self.score: self.value} if self.value is not None else {}, "seconds": self.seconds}


def run_result(store: ObjectStore, info: RunInfo) -> RunResult:
    """Return the result of a run: of its record, else of the version registered from it, else of its checkpoints."""
    fields = info.fields
    found = _result(fields)
    if found.value is not None and found.seconds is not None:
        return found
    try:
        if fields.get("version"):
            return _result(Registry(store).version(info.model, str(fields["version"])).meta)
        return _of_checkpoints(Checkpoints(store, info.name), found.score)
    except (Damaged, NotFound, RequestError, ValueError):
        return found


def _result(document: Mapping[str, Any]) -> RunResult:
    """Return the result in a run's record or in the metadata of a version."""
    score = document.get("score")
    name = str(score.get("name", "")) if isinstance(score, Mapping) else ""
    value = finite_number((document.get("metrics") or {}).get(name))
    return RunResult(name, value, finite_number(document.get("seconds")))


def _of_checkpoints(checkpoints: Checkpoints, score: str) -> RunResult:
    """Return the best evaluation until the newest checkpoint; records of 0.1.0 do not name the deciding metric."""
    listed = checkpoints.listed()
    if not listed:
        return RunResult(score)
    newest = listed[-1]
    state = read_state(read_verified(checkpoints.store, newest.prefix, STATE, newest.manifest), newest.prefix)
    best = finite_number(state.get("best"))
    return RunResult(score or _name_of(listed, best), best, finite_number(state.get("seconds")))


def _name_of(listed: list[SavedCheckpoint], best: float | None) -> str:
    """Return the metric that has the value `best` in one of the checkpoints; "score" if none has it."""
    metrics = (item for saved in listed for item in (saved.meta.get("metrics") or {}).items())
    return next((name for name, value in metrics if value == best), "score")


def search_result(store: ObjectStore, search: str, record: Document) -> RunResult:
    """Return the best result of a search: its winner's, or that of the best trial so far."""
    score = record.get("score")
    seconds = finite_number(record.get("seconds"))
    if not isinstance(score, Mapping):
        return RunResult(seconds=seconds)
    name, least = str(score.get("name")), score.get("mode") == "min"
    values = [
        value
        for trial in trial_documents(store, search)
        if (value := finite_number((trial.get("best") or {}).get(name))) is not None
    ]
    return RunResult(name, (min if least else max)(values, default=None), seconds)
