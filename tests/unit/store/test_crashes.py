"""SIGKILL before and after every change of an operation leaves the old state or the new one, never a third."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from doubles.fake_crashes import Countdown, FakeCountingStore, changes_of, counted_system, killed_at
from regraft.errors import NotFound
from regraft.store.checkpoints import Checkpoints, Retention
from regraft.store.objects import ObjectStore, open_store
from regraft.store.registry import Registry
from unit.store.conftest import REAL

Work = Callable[[ObjectStore], object]
View = tuple[Any, ...]


def files(mark: str) -> dict[str, bytes]:
    return {"delta": mark.encode() * 100, "state.json": b'{"mark": "' + mark.encode() + b'"}'}


def checkpoints(store: ObjectStore) -> None:
    """Save three checkpoints, the first of which is the best."""
    for step in (1, 2, 3):
        Checkpoints(store, "run").save(step, files(f"step {step}"), {"metrics": {"f1": -step}})


def versions(store: ObjectStore) -> None:
    """Publish three versions, and an alias with the history v1, v2, v1."""
    registry = Registry(store)
    for number in (1, 2, 3):
        registry.publish("m", files(f"version {number}"), work(str(number)))
    for version in ("v1", "v2", "v1"):
        registry.promote("m", version, "production")


def work(run: str) -> dict[str, Any]:
    return {"lineage": {"run": run}, "delta_sha256": run}


def view(store: ObjectStore, scratch: Path) -> View:
    """Return everything that a new process sees, without ids and version numbers; all files are verified."""
    runs, registry = Checkpoints(store, "run"), Registry(store)
    saved = [(one.step, contents(runs.open(one, scratch / uuid4().hex))) for one in runs.listed()]
    found = {one.version: contents(registry.fetch(one, scratch / uuid4().hex)) for one in registry.versions("m")}
    aliases = {alias: found[version] for alias, version in registry.aliases("m").items()}
    return tuple(sorted(set(saved))), tuple(found.values()), tuple(sorted(aliases.items()))


def contents(folder: Path) -> tuple[tuple[str, bytes], ...]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {found["delta"]} == {files(mark)["delta"] for mark in MARKS if files(mark) == found}
    shutil.rmtree(folder)
    return tuple(sorted(found.items()))


MARKS = [*(f"step {n}" for n in range(9)), *(f"version {n}" for n in range(9))]


def delete_again(store: ObjectStore) -> None:
    """Delete a version unless it is already deleted."""
    with contextlib.suppress(NotFound):
        Registry(store).delete("m", "v3")


def unalias_again(store: ObjectStore) -> None:
    with contextlib.suppress(NotFound):
        Registry(store).unalias("m", "production")


@dataclass(frozen=True)
class Operation:
    """An operation; `again` is what a user does after a crash if it is not the same operation."""

    prepare: Callable[[ObjectStore], None]
    do: Work
    again: Work | None = None
    repeats: bool = True
    """Whether repeating the completed operation changes nothing."""


OPERATIONS = {
    "save": Operation(checkpoints, lambda store: Checkpoints(store, "run").save(4, files("step 4"), {})),
    "retain": Operation(checkpoints, lambda store: Checkpoints(store, "run").retain(Retention(metric="f1"))),
    "publish": Operation(versions, lambda store: Registry(store).publish("m", files("version 4"), work("4"))),
    "promote": Operation(versions, lambda store: Registry(store).promote("m", "v3", "production")),
    "promote new": Operation(versions, lambda store: Registry(store).promote("m", "v3", "staging")),
    "rollback": Operation(versions, lambda store: Registry(store).rollback("m", "production"), repeats=False),
    "unalias": Operation(
        versions,
        lambda store: Registry(store).unalias("m", "production"),
        again=unalias_again,
    ),
    "delete": Operation(versions, lambda store: Registry(store).delete("m", "v3"), again=delete_again),
    "first save": Operation(lambda store: None, lambda store: Checkpoints(store, "run").save(1, files("step 1"), {})),
}


def no_garbage(store: ObjectStore) -> bool:
    """After collect and sweep, every file belongs to a commit, or marks a version number as used."""
    Checkpoints(store, "run").collect(-1e6)
    Registry(store).collect(-1e6)
    store.sweep(-1e6)
    keys = [stat.key for stat in store.list()]
    committed = {key.removesuffix("manifest.json") for key in keys if key.endswith("/manifest.json")}
    kept = [key for key in keys if not key.endswith(("/claim.json", "/deleted.json")) and "/aliases/" not in key]
    return all(key.rpartition("/")[0] + "/" in committed for key in kept)


def check_crash(store: ObjectStore, operation: Operation, states: tuple[View, View], scratch: Path) -> None:
    seen = view(store, scratch)
    assert seen in states, "neither the old state nor the new one"
    (operation.again or operation.do)(store)
    after = view(store, scratch)
    assert after == states[1] or (not operation.repeats and seen == states[1])
    assert no_garbage(store)
    assert view(store, scratch) == after


QUICK = {"save", "publish", "promote"}
some_in_every_run = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OPERATIONS]
)


@pytest.mark.parametrize("moment", [pytest.param("before", marks=pytest.mark.slow), "after"])
@some_in_every_run
def test_a_folder_survives_a_kill_at_every_call(tmp_path: Path, name: str, moment: str) -> None:
    operation = OPERATIONS[name]
    template, place = tmp_path / "template", tmp_path / "store"
    template.mkdir()
    operation.prepare(open_store(str(template)))

    def do(countdown: Countdown) -> None:
        with counted_system(countdown):
            operation.do(open_store(str(place)))

    shutil.copytree(template, place)
    old = view(open_store(str(place)), tmp_path / "scratch")
    count = changes_of(do)
    states = old, view(open_store(str(place)), tmp_path / "scratch")
    assert count >= 5 and states[0] != states[1]
    for at in range(count):
        shutil.rmtree(place)
        shutil.copytree(template, place)
        killed_at(do, at, moment)
        check_crash(open_store(str(place)), operation, states, tmp_path / "scratch")
    assert not list(place.rglob(".regraft-tmp-*"))


@pytest.fixture(params=["small", *(["real"] if REAL else [])])
def bucket_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A unique prefix on a small S3 server, and on the one that REGRAFT_TEST_S3 names."""
    url = str(request.getfixturevalue(f"{request.param}_url"))
    yield url
    everything = open_store(url)
    everything.delete([stat.key for stat in everything.list()])


@some_in_every_run
def test_a_bucket_survives_a_kill_at_every_request(bucket_url: str, tmp_path: Path, name: str) -> None:
    operation = OPERATIONS[name]
    template = open_store(f"{bucket_url}/template")
    operation.prepare(template)
    objects = {stat.key: template.get(stat.key) for stat in template.list()}

    def fresh() -> ObjectStore:
        store = open_store(f"{bucket_url}/{uuid4().hex}")
        for key, data in objects.items():
            store.put(key, data)
        return store

    def doing(store: ObjectStore) -> Callable[[Countdown], object]:
        return lambda countdown: operation.do(FakeCountingStore(store, countdown))

    store = fresh()
    old = view(store, tmp_path)
    count = changes_of(doing(store))
    states = old, view(store, tmp_path)
    assert count >= 1 and states[0] != states[1]
    # Nothing changes between two requests: dying before each, and after the last, covers all states.
    for at, moment in [*((at, "before") for at in range(count)), (count - 1, "after")]:
        store = fresh()
        killed_at(doing(store), at, moment)
        check_crash(store, operation, states, tmp_path)
