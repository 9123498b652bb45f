"""YAML within bounds, everywhere it is read: aliases, depth, size; and none of ours has an alias."""

from __future__ import annotations

import random
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from regraft.data.yolo_layout import _read_yaml
from regraft.endpoint.api_keys import read as read_keys
from regraft.errors import Damaged, DataError, RequestError
from regraft.spec.document import parse_set, read_document
from regraft.spec.run import RunSpec
from regraft.spec.stored import read_stored_spec
from regraft.spec.yaml_words import parse_yaml
from regraft.store.bounded_yaml import MOST_ALIASED, MOST_DEPTH, dump_yaml


def bomb(width: int, depth: int) -> str:
    """Lists that name the list before them `width` times: width ** depth values of a few hundred characters."""
    lines = [f"l0: &l0 [{', '.join(['x'] * width)}]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * width)}]" for n in range(1, depth)]
    return "\n".join(lines) + "\n"


TEXTS = {
    "lists of lists": bomb(9, 9),
    "mappings of mappings": "k0: &k0 {x: 1}\n"
    + "".join(f"k{n}: &k{n} {{x: *k{n - 1}, y: *k{n - 1}}}\n" for n in range(1, 16)),
    "merges": "a: &a {x: 1}\n" + "".join(f"k{n}: {{<<: [{', '.join(['*a'] * 90)}]}}\n" for n in range(9)),
    "one alias very often": "a: &a x\nb: [" + ", ".join(["*a"] * (MOST_ALIASED + 1)) + "]\n",
    "an alias of itself": "a: &a [*a]\n",
    "an alias of a key around it": "&a a: {b: &b [1, {c: *b}]}\n",
    "flow depth": "a: " + "[" * 300,
    "block depth": "\n".join(f"{' ' * n}a:" for n in range(MOST_DEPTH + 1)),
    "depth by aliases": "l0: &l0 [x]\n" + "".join(f"l{n}: &l{n} [*l{n - 1}]\n" for n in range(1, 120)),
    "many values": "- x\n" * 100_001,
    "much text": "a: " + "x" * (5 << 20),
}  # fmt: skip


def refused(read: Any, errors: tuple[type[Exception], ...]) -> str:
    """Read a text that must be refused in little time and memory; return the message."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(errors) as found:
        read()
    assert time.monotonic() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
    return str(found.value)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind == "many values" else ()) for kind in sorted(TEXTS)]
)
def test_yaml_beyond_its_bounds_is_refused(tmp_path: Path, kind: str) -> None:
    text, path = TEXTS[kind], tmp_path / "spec.yaml"
    path.write_text(text)
    message = refused(lambda: read_document(path, "a spec"), (RequestError,))
    assert "is not readable as YAML" in message and "\n" not in message and len(message) < 400
    if kind in ("many values", "much text"):
        return  # read once: the other doors have the same reader, and smaller bounds of their own
    assert "spec.yaml" in refused(lambda: read_stored_spec(text.encode(), "s3://b/models/m/v1/spec.yaml"), (Damaged,))
    refused(lambda: parse_set([f"training={text}"]), (RequestError,))
    refused(lambda: read_keys(text, "keys.yaml"), (RequestError,))
    if kind != "merges":  # its reader of texts knows no merge: they are keys like others, and each is counted
        refused(lambda: _read_yaml(path), (DataError,))


def test_ordinary_aliases_are_read() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: {<<: *x, d: *x}\n") == {"a": {"b": 1}, "c": {"b": 1, "d": {"b": 1}}}
    assert parse_yaml("a: &a x\nb: [" + ", ".join(["*a"] * MOST_ALIASED) + "]\n")["b"] == ["x"] * MOST_ALIASED


def test_many_labels_without_aliases_are_read() -> None:
    labels = [f"class {number}" for number in range(22_000)]
    assert parse_yaml(dump_yaml({"labels": labels})) == {"labels": labels}


def test_what_stands_in_several_places_is_written_in_each() -> None:
    rng = random.Random(0)
    for _ in range(100):
        shared: list[Any] = [rng.choice(["x", 1, None, 0.5, "off", "0123", "1:30", "2024-01-01", "1_000", "~"])]
        for _ in range(rng.randrange(1, 5)):
            shared.append(rng.choice([list(shared), {"a": shared[0], "b": shared[-1]}, rng.choice(shared)]))
        document = {"one": shared, "other": shared, "third": {"deep": shared}}
        text = dump_yaml(document)
        assert "&id" not in text and "*id" not in text
        assert yaml.safe_load(text) == document and parse_yaml(text) == document


def test_a_stored_spec_has_no_alias(tmp_path: Path) -> None:
    values = [1e-4, 1e-3]
    spec = RunSpec.resolve({
        "name": "r", "base": "some/base", "task": "text-classification", "method": "full", "data": {"train": "r.csv"},
        "search": {"space": {"training.lr": {"choice": values}, "training.warmup": {"choice": values}}},
    })  # fmt: skip
    assert "&id" not in spec.dump() and "*id" not in spec.dump()
    assert RunSpec.resolve(parse_yaml(spec.dump())) == spec
