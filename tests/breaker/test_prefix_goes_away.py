"""A prefix of a bucket that goes away is not an empty store: nothing is made in its place, and work goes on after."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from breaker.test_store_goes_away import CALLS, LosesItsStore, StoreStates, ask
from doubles.fake_s3 import FakeS3
from regraft.errors import RunError, StoreGone
from regraft.spec.run import RunSpec
from regraft.store import mark
from regraft.store.lease import Lease
from regraft.store.objects import open_existing, open_store
from regraft.store.registry import Registry
from regraft.store.s3 import S3Store
from regraft.training.session import train_local
from support.tiny import document
from unit.endpoint.model_store import ModelStore
from unit.store.conftest import small_server as small_server
from unit.store.conftest import small_url as small_url


class Prefix:
    """A store's prefix whose objects can be taken away and brought back."""

    def __init__(self, server: FakeS3, url: str) -> None:
        self.server, self.url = server, url
        self._start = url.removeprefix("s3://b/") + "/"
        self._away: dict[str, tuple[bytes, dict[str, str]]] = {}

    def there(self) -> list[str]:
        """Return the keys below the prefix."""
        with self.server.lock:
            return sorted(key for key in self.server.objects if key.startswith(self._start))

    def lose(self) -> None:
        """Take every object away."""
        with self.server.lock:
            self._away = {key: self.server.objects.pop(key) for key in self.there()}

    def back(self, in_flight: int = 0) -> None:
        """Bring them back. Fails where more was made in their place than the objects that were on their way.

        A condition of S3 is about one key: an object whose look at the mark came before the loss still arrives.
        """
        with self.server.lock:
            assert len(self.there()) <= in_flight, self.there()
            self.server.objects |= self._away


@pytest.fixture
def prefix(small_server: FakeS3, small_url: str, monkeypatch: pytest.MonkeyPatch) -> Prefix:
    monkeypatch.setattr(mark, "_TRUSTED_S", 0.0)
    return Prefix(small_server, small_url)


S3_CALLS: dict[str, Callable[[S3Store], object]] = {
    **{name: call for name, call in CALLS.items() if name not in ("now", "check", "sweep")},  # type: ignore[dict-item]
    "read": lambda store: store.read("runs/a/b"),
    "read_start": lambda store: store.read_start("runs/a/b", 10),
    "tag": lambda store: store.tag("runs/a/b"),
    "fetch": lambda store: store.fetch("runs/a/b", Path("unwritten")),
}


@pytest.mark.parametrize("call", S3_CALLS)
def test_each_call_says_that_the_store_is_gone_and_makes_nothing(prefix: Prefix, call: str) -> None:
    store = open_store(prefix.url)
    assert isinstance(store, S3Store)
    store.create()
    store.put("runs/a/b", b"1")
    prefix.lose()
    with pytest.raises(StoreGone, match="restore it"):
        S3_CALLS[call](store)
    prefix.back()
    assert store.get("runs/a/b") == b"1"
    store.put("runs/a/c", b"2")


def test_a_part_of_a_command_writes_nothing_into_a_prefix_that_went(prefix: Prefix) -> None:
    open_store(prefix.url).create()
    part = open_existing(prefix.url)
    part.put("runs/x/y", b"1")
    prefix.lose()
    with pytest.raises(StoreGone):
        part.put("runs/x/z", b"2")
    assert prefix.there() == []


def test_another_store_in_its_place_is_not_written(prefix: Prefix) -> None:
    store = open_store(prefix.url)
    store.create()
    store.put("runs/a/b", b"1")
    prefix.lose()
    open_store(prefix.url).create()
    with pytest.raises(StoreGone, match="another store"):
        store.put("runs/x/y", b"2")
    assert len(prefix.there()) == 1


def test_a_lease_ends_with_its_store_and_says_so(prefix: Prefix) -> None:
    store = open_store(prefix.url)
    store.create()
    with pytest.raises(StoreGone), Lease(store, "r", heartbeat_s=0.05) as lease:
        prefix.lose()
        assert lease.lost.wait(10)
        lease.raise_if_lost("another driver", "r")
    assert prefix.there() == []


def lost_and_found(prefix: Prefix, folder: Path, step: int) -> None:
    """Lose the prefix of a run after a step; check that the same command ends the run when it is back."""
    spec = RunSpec.resolve({**document(folder), "store": prefix.url})
    with pytest.raises((StoreGone, RunError), match="not there any more"):
        train_local(spec, progress=LosesItsStore(step, prefix.lose))
    prefix.back(in_flight=1)  # the thread that writes checkpoints was between its look and its object
    assert train_local(spec).version == "v1"
    assert len(Registry(open_store(prefix.url)).models()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_run_ends_at_any_moment(prefix: Prefix, tmp_path: Path, seed: int) -> None:
    lost_and_found(prefix, tmp_path, random.Random(seed).randrange(1, 16))


class BucketModels(ModelStore):
    """A store of models in a bucket."""

    url = ""

    @property
    def store(self) -> str:
        return self.url


def test_an_endpoint_answers_from_what_it_knows_and_says_so(prefix: Prefix, tmp_path: Path) -> None:
    own, seen = BucketModels(tmp_path), StoreStates()
    own.url = prefix.url
    open_store(own.store).create()
    own.add()
    with own.open(refresh_seconds=0.05, metrics=seen) as endpoint:
        assert ask(endpoint) == 200
        prefix.lose()
        while "store" not in endpoint.get("/readyz").document:
            assert ask(endpoint) == 200
        assert endpoint.get("/readyz").document["models"] == 1 and seen.readable == [False]
        prefix.back()
        while "store" in endpoint.get("/readyz").document:
            assert ask(endpoint) == 200
    assert seen.readable == [False, True]
