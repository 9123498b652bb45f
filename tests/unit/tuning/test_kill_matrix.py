"""SIGKILL before and after changes that a search makes to its store: it continues to the same end without duplicates.

On a folder each changing call of the system counts, on S3 each changing request. Twelve of them are taken, from the
first to the last; all would take an hour.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from doubles.fake_crashes import Countdown, changes_of, counted_requests, counted_system, killed_at
from doubles.fake_pool import FakePool, a_spec, searched
from regraft.spec.run import RunSpec
from regraft.store.manifest import fetch_verified
from regraft.store.objects import ObjectStore, open_store
from regraft.store.registry import Registry
from regraft.tuning.driver.prepare import search_name
from support.tiny import tiny_bert
from unit.store.conftest import REAL, root_on
from unit.store.conftest import moto_endpoint as moto_endpoint

KILLS = 12
KILLS_OF_BASES = 4
SEARCH: dict[str, Any] = {"space": {"training.lr": {"loguniform": [1e-5, 1e-1]}}, "trials": 4, "keep": 1}

pytestmark = pytest.mark.slow


@pytest.fixture(params=["folder", "moto", *(["real"] if REAL else [])])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the root of a test's stores."""
    if request.param == "folder":
        yield str(tmp_path / "stores")
        return
    with root_on(request.param, request, "killed") as root:
        yield root


def end(spec: RunSpec) -> tuple[object, ...]:
    """Return what a finished search leaves for its user."""
    store = open_store(spec.store)
    name = search_name(spec)
    found = [json.loads(line) for line in store.get(f"searches/{name}/trials.jsonl").splitlines()]
    trials = [(line["id"], line["status"], [report["metrics"] for report in line["reports"]]) for line in found]
    (version,) = Registry(store).versions("tiny")
    delta = store.get(f"{version.prefix}delta.safetensors")
    return trials, version.meta["metrics"], version.meta["lineage"]["search"]["trial"], delta


def every_listed_checkpoint_is_whole(store: ObjectStore, scratch: Path) -> None:
    manifests = [stat.key for stat in store.list() if stat.key.endswith("/manifest.json") and "/trials/" in stat.key]
    for key in manifests:
        fetch_verified(store, key.removesuffix("manifest.json"), scratch / uuid4().hex)


def test_a_search_killed_at_any_change_ends_as_one_that_was_not(root: str, tmp_path: Path) -> None:
    killed_and_continued(root, tmp_path, SEARCH, KILLS)


def test_a_search_of_two_bases_killed_at_any_change_does_too(tmp_path: Path) -> None:
    bases = [str(tiny_bert(tmp_path / "small")), str(tiny_bert(tmp_path / "large", layers=3, seed=3))]
    space = {**SEARCH["space"], "base": bases}
    killed_and_continued(str(tmp_path / "stores"), tmp_path, {**SEARCH, "space": space}, KILLS_OF_BASES)


def killed_and_continued(root: str, tmp_path: Path, search: dict[str, Any], kills: int) -> None:
    """Kill searches at so many of their changes, and compare what they leave with one that was not killed."""
    counted: Callable[[Countdown], AbstractContextManager[None]] = (
        counted_requests if root.startswith("s3:") else counted_system
    )

    def work(spec: RunSpec) -> Callable[[Countdown], None]:
        def do(countdown: Countdown) -> None:
            with counted(countdown):
                searched(spec, FakePool())

        return do

    straight = a_spec(tmp_path, search, store=f"{root}/straight")
    count = changes_of(work(straight))
    assert count > 40, "checkpoints, records, what is retired, a version and a report"
    wanted = end(straight)
    for number in range(kills):
        at = number * count // kills + number % 3
        spec = a_spec(tmp_path, search, store=f"{root}/{number}")
        killed_at(work(spec), at, ("before", "after")[number % 2])
        store = open_store(spec.store)
        every_listed_checkpoint_is_whole(store, tmp_path / "scratch")
        assert len(Registry(store).versions("tiny") if Registry(store).models() else []) <= 1
        pool = FakePool()
        finished = done(store, spec)
        searched(spec, pool)
        assert not finished & set(pool.ran), "what was finished does not run again"
        assert end(spec) == wanted, f"killed at change {at} of {count}"


def done(store: ObjectStore, spec: RunSpec) -> set[str]:
    """Return the trials that are stored as finished."""
    key = f"searches/{search_name(spec)}/trials.jsonl"
    if not store.exists(key):
        return set()
    found = [json.loads(line) for line in store.get(key).splitlines()]
    return {line["id"] for line in found if line["status"] == "finished"}
