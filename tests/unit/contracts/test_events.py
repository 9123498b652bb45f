"""A progress event and its JSON document are the same thing, and a log of any edition can be read."""

from __future__ import annotations

import inspect
import json
import pickle
from typing import Any

import pytest

from regraft.contracts import events
from regraft.contracts.events import KINDS, Event, Note, Stepped

DOCUMENTS: list[dict[str, Any]] = [
    {"event": "note", "message": "left out 3 rows"},
    {"event": "start", "run": "r", "model": "m", "rows": 8, "steps": 4, "trainable": 2, "total": 20, "workers": 1},
    {"event": "resume", "step": 1, "checkpoint": "runs/r/checkpoints/1"},
    {"event": "step", "step": 2, "epoch": 0.5, "loss": 1.25, "norm": 0.5, "lr": 1e-3, "steps": 4,
     "rows_per_second": 310.0, "left_s": 12.0},
    {"event": "step", "step": 2, "epoch": 0.5, "loss": 1.25, "lr": 1e-3, "steps": 4, "rows_per_second": 310.0,
     "left_s": 12.0},
    {"event": "step", "unit": "row", "step": 25, "steps": 50, "rows_per_second": 3.0, "left_s": 8.5},
    {"event": "eval", "step": 2, "epoch": 1.0, "metrics": {"accuracy": 0.8}, "best": True},
    {"event": "checkpoint", "step": 2, "bytes": 1000, "stall_s": 0.01},
    {"event": "trunk", "rows": 32, "total": 90},
    {"event": "baseline", "name": "majority", "metrics": {"accuracy": 0.5}},
    {"event": "test", "rows": 20, "metrics": {"accuracy": 0.8}, "intervals": {"accuracy": {"low": 0.6, "high": 0.9}}},
    {"event": "register", "model": "m", "version": "v1"},
    {"event": "register", "model": "m", "version": "v1", "trial": "t0003"},
    {"event": "end", "kind": "Diverged", "message": "the loss is nan"},
    {"event": "search", "search": "m-1", "model": "m", "score": {"name": "accuracy", "mode": "max"}, "trials": None,
     "rows": {"train": 80, "eval": 20}, "seconds": None},
    {"event": "trial", "id": "t0001", "status": "running", "overrides": {"training.lr": 1e-3}, "epoch": None,
     "metrics": {}, "best": None, "error": None, "seconds": 0.0, "counts": {"running": 1}, "trials": None,
     "elapsed_s": 3.0, "left_s": None, "leader": None},
    {"event": "shared", "rows": 90, "computed": 90, "reused": 0, "bytes": 5000, "where": "disk", "why": "it is fast",
     "saved_s": 1.5},
    {"event": "baselines", "baselines": {"majority": {"accuracy": 0.5}}, "correct": "8:ff"},
    {"event": "rows", "rows": 32, "of": 90, "what": "m@v1"},
    {"event": "resamples", "resamples": 3, "of": 1000},
]  # fmt: skip
"""Every kind of event with exactly the keys that stored logs and logs of jobs have."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["event"])
def test_an_event_is_its_document(document: dict[str, Any]) -> None:
    event = Event.parse(json.loads(json.dumps(document)))
    assert event is not None and event.event == document["event"]
    assert event.document() == document
    assert Event.parse({"time": 1e9, **document}) == event, "what the log adds is no part of the event"
    assert pickle.loads(pickle.dumps(event)) == event, "events cross processes"


def test_the_documents_cover_every_kind() -> None:
    assert {document["event"] for document in DOCUMENTS} == set(KINDS)
    defined = [item for _, item in inspect.getmembers(events, inspect.isclass) if issubclass(item, Event)]
    assert {cls for cls in defined if cls is not Event} == set(KINDS.values())


@pytest.mark.parametrize(
    "document", [{}, {"event": "something new"}, {"event": None}, {"event": "note"}, {"event": "step", "steps": 4}]
)
def test_a_line_of_another_edition_is_no_event(document: dict[str, Any]) -> None:
    assert Event.parse(document) is None


def test_keys_that_a_later_edition_adds_are_ignored() -> None:
    assert Event.parse({"event": "note", "message": "m", "level": "warning"}) == Note("m")
    assert Event.parse({"event": "step", "step": 3}) == Stepped(3)
