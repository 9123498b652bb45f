"""`regraft train` passes the right spec on, shows progress, and prints the result and what to do next."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from doubles.fake_training import FakeTraining, Regraft
from regraft.contracts import (
    BaselineMeasured,
    CheckpointWritten,
    EvaluationDone,
    Event,
    Note,
    Registered,
    Resumed,
    Started,
    Stepped,
)


@dataclass(frozen=True)
class SomethingNew(Event):
    """An event that this edition of the command line does not know."""

    event = "something new"


EVENTS: list[Event] = [
    BaselineMeasured("nearest_centroid", {"accuracy": 0.75}),
    Started("r", "m", rows=800, steps=4, trainable=151_000, total=22_700_000, workers=2),
    Resumed(1, "runs/r/checkpoints/1"),
    Stepped(2, epoch=0.5, loss=1.25, lr=1e-3, steps=4, rows_per_second=310.0, left_s=12.0),
    EvaluationDone(2, 1.0, {"accuracy": 0.8, "f1": 0.7}, best=True),
    Note("stopped early"),
    CheckpointWritten(2, bytes=1000, stall_s=0.01),
    Registered("m", "v1"),
    SomethingNew(),
]


def test_overrides_and_options_reach_training(
    regraft: Regraft, spec: Path, training: FakeTraining, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    regraft("train", spec, "--set", "training.lr=1e-4", "--set", "method.depth=2", "--fresh", "--address", "h:1")
    found, options = training.calls[-1]
    assert found.training.lr == 1e-4
    assert found.method.model_dump()["depth"] == 2
    assert options == {"fresh": True, "same": False, "compare": False, "address": "h:1"}
    monkeypatch.setenv("REGRAFT_STORE", "from-environment")
    regraft("train", spec)
    assert training.calls[-1][0].store == str(tmp_path / "from-environment")
    regraft("train", spec, "--store", "from-option")
    assert training.calls[-1][0].store == str(tmp_path / "from-option")


def test_a_log_gets_the_start_and_every_evaluation(regraft: Regraft, spec: Path, training: FakeTraining) -> None:
    training.events = EVENTS
    lines = regraft("train", spec).out.splitlines()
    assert lines[:5] == [
        "baseline nearest centroid: accuracy 0.7500",
        "run r: 800 rows, 4 steps in 2 workers; 151k of 22.7M parameters move (0.7%)",
        "continues at step 1 from runs/r/checkpoints/1",
        "step 2  epoch 1  accuracy 0.8000  f1 0.7000  best so far",
        "stopped early",
    ]


def test_with_json_progress_goes_to_stderr(regraft: Regraft, spec: Path, training: FakeTraining) -> None:
    training.events = EVENTS
    result = regraft("train", spec, "--json")
    assert result.document["version"] == "v1"
    assert "stopped early" in result.err


def test_the_summary_puts_the_score_beside_the_baselines(regraft: Regraft, spec: Path, training: FakeTraining) -> None:
    training.outcome = {"gain": {"mean": 0.125, "low": 0.05, "high": 0.2}}
    out = regraft("train", spec).out
    assert "tickets@v1 is registered" in out
    assert re.search(
        r"accuracy +0\.8750  \(\+0\.1250 over nearest centroid, 95 % interval \+0\.0500 to \+0\.2000\)", out
    )
    assert re.search(r"majority +0\.2500", out)
    assert re.search(r"nearest centroid +0\.7500", out)
    assert re.search(r"delta +600\.0 kB, 0\.7% of the base's 90\.0 MB", out)
    assert re.search(r"time +1 min 23 s", out)


@pytest.mark.parametrize(
    ("low", "high", "message"), [(-0.1, 0.1, "not distinguishable from none"), (-0.2, -0.1, "worse")]
)
def test_a_gain_that_is_none_is_called_so(
    low: float, high: float, message: str, regraft: Regraft, spec: Path, training: FakeTraining
) -> None:
    training.outcome = {"gain": {"mean": (low + high) / 2, "low": low, "high": high}}
    assert message in regraft("train", spec).out


def test_the_end_says_what_is_better_and_what_to_try(regraft: Regraft, spec: Path, training: FakeTraining) -> None:
    note, advice = "tickets@v1 scores worse than tickets@v0", "worse than the majority. Next: ..."
    training.outcome = {"note": note, "advice": advice}
    result = regraft("train", spec)
    assert f"{note}\n{advice}\nnext\n" in result.out
    found = regraft("train", spec, "--json").document
    assert (found["note"], found["advice"]) == (note, advice)


def test_what_to_do_next_can_be_pasted(regraft: Regraft, spec: Path, training: FakeTraining, tmp_path: Path) -> None:
    training.outcome = {"store": str(tmp_path / "it's a $store")}
    show, python = regraft("train", spec).out.splitlines()[-2:]
    assert shlex.split(show)[-3:] == ["tickets@v1", "--store", str(tmp_path / "it's a $store")]
    code = shlex.split(python)[-1]
    compile(code, "next", "exec")
    assert "'text'" in code
    assert "'label'" not in code
    training.outcome = {"store": str(tmp_path / "regraft-store")}
    assert regraft("train", spec).out.splitlines()[-2].strip() == "regraft models show tickets@v1"


def test_a_run_that_was_finished_says_so(regraft: Regraft, spec: Path, training: FakeTraining) -> None:
    training.outcome = {"already": True, "base_bytes": 0}
    out = regraft("train", spec).out
    assert "was finished before; --fresh starts another run" in out
    assert re.search(r"delta +600\.0 kB$", out, re.MULTILINE)


def test_training_starts_knowing_what_to_keep_quiet(regraft: Regraft, spec: Path, training: FakeTraining) -> None:
    seen: dict[str, str | None] = {}
    training.before = lambda: seen.update({name: os.environ.get(name) for name in ("TRANSFORMERS_VERBOSITY",)})
    regraft("train", spec)
    assert seen == {"TRANSFORMERS_VERBOSITY": "error"}


def test_the_end_says_how_the_score_stands_to_the_baselines(
    regraft: Regraft, spec: Path, training: FakeTraining
) -> None:
    training.outcome = {"verdicts": "By accuracy, this model is not distinguishable from the baseline majority (0.5)."}
    assert "not distinguishable from the baseline majority" in " ".join(regraft("train", spec).out.split())


def test_the_verdict_beside_controls_is_shown(regraft: Regraft, spec: Path, training: FakeTraining) -> None:
    training.outcome = {"comparison": {"warning": "Negative transfer: it does not help.", "sentence": "It is worse."}}
    result = regraft("train", spec, "--compare")
    assert training.calls[-1][1]["compare"] is True
    assert "Negative transfer" in result.err + result.out


def test_a_comparison_is_not_submitted_as_a_job(regraft: Regraft, spec: Path, training: FakeTraining) -> None:
    result = regraft("train", spec, "--compare", "--address", "http://head:8265")
    assert result.code == 2 and not training.calls
    assert "--compare is not submitted as a job" in result.err
