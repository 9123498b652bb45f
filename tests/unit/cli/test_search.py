"""`regraft search` passes the right spec on, shows progress, and prints the result; a wrong spec starts nothing."""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from doubles.fake_training import DOCUMENT, Regraft
from regraft.cli import dispatch
from regraft.cli.jobs import job_log
from regraft.cli.search_progress import overrides_text
from regraft.contracts import Event, Note, Progress, SearchStarted, Stepped, TrialUpdated
from regraft.spec.run import RunSpec
from regraft.tuning.driver.finish import RegisteredTrial, SearchOutcome

SEARCH = {"space": {"training.lr": {"loguniform": [1e-5, 1e-3]}}, "trials": 2}
TRIALS = [
    {"id": "t0000", "overrides": {"training.lr": 1e-4}, "metrics": {"accuracy": 0.5}, "status": "stopped"},
    {"id": "t0001", "overrides": {"training.lr": 1e-3}, "metrics": {"accuracy": 0.9}, "status": "finished"},
]


def trial(number: int, status: str, best: float | None, **fields: Any) -> TrialUpdated:
    """Return the event of a trial as the coordinator emits it."""
    known = {
        "id": f"t{number:04d}",
        "status": status,
        "overrides": TRIALS[number]["overrides"],
        "epoch": 1.0,
        "metrics": {} if best is None else {"accuracy": best},
        "best": None if best is None else {"accuracy": best},
        "error": None,
        "seconds": 1.5,
        "counts": {"finished": 0, "stopped": 0, "failed": 0, "running": 1, "waiting": 0},
        "trials": 2,
        "elapsed_s": 3.0,
        "left_s": None,
        "leader": None,
    }
    return TrialUpdated(**{**known, **fields})


EVENTS: list[Event] = [
    SearchStarted("tickets-1", "tickets", {"name": "accuracy", "mode": "max"}, 2, {"train": 80, "eval": 20}, None),
    Note("the frozen part is computed once a row"),
    trial(0, "running", None),
    trial(0, "stopped", 0.5),
    trial(1, "failed", None, error="the loss is nan"),
    Stepped(1, steps=9, loss=0.1),
]


@dataclass
class FakeSearch:
    """A fake search."""

    calls: list[tuple[RunSpec, dict[str, Any]]] = field(default_factory=list)
    outcome: dict[str, Any] = field(default_factory=dict)
    """Fields of the outcome that are not the usual ones."""

    def __call__(self, spec: RunSpec, *, progress: Progress, **options: Any) -> Any:
        self.calls.append((spec, options))
        for event in EVENTS:
            progress(event)
        outcome = SearchOutcome(
            model="tickets",
            version="v3",
            run="tickets-1",
            metrics={"accuracy": 0.9},
            baselines={"majority": {"accuracy": 0.25}},
            seconds=12.0,
            store=spec.store,
            trials=TRIALS,
            shared={"rows": 100, "computed": 100, "reused": 300, "bytes": 5000, "where": "disk", "saved_s": 80.0},
            score="accuracy",
            winner="t0001",
            overrides={"training.lr": 1e-3},
            report="/there/report.html",
        )
        return replace(outcome, **self.outcome)


@pytest.fixture
def searching(monkeypatch: pytest.MonkeyPatch) -> FakeSearch:
    """Replace the search in the dispatch table."""
    fake = FakeSearch()
    monkeypatch.setitem(dispatch.WORK, "search", fake)
    return fake


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """Return a valid spec with a search."""
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({**DOCUMENT, "store": str(tmp_path / "store"), "search": SEARCH}))
    return path


def test_the_spec_and_its_options_are_handed_on(spec: Path, regraft: Regraft, searching: FakeSearch) -> None:
    result = regraft("search", spec, "--set", "search.trials=5", "--register", "2", "--fresh", "--store", "other")
    assert result.code == 0, result.err
    handed, options = searching.calls[0]
    search = handed.searched()
    assert (search.trials, search.to_register) == (5, 2)
    assert handed.store.endswith("/other")
    assert options == {"fresh": True, "same": False, "compare": False, "address": None}


def test_sigterm_ends_a_search_as_ctrl_c_does(spec: Path, regraft: Regraft, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked_to_end(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setitem(dispatch.WORK, "search", asked_to_end)
    result = regraft("search", spec)
    assert result.code == 130 and "the same command continues" in result.err
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_a_submitted_job_a_search_tells_its_client_all_that_happens(
    spec: Path, regraft: Regraft, searching: FakeSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(job_log.SWITCH, "1")
    lines = [marked for line in regraft("search", spec).out.splitlines() if (marked := job_log.parse(line))]
    assert [Event.parse(body) for kind, body in lines if kind == "progress"] == EVENTS
    kind, reply = lines[-1]
    assert kind == "reply" and reply["version"] == "v3"


def test_each_end_is_a_line_and_the_summary_says_what_to_do_next(
    spec: Path, regraft: Regraft, searching: FakeSearch
) -> None:
    out = regraft("search", spec).out
    for line in (
        "the frozen part is computed once a row",
        "trial t0000 stopped  accuracy 0.5000  1.5 s  lr 0.0001",
        "trial t0001 failed: the loss is nan",
        "tickets@v3 is registered",
        "winner       t0001  lr 0.001",
        "majority     0.2500",
        "trials       2: 1 stopped, 1 finished",
        "100 rows computed once, 300 found, 5.0 kB in disk; saved 1 min 20 s of computing",
        "report       /there/report.html",
        "regraft models show tickets@v3",
    ):
        assert line in out, out


@pytest.mark.parametrize(
    ("written", "handed"), [("t0011", "t0011"), ("t11", "t0011"), ("11", 11), ("none", "none"), ("best", "best")]
)
def test_a_number_is_how_many_and_a_name_is_a_trial(
    written: str, handed: object, spec: Path, regraft: Regraft, searching: FakeSearch
) -> None:
    assert regraft("search", spec, "--register", written).code == 0
    assert searching.calls[0][0].searched().to_register == handed
    assert f"--register {written}".split()[0] in regraft("search", spec).out


def test_each_registered_trial_is_named_with_its_score_and_what_is_better(
    spec: Path, regraft: Regraft, searching: FakeSearch
) -> None:
    first = RegisteredTrial("t0002", "tickets@v3", 0.858, "tickets@v3 scores worse than tickets@v2")
    second = RegisteredTrial("t0011", "tickets@v4", 0.904)
    searching.outcome = {"added": (first, second), "already": True, "version": "v2", "advice": "Next: another range"}
    out = regraft("search", spec).out
    for line in (
        "tickets@v3 is registered: trial t0002, accuracy 0.8580",
        "tickets@v3 scores worse than tickets@v2",
        "tickets@v4 is registered: trial t0011, accuracy 0.9040",
        "`--register N` registers the N best of them, `--register t0011` that trial",
        "Next: another range",
        "regraft models show tickets@v4",
    ):
        assert line in out, out
    assert "was found before" not in out
    searching.outcome = {"registered": {"t0001": "tickets@v2"}, "already": True, "version": "v2"}
    out = regraft("search", spec).out
    assert "tickets@v2 was found before" in out and "registered before: t0001 as tickets@v2" in out


@pytest.mark.parametrize("falls", [False, True])
def test_trials_that_were_stopped_early_stand_after_those_that_ended(
    spec: Path, regraft: Regraft, searching: FakeSearch, falls: bool
) -> None:
    scores = (0.1, 0.4, 0.5) if falls else (0.95, 0.9, 0.8)
    states = (("stopped", 1.0), ("finished", 4.0), ("finished", 4.0))
    trials = [
        {"id": f"t000{at}", "overrides": {}, "metrics": {"accuracy": score}, "status": status, "epochs": epochs}
        for at, (score, (status, epochs)) in enumerate(zip(scores, states, strict=True))
    ]
    searching.outcome = {"trials": trials, "winner": "t0000"}
    out = regraft("search", spec).out
    table = out[out.index("trials, the best first") :]
    places = [table.index(f"t000{at}") for at in (1, 2, 0)]
    assert places == sorted(places)
    assert "stopped after 1 epoch" in table and "its score is no verdict" in table


def test_json_is_one_object_with_every_trial(spec: Path, regraft: Regraft, searching: FakeSearch) -> None:
    result = regraft("search", spec, "--json")
    found = result.document
    names = "model version run metrics baselines seconds store trials shared winner registered advice"
    assert set(found) == set(names.split())
    assert found["trials"] == TRIALS
    assert found["shared"]["reused"] == 300


@pytest.mark.parametrize(
    ("change", "reported_"),
    [
        (["search.space={}"], "search.space: is empty"),
        (['search.space={"method": {"choice": ["lora"]}, "method.depth": {"choice": [2]}}'], "no method of the space"),
        (['search.space={"training.lrr": {"choice": [1]}}'], "Did you mean 'lr'"),
        (['search.space={"training.lr": {"choice": [-1]}}'], "greater than 0"),
        (["search.sampler=tpe"], "search.sampler"),
        (["search.quota_gb=0"], "search.quota_gb"),
        (["search=null"], "no section `search`"),
        (["compute.workers=2"], "a trial of a search trains in one worker"),
    ],
)
def test_what_is_asked_wrong_is_one_clear_message_and_starts_nothing(
    change: list[str], reported_: str, spec: Path, regraft: Regraft, tmp_path: Path
) -> None:
    result = regraft("search", spec, *(part for pair in change for part in ("--set", pair)))
    assert result.code == 2
    assert reported_ in result.err
    assert result.err.count("error:") == 1
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("written", ["0", "all", "-1"])
def test_register_is_none_best_or_a_number(written: str, spec: Path, regraft: Regraft) -> None:
    result = regraft("search", spec, f"--register={written}")
    assert result.code == 2
    assert "allowed are none, best, a number from 1 on (that many of the best), or a trial" in result.err


def test_overrides_are_reported_by_their_last_names() -> None:
    frozen = {"type": "freeze", "depth": 4}
    assert overrides_text({"method": frozen, "training.lr": 0.00031234}) == "method freeze(depth 4), lr 0.000312"


def test_the_end_says_how_the_winner_stands_to_the_baselines(
    regraft: Regraft, spec: Path, searching: FakeSearch
) -> None:
    searching.outcome = {"verdicts": "By accuracy, this model is worse than the baseline majority (0.5)."}
    assert "By accuracy, this model is worse than the baseline majority (0.5)." in regraft("search", spec).out


def test_a_winner_that_was_stopped_early_is_called_so(spec: Path, regraft: Regraft, searching: FakeSearch) -> None:
    registered = RegisteredTrial("t0000", "tickets@v3", 0.95)
    trials = [{**TRIALS[0], "metrics": {"accuracy": 0.95}, "epochs": 2.0}, TRIALS[1]]
    searching.outcome = {"trials": trials, "winner": "t0000", "added": (registered,), "advice": "train it to its end"}
    out = regraft("search", spec).out
    assert "tickets@v3 is registered: trial t0000, accuracy 0.9500, stopped after 2 epochs" in out
    assert next(line for line in out.splitlines() if "winner" in line).endswith(", stopped after 2 epochs")
    assert "train it to its end" in out
    searching.outcome = {}
    assert "stopped" not in next(line for line in regraft("search", spec).out.splitlines() if "winner" in line)


def test_several_bases_are_shown_side_by_side(spec: Path, regraft: Regraft, searching: FakeSearch) -> None:
    row = {"trials": 3, "depth": 2, "blocks": 6, "remark": ""}
    searching.outcome = {
        "bases": [
            {**row, "base": "/bases/minilm", "best": "t0001", "metrics": {"accuracy": 0.9}},
            {**row, "base": "/bases/mpnet", "best": None, "metrics": {}, "depth": None, "remark": "no trial"},
        ]
    }
    table = regraft("search", spec).out.partition("bases, the best first")[2]
    assert re.search(r"minilm +0.9\S* +t0001 +3 +2 of 6", table) and re.search(r"mpnet .*no trial", table)
    assert [one["base"] for one in regraft("search", spec, "--json").document["bases"]] == [
        "/bases/minilm",
        "/bases/mpnet",
    ]
    assert overrides_text({"base": "/bases/minilm", "training.lr": 0.1}) == "base minilm, lr 0.1"
