"""The time of a run follows from what earlier runs took, part by part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from regraft.training.recorded_times import RecordedRun, Workload, estimate, off_by, seconds_of

WORK = Workload(
    task="text-classification",
    method="full",
    base="abc",
    parameters=1000,
    batch=8,
    rows=80,
    eval_rows=20,
    steps=20,
    evaluations=2,
    workers=1,
)
MACHINE = {"device": "cpu", "cores": 2, "threads": 1}


def recorded(work: Workload = WORK, *, step_s: float = 0.5, plan: int = 100, **outcome: Any) -> RecordedRun:
    """Return the record of a run that loads for 3 s, keeps outputs for 10 s, evaluates for 4 s and pauses for 1 s."""
    parts = {"load": 2.0, "end": 1.0, "trunk": 10.0, "evaluation": 4.0, "pause": 1.0}
    found = {"parts": parts, "step_s": step_s, "first_step_s": step_s, "evaluations": 2, "machine": MACHINE}
    found |= {"work": work.document(), "peak_bytes": 125, "checkpoint_bytes": 100, "command_s": 28.0}
    return RecordedRun({"peak_bytes": plan, "checkpoint_bytes": plan}, {**found, **outcome})


def test_the_same_work_takes_the_same_time() -> None:
    assert seconds_of(recorded(), WORK) == pytest.approx(3 + 10 + 4 + 1 + 20 * 0.5)


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({"steps": 40}, 28 + 20 * 0.5),
        ({"batch": 16}, 28 + 20 * 0.5),
        ({"evaluations": 4}, 28 + 4 + 1),
        ({"rows": 180}, 28 + 10),
        ({"workers": 2}, 3 + 1 + (10 + 4 + 10) / 2),
        ({"base": "other", "parameters": 2000}, 3 + 1 + 2 * (10 + 4 + 10)),
    ],
)
def test_each_part_grows_with_what_it_depends_on(changes: dict[str, Any], seconds: float) -> None:
    assert seconds_of(recorded(), replace(WORK, **changes)) == pytest.approx(seconds)


def test_runs_on_the_same_base_are_preferred_and_other_machines_do_not_count() -> None:
    other = recorded(replace(WORK, base="other"), step_s=5.0)
    found = estimate([other, recorded()], WORK, MACHINE)
    assert found is not None and found.seconds == pytest.approx(28) and "the same base" in found.of
    wide = estimate([other], WORK, MACHINE)
    assert wide is not None and wide.high - wide.low > found.high - found.low and "other bases" in wide.of
    assert estimate([recorded()], WORK, {**MACHINE, "threads": 2}) is None
    assert estimate([recorded()], replace(WORK, method="lora"), MACHINE) is None
    assert estimate([recorded(step_s=1.0), recorded()], WORK, MACHINE).low <= 28  # type: ignore[union-attr]


def test_plans_are_compared_with_what_happened() -> None:
    assert off_by([recorded(command_s=56.0), recorded()]) == {
        "memory": (2, pytest.approx(0.2)),
        "checkpoint": (2, 0.0),
        "time": (1, pytest.approx(0.5)),
    }
    assert off_by([RecordedRun({}, {}), RecordedRun({"peak_bytes": "much"}, {"peak_bytes": None, "work": 3})]) == {}
