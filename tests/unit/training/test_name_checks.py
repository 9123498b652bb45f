"""A run whose name already belongs to another kind of model says so before it trains."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.contracts import Event, Note
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.training.name_checks import NameUse, warn_of_changes
from support.tiny import document

KNOWN = NameUse("text-classification", "bert", ("a", "b"))


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """A store in which `r` is a text classifier on a BERT."""
    found = open_store(str(tmp_path / "store"))
    meta = {"task": {"type": KNOWN.task}, "base": {"family": KNOWN.family}, "labels": list(KNOWN.labels)}
    Registry(found).publish("r", {"spec.yaml": b"{}"}, meta)
    return found


@pytest.mark.parametrize(
    ("planned", "said"),
    [
        (KNOWN, ()),
        (NameUse("text-classification", "bert", ("b", "a")), ()),
        (NameUse("text-classification", "", ("a", "b")), ()),
        (NameUse("text-generation", "llama", ()), ("task text-generation instead of", "family llama instead of bert")),
        (NameUse("text-classification", "distilbert", ("a", "b")), ("family distilbert instead of bert",)),
        (NameUse("text-classification", "bert", ("a", "c")), ("no more label 'b'", "the new label 'c'")),
        (NameUse("text-classification", "bert", tuple("abcdefghi")), ("'c', 'd', 'e', 'f', 'g' and 2 more",)),
    ],
)
def test_each_change_is_said(store: Any, planned: NameUse, said: tuple[str, ...]) -> None:
    warnings = warn_of_changes(store, "r", planned)
    assert len(warnings) == bool(said)
    for part in said:
        assert part in warnings[0]
    if said:
        assert "r@v1" in warnings[0] and "write another name" in warnings[0]


def test_a_new_name_is_no_change(store: Any) -> None:
    assert warn_of_changes(store, "other", KNOWN) == ()


def test_a_run_warns_before_its_first_step(tmp_path: Path) -> None:
    spec = document(tmp_path, epochs=1)
    regraft.train(spec)
    for side in ("train", "eval"):
        path = tmp_path / f"{side}.csv"
        rows = list(csv.reader(path.open(newline="")))
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([text, {"entry": "door"}.get(label, label)] for text, label in rows)
    events: list[Event] = []
    regraft.train({**spec, "training": {**spec["training"], "seed": 3}}, progress=events.append)
    notes = [event.message for event in events if isinstance(event, Note)]
    (warning,) = [message for message in notes if "is taken by another kind of model" in message]
    assert "no more label 'entry'; the new label 'door'" in warning
    kinds = [type(event).__name__ for event in events]
    assert kinds.index("Note") < kinds.index("Stepped")
