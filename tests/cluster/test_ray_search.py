"""Ray Tune decides over plain records, and actors run trials that outlive them."""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from regraft.cluster.search import search
from regraft.cluster.tune_schedulers import tune_study
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.tuning.driver import workers
from regraft.tuning.driver.prepare import search_name
from regraft.tuning.driver.search_store import SearchStore
from regraft.tuning.records import TrialRecord
from support.tiny import document, tiny_bert

DOCUMENT: dict[str, Any] = {
    "name": "tickets",
    "base": "some/base",
    "task": "text-classification",
    "method": "feature-extraction",
    "data": {"train": "train.csv"},
}
SPACE: dict[str, Any] = {
    "method": {"choice": ["feature-extraction", {"type": "freeze", "depth": 4}, "lora"]},
    "training.lr": {"loguniform": [1e-5, 1e-1]},
    "training.batch_size": {"randint": [8, 64]},
}
EPOCHS = 9
SECONDS = 30


def value(drawn: Any, epoch: int) -> float:
    """Return a score that is best at a learning rate of 1e-3."""
    return 1 - abs(math.log10(drawn["training.lr"]) + 3) / 4 + epoch / 100


def run(records: list[TrialRecord] | None = None, **search: Any) -> list[TrialRecord]:
    """Run every trial of a search in turn; `records` are of an earlier attempt."""
    study = tune_study(RunSpec.resolve({**DOCUMENT, "search": {"space": SPACE, "trials": 30, **search}}))
    known = [TrialRecord.read(json.loads(json.dumps(record.document()))) for record in records or []]
    study.restore(known)
    while (suggested := study.suggest()) is not None:
        trial, drawn = suggested
        record = TrialRecord(trial.id, trial.number, dict(trial.overrides), drawn=dict(drawn), status="finished")
        for epoch in range(1, EPOCHS + 1):
            metrics = {"accuracy": value(drawn, epoch)}
            record.reports.append({"metrics": metrics})
            record.best = metrics
            if not study.report(trial.id, epoch, metrics):
                record.status = "stopped"
                break
        study.ended(record)
        known.append(record)
    return known


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_bad_trials_end_early_and_the_best_trains_to_its_end(scheduler: str) -> None:
    found = run(scheduler=scheduler)
    best = max(found, key=lambda record: value(record.drawn, EPOCHS))
    stopped = [record for record in found if record.status == "stopped"]
    assert len(found) == 30
    assert 10 <= len(stopped) < 30
    assert best.status == "finished"
    rest = [record for record in found if record.status == "finished"]
    assert sum(len(record.reports) for record in stopped) < EPOCHS * len(stopped) / 2
    mean = [sum(value(record.drawn, 1) for record in side) / len(side) for side in (stopped, rest)]
    assert mean[0] < mean[1]


def test_asha_races_among_bases() -> None:
    """Trials of a base that is worse at every rate are ended early, and the winner is of the better one."""
    space = {"base": ["org/good", "org/bad"], "training.lr": {"loguniform": [1e-4, 1e-2]}}
    spec = RunSpec.resolve({**DOCUMENT, "search": {"space": space, "trials": 24, "scheduler": "asha"}})
    study, lengths = tune_study(spec), {"org/good": 0, "org/bad": 0}
    finished: dict[str, int] = dict.fromkeys(lengths, 0)
    while (suggested := study.suggest()) is not None:
        trial, drawn = suggested
        for epoch in range(1, EPOCHS + 1):
            lengths[drawn["base"]] += 1
            if not study.report(trial.id, epoch, {"accuracy": value(drawn, epoch) - (drawn["base"] == "org/bad")}):
                break
        else:
            finished[drawn["base"]] += 1
    assert finished["org/good"] >= 1
    assert lengths["org/bad"] < 0.6 * lengths["org/good"]


def test_optuna_passes_over_points_that_a_base_does_not_have() -> None:
    space = {"base": ["org/small", "org/large"], "method.depth": {"choice": [1, 2, 8]}, **SPACE}
    del space["method"]
    spec = RunSpec.resolve(
        {**DOCUMENT, "method": "freeze", "search": {"space": space, "trials": 20, "sampler": "optuna"}}
    )
    study = tune_study(spec)
    study.admits = lambda overrides: overrides["base"] == "org/large" or overrides["method.depth"] <= 2
    seen = []
    while (suggested := study.suggest()) is not None:
        trial, drawn = suggested
        record = TrialRecord(trial.id, trial.number, dict(trial.overrides), "finished", drawn=dict(drawn))
        record.best = {"accuracy": value(drawn, 1)}
        study.ended(record)
        seen.append(drawn)
    assert len(seen) == 20
    assert {drawn["base"] for drawn in seen} == {"org/small", "org/large"}
    assert not [drawn for drawn in seen if drawn["base"] == "org/small" and drawn["method.depth"] == 8]


def test_nobody_is_ended_before_the_grace() -> None:
    assert all(len(record.reports) >= 3 for record in run(grace=3))


def test_without_a_scheduler_everything_trains_to_its_end() -> None:
    assert {record.status for record in run(scheduler="none")} == {"finished"}


def test_a_search_that_goes_on_decides_as_if_it_had_not_stopped() -> None:
    whole = run()
    continued = run(whole[:12])
    assert [record.overrides for record in continued] == [record.overrides for record in whole]
    assert [record.status for record in continued] == [record.status for record in whole]


def test_optuna_is_fixed_by_its_seed_and_learns() -> None:
    one, same, other = (run(sampler="optuna", scheduler="none", seed=seed) for seed in (3, 3, 4))
    assert [record.overrides for record in one] == [record.overrides for record in same]
    assert [record.overrides for record in one] != [record.overrides for record in other]
    first, last = one[:10], one[20:]
    mean = [sum(value(record.drawn, 1) for record in part) / len(part) for part in (first, last)]
    assert mean[1] > mean[0], "later points are better than the random first ones"


def test_optuna_goes_on_from_records_without_repeating_itself() -> None:
    first = run(sampler="optuna", scheduler="none", trials=12)
    continued = run(first, sampler="optuna", scheduler="none", trials=30)
    assert len(continued) == 30 == len({json.dumps(record.overrides) for record in continued})
    assert {json.dumps(record.overrides["method"]) for record in continued[12:]} <= {
        json.dumps(method) for method in SPACE["method"]["choice"]
    }
    assert (
        sum(value(record.drawn, 1) for record in continued[12:]) / 18
        > sum(value(record.drawn, 1) for record in first) / 12
    )


KILLER = '''
import os
import signal
from pathlib import Path

import torch
from torch import nn

from regraft.contracts import Loss


class Term(nn.Module):
    def __init__(self, kill):
        super().__init__()
        self.kill, self.calls = kill, 0

    def forward(self, step):
        self.calls += 1
        marker = Path(self.kill.folder) / "killed"
        if self.calls == 5 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(())


class Killer(Loss):
    """Ends a worker once."""

    folder: str = "."
    """Where the marker is."""

    def build(self, model, anatomy):
        return Term(self)
'''


@pytest.mark.slow
def test_a_dead_worker_is_replaced_and_the_search_ends_as_in_one_process(tmp_path: Path, on_ray: None) -> None:
    (tmp_path / "mine" / "losses").mkdir(parents=True)
    name = "once_" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]  # a process knows one plugin of a name
    (tmp_path / "mine" / "losses" / f"{name}.py").write_text(KILLER)
    events: list[dict[str, Any]] = []
    spec = RunSpec.resolve(
        {
            **document(tmp_path, method="freeze"),
            "plugins": [str(tmp_path / "mine")],
            "losses": [{"type": name.replace("_", "-"), "folder": str(tmp_path)}],
            "compute": {"workers": 1, "cpus": 1, "trunk": "off"},
            "search": {
                "space": {"method.depth": {"grid": [1, 2]}, "training.lr": {"grid": [1e-3, 1e-2]}},
                "sampler": "grid",
                "scheduler": "none",
                "concurrency": 1,
            },
        }
    )
    outcome = search(spec, progress=lambda event: events.append(event.document()))
    assert (tmp_path / "killed").exists()
    assert [trial["status"] for trial in outcome.trials] == ["finished"] * 4
    begun = [event["id"] for event in events if event["event"] == "trial" and event["status"] == "running"]
    assert set(begun) == {"t0000", "t0001", "t0002", "t0003"}
    found = SearchStore(open_store(spec.store), search_name(spec)).trials()
    assert sorted(record.attempts for record in found) == [1, 1, 1, 2]
    again = search(spec)
    assert again.already
    assert (again.winner, again.version) == (outcome.winner, outcome.version)


@pytest.mark.slow
def test_two_workers_share_what_is_frozen_and_heads_train_together(tmp_path: Path, on_ray: None) -> None:
    written = document(tmp_path, baselines=True)
    spec = RunSpec.resolve(
        {
            **written,
            "compute": {"workers": 1, "cpus": 1, "trunk": "disk"},
            "search": {
                "space": {
                    "method": {"grid": ["feature-extraction", {"type": "freeze", "depth": 1}]},
                    "training.lr": {"grid": [1e-3, 1e-2, 0.1]},
                },
                "sampler": "grid",
                "concurrency": 2,
            },
        }
    )
    events: list[dict[str, Any]] = []
    outcome = search(spec, progress=lambda event: events.append(event.document()))
    notes = [str(event["message"]).partition(",")[0] for event in events if event["event"] == "note"]
    assert sorted(notes) == [
        f"{what}: the frozen part is computed once a row" for what in ("all but the head", "depth 1")
    ]
    store = open_store(spec.store)
    found = SearchStore(store, search_name(spec)).trials()
    assert {record.status for record in found} <= {"finished", "stopped"}
    assert [record.together for record in found] == [3, 3, 3, 1, 1, 1]
    assert (outcome.shared["rows"], outcome.shared["computed"], outcome.shared["reused"]) == (90, 90, 0)
    assert set(outcome.baselines) == {"majority", "nearest_centroid"}
    assert Registry(store).version("tiny").meta["metrics"] == outcome.metrics


@pytest.mark.slow
def test_workers_get_the_weights_of_every_base(tmp_path: Path, on_ray: None) -> None:
    bases = [str(tiny_bert(tmp_path / "small")), str(tiny_bert(tmp_path / "large", layers=3, width=48, seed=3))]
    spec = RunSpec.resolve(
        {
            **document(tmp_path, epochs=1, baselines=True),
            "compute": {"workers": 1, "cpus": 1, "trunk": "disk"},
            "search": {
                "space": {"base": bases, "method": {"choice": ["feature-extraction", "freeze"]}},
                "trials": 4,
                "concurrency": 2,
                "scheduler": "none",
            },
        }
    )
    outcome = search(spec)
    store = open_store(spec.store)
    record = SearchStore(store, search_name(spec)).record()
    found = SearchStore(store, search_name(spec)).trials()
    assert record is not None and record.bases.keys() == set(bases)
    assert [trial.error for trial in found] == [None] * 4
    assert {trial.overrides["base"]: trial.blocks for trial in found} == {bases[0]: 2, bases[1]: 3}
    meta = Registry(store).version("tiny").meta
    assert meta["base"]["hash"] == record.bases[outcome.overrides["base"]]["hash"]
    assert (
        meta["baselines"]["nearest_centroid"]
        == record.bases[outcome.overrides["base"]]["baselines"]["nearest_centroid"]
    )
    assert {row["base"]: row["trials"] for row in outcome.bases} == dict.fromkeys(bases, 2)


HANG = '''
import time

import torch
from torch import nn

from regraft.contracts import Loss


class Term(nn.Module):
    def __init__(self, stuck):
        super().__init__()
        self.stuck = stuck

    def forward(self, step):
        if self.stuck:
            time.sleep(10**6)
        return torch.zeros(())


class Hang(Loss):
    """Hangs if asked to, as a dead file system does."""

    stuck: bool = False
    """Whether it hangs."""

    def build(self, model, anatomy):
        return Term(self.stuck)
'''


@pytest.mark.slow
def test_a_trial_that_hangs_on_ray_is_ended_by_the_seconds(
    tmp_path: Path, on_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "GRACE_S", 8.0)
    (tmp_path / "mine" / "losses").mkdir(parents=True)
    name = "hang_" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]
    (tmp_path / "mine" / "losses" / f"{name}.py").write_text(HANG)
    kinds = [[{"type": name.replace("_", "-"), "stuck": stuck}] for stuck in (False, True)]
    spec = RunSpec.resolve(
        {
            **document(tmp_path, epochs=1),
            "plugins": [str(tmp_path / "mine")],
            "compute": {"workers": 1, "cpus": 1, "trunk": "off"},
            "search": {
                "space": {"losses": {"grid": kinds}},
                "sampler": "grid",
                "scheduler": "none",
                "concurrency": 1,
                "seconds": SECONDS,
            },
        }
    )
    began = time.monotonic()
    outcome = search(spec)
    assert SECONDS < time.monotonic() - began < SECONDS + 60
    assert sorted(trial["status"] for trial in outcome.trials) == ["failed", "finished"]
    found = SearchStore(open_store(spec.store), search_name(spec)).trials()
    (failed,) = [record for record in found if record.status == "failed"]
    assert f"it hangs: search.seconds ({SECONDS}) are over" in str(failed.error)
    assert outcome.version == "v1"
