"""A store that goes away is not an empty one: nothing is made in its place, and work goes on when it is back."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doubles.fake_pool import FakePool, a_spec, searched
from regraft import create_store
from regraft.contracts import Event, Stepped
from regraft.endpoint.metrics import NoMetrics
from regraft.errors import LeaseHeld, NotFound, RequestError, RunError, StoreError, StoreGone
from regraft.serving.batch.session import BatchRequest, predict_here
from regraft.spec.run import RunSpec
from regraft.store.folder import FolderStore
from regraft.store.lease import Lease
from regraft.store.objects import MARK, ObjectStore, open_existing, open_store
from regraft.store.registry import Registry
from regraft.training.session import train_local
from regraft.tuning.protocol import Trial
from support.tiny import document
from unit.endpoint.model_store import Endpoint, ModelStore

Loss = Callable[[], None]


class FakeMount:
    """A store's folder that can be taken away and brought back."""

    def __init__(self, root: Path, kind: str) -> None:
        self.root, self.kind = root, kind
        self.away = root.with_name(root.name + ".away")
        if kind == "unmounted":
            self.away.mkdir()
            root.mkdir()
            self.back()

    def lose(self) -> None:
        """Take the store away: a renamed folder leaves nothing, a mount leaves its empty folder."""
        if self.kind == "renamed":
            self.root.rename(self.away)
        else:
            subprocess.run(["umount", "-l", str(self.root)], check=True)

    def back(self) -> None:
        """Bring it back. Fails where something was made in its place."""
        if self.kind == "renamed":
            self.away.rename(self.root)
        else:
            subprocess.run(["mount", "--bind", str(self.away), str(self.root)], check=True)

    def made_below(self) -> list[Path]:
        """Return everything that is there while the store is away."""
        return sorted(self.root.rglob("*")) if self.kind == "unmounted" else [p for p in [self.root] if p.exists()]


def can_mount(folder: Path) -> bool:
    """Return whether this process may bind folders."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    (folder / "probe").mkdir()
    made = subprocess.run(["mount", "--bind", str(folder), str(folder / "probe")], capture_output=True)
    return made.returncode == 0 and subprocess.run(["umount", str(folder / "probe")]).returncode == 0


@pytest.fixture(params=["renamed", "unmounted"])
def mount(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeMount]:
    if request.param == "unmounted" and not can_mount(tmp_path):
        pytest.skip("binding a folder needs root: the renamed folder alone was tested")
    made = FakeMount(tmp_path / "store", request.param)
    yield made
    if made.kind == "unmounted":
        subprocess.run(["umount", "-l", str(made.root)], capture_output=True)


def opened(mount: FakeMount) -> FolderStore:
    """Return a store with one document in it."""
    store = FolderStore(str(mount.root))
    store.create()
    store.put("runs/a/b", b"1")
    return store


CALLS: dict[str, Callable[[FolderStore], object]] = {
    "put": lambda store: store.put("runs/x/y", b"2"),
    "put_if_absent": lambda store: store.put_if_absent("runs/x/z", b"2"),
    "put_if_match": lambda store: store.put_if_match("runs/a/b", b"2", "tag"),
    "delete": lambda store: store.delete(["runs/a/b"]),
    "get": lambda store: store.get("runs/a/b"),
    "list": lambda store: list(store.list("runs/")),
    "exists": lambda store: store.exists("runs/a/b"),
    "now": lambda store: store.now(),
    "check": lambda store: store.check(),
    "sweep": lambda store: store.sweep(0),
    "begin": lambda store: store.begin(),
    "create": lambda store: store.create(),
}


@pytest.mark.parametrize("call", CALLS)
def test_each_call_says_that_the_store_is_gone_and_makes_nothing(mount: FakeMount, call: str) -> None:
    store = opened(mount)
    mount.lose()
    with pytest.raises(StoreGone, match="mount it again"):
        CALLS[call](store)
    assert mount.made_below() == []
    mount.back()
    assert store.get("runs/a/b") == b"1"
    store.put("runs/a/c", b"2")


def test_another_store_in_its_place_is_not_written(mount: FakeMount) -> None:
    store = opened(mount)
    mount.lose()
    other = FolderStore(str(mount.root))
    other.create()
    with pytest.raises(StoreGone, match="another store"):
        store.put("runs/x/y", b"2")
    assert list(other.list()) == []


def test_a_part_of_a_command_makes_no_store(mount: FakeMount) -> None:
    opened(mount)
    mount.lose()
    with pytest.raises(StoreGone):
        open_existing(str(mount.root)).put("runs/x/y", b"2")
    assert mount.made_below() == []


def test_a_lease_ends_with_its_store_and_says_so(mount: FakeMount) -> None:
    store = opened(mount)
    with pytest.raises(StoreGone), Lease(store, "r", heartbeat_s=0.05) as lease:
        mount.lose()
        assert lease.lost.wait(10)
        lease.raise_if_lost("another driver", "r")
    assert mount.made_below() == []


def test_a_lease_that_was_deleted_is_no_lost_store(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(LeaseHeld), Lease(store, "r", heartbeat_s=0.05) as lease:
        store.delete(["runs/r/lease.json"])
        assert lease.lost.wait(10)
        lease.raise_if_lost("another driver", "r")


def test_an_existing_empty_folder_is_a_store_only_where_that_is_asked(tmp_path: Path) -> None:
    spec = RunSpec.resolve({**document(tmp_path), "store": str(tmp_path / "empty")})
    Path(spec.store).mkdir()
    with pytest.raises(RequestError, match="--create"):
        train_local(spec)
    assert list(Path(spec.store).iterdir()) == []
    create_store(spec.store)
    open_store(spec.store).begin()


def test_a_store_without_a_mark_is_marked_at_its_next_write_and_read_without_one(tmp_path: Path) -> None:
    (tmp_path / "runs" / "r").mkdir(parents=True)
    (tmp_path / "runs" / "r" / "x").write_bytes(b"1")
    store = FolderStore(str(tmp_path))
    store.begin()
    assert [stat.key for stat in store.list()] == ["runs/r/x"] and store.get("runs/r/x") == b"1"
    assert not (tmp_path / MARK).exists()
    store.put("runs/r/y", b"2")
    assert (tmp_path / MARK).exists() and [stat.key for stat in store.list()] == ["runs/r/x", "runs/r/y"]


def test_a_damaged_mark_is_named(tmp_path: Path) -> None:
    for number, text in enumerate((b"", b"{", b"[]", b'{"id": 3}', b"x" * 10000, b"[" * 4000)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / MARK).write_bytes(text)
        with pytest.raises(StoreError, match=MARK):
            FolderStore(str(folder)).put("runs/r/y", b"2")


class LosesItsStore:
    """Takes the store away once, at the first event of a step or a later one."""

    def __init__(self, step: int, lose: Loss) -> None:
        self.step, self.lose, self.lost = step, lose, False

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stepped) and event.step >= self.step and not self.lost:
            self.lost = True
            self.lose()


def lost_and_found(mount: FakeMount, folder: Path, step: int) -> None:
    """Lose the store of a run after a step; check what is left, and that the same command ends the run."""
    folder.mkdir(exist_ok=True)
    spec = RunSpec.resolve({**document(folder), "store": str(mount.root)})
    create_store(spec.store)
    with pytest.raises((StoreGone, RunError), match="mount it again"):
        train_local(spec, progress=LosesItsStore(step, mount.lose))
    assert mount.made_below() == []
    mount.back()
    assert train_local(spec).version == "v1"
    assert len(Registry(open_store(spec.store)).models()) == 1


def test_a_run_ends_and_goes_on_by_the_same_command(mount: FakeMount, tmp_path: Path) -> None:
    lost_and_found(mount, tmp_path / "run", random.Random(14).randrange(1, 14))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_run_ends_at_any_moment(mount: FakeMount, tmp_path: Path, seed: int) -> None:
    lost_and_found(mount, tmp_path / "run", random.Random(seed).randrange(1, 16))


def searched_and_lost(mount: FakeMount, folder: Path, epoch: int) -> None:
    """Lose the store of a search before one of its epochs; check that the same command ends the search."""
    folder.mkdir(exist_ok=True)
    space = {"space": {"training.lr": {"loguniform": [1e-5, 1e-1]}}, "trials": 4}
    spec = a_spec(folder, space, store=str(mount.root))
    create_store(spec.store)
    begun = itertools.count()

    def lose(trial: Trial, number: int) -> None:
        if next(begun) == epoch:
            mount.lose()

    with pytest.raises(StoreGone, match="mount it again"):
        searched(spec, FakePool(during=lose))
    assert mount.made_below() == []
    mount.back()
    assert searched(spec, FakePool()).version == "v1"


def test_a_search_ends_and_goes_on_by_the_same_command(mount: FakeMount, tmp_path: Path) -> None:
    searched_and_lost(mount, tmp_path / "search", random.Random(14).randrange(12))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_search_ends_at_any_moment(mount: FakeMount, tmp_path: Path, seed: int) -> None:
    searched_and_lost(mount, tmp_path / "search", random.Random(seed).randrange(12))


def predicted_and_lost(mount: FakeMount, own: ModelStore, moment: int) -> None:
    """Lose the folder of an output after some blocks; check that the same command completes it."""
    if mount.kind == "renamed":
        mount.root.mkdir()
    rows = own.folder / "rows.csv"
    rows.write_text("text\n" + "".join(f"w{number} w5\n" for number in range(12)))
    request = BatchRequest(
        "text-classification", str(rows), str(mount.root / "out.jsonl"), own.store, block_rows=1, device="cpu"
    )
    lost: list[int] = []

    def lose(event: Event) -> None:
        lost.append(1)
        if len(lost) == moment:
            mount.lose()

    with pytest.raises(StoreGone, match="mount it again"):
        predict_here(request, progress=lose)
    assert mount.made_below() == []
    mount.back()
    assert predict_here(request).rows == 12
    assert len((mount.root / "out.jsonl").read_text().splitlines()) == 12


@pytest.fixture
def elsewhere(tmp_path: Path) -> ModelStore:
    """A store of models that stays, while another folder goes away."""
    (tmp_path / "models").mkdir()
    made = ModelStore(tmp_path / "models")
    made.add()
    return made


def test_a_prediction_ends_and_goes_on_by_the_same_command(mount: FakeMount, elsewhere: ModelStore) -> None:
    predicted_and_lost(mount, elsewhere, random.Random(14).randrange(1, 12))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_prediction_ends_at_any_moment(mount: FakeMount, elsewhere: ModelStore, seed: int) -> None:
    predicted_and_lost(mount, elsewhere, random.Random(seed).randrange(1, 13))


def ask(endpoint: Endpoint) -> int:
    return endpoint.ask("/models/text-classification", {"inputs": "w5 w6 w7"}).status


class StoreStates(NoMetrics):
    """Metrics that keep what they receive of the store."""

    def __init__(self) -> None:
        self.readable: list[bool] = []

    def store_readable(self, readable: bool) -> None:
        self.readable.append(readable)


def served_and_lost(mount: FakeMount, folder: Path, seconds: float) -> None:
    """Lose the store of an endpoint some time after it began; check that it answers, reports it, and recovers."""
    own, seen = ModelStore(folder), StoreStates()
    create_store(own.store)
    own.add()
    with own.open(refresh_seconds=0.05, metrics=seen) as endpoint:
        assert ask(endpoint) == 200
        time.sleep(seconds)
        mount.lose()
        for _ in range(200):
            assert ask(endpoint) == 200
            report = endpoint.get("/readyz").document
            if "store" in report:
                break
        assert "cannot be read" in report["store"] and report["models"] == 1
        assert endpoint.get("/models").status == 200
        assert mount.made_below() == [] and seen.readable == [False]
        mount.back()
        while "store" in endpoint.get("/readyz").document:
            assert ask(endpoint) == 200
    assert seen.readable == [False, True], "the metric changes once each way"


def test_an_endpoint_answers_from_what_it_knows_and_says_so(mount: FakeMount, tmp_path: Path) -> None:
    served_and_lost(mount, tmp_path, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_an_endpoint_answers_whenever_its_store_goes(mount: FakeMount, tmp_path: Path, seed: int) -> None:
    served_and_lost(mount, tmp_path, random.Random(seed).uniform(0, 0.2))


def test_a_store_that_is_not_there_yet_is_not_made_by_reading(tmp_path: Path) -> None:
    store: ObjectStore = open_store(str(tmp_path / "new"))
    assert list(store.list()) == [] and not store.exists("a")
    with pytest.raises(NotFound):
        store.get("a")
    assert list(tmp_path.iterdir()) == []
