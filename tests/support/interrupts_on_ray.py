"""A command on a Ray of its own, interrupted at moments drawn from a seed, and a look at what each interrupt left.

A quarter of the moments lies in the start of Ray and its workers, after each of its phases: seconds alone would mean
another phase on a busy machine. The others lie between steps. One run or search is interrupted at all of them, one
after another, so that each command also shows that the one before can go on.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.tuning.driver.search_store import SearchStore
from support.interrupted_commands import NAP_S, RunningCommand, logged_steps, only_name

PHASES = ("", "gcs_server", "raylet", "ray::", "OWN")
"""Processes that appear one after another while a command starts: the command, Ray, a worker, OWN of the subject."""
PHASE_S = 4.0
"""Seconds after the beginning of a phase, at most."""
SEEDS = (4, 1, 6)
"""Moments of the slow part, one of the start and two of the steps."""
STEPS_AN_EPOCH = 8
"""60 rows, batches of 8."""
WORDS = (
    "Traceback",
    "Exception ignored",
    "KeyboardInterrupt",
    "Fatal Python error",
    "core dumped",
)
"""Words that no interrupted command may print."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When Ctrl-C is sent: seconds after a process appears, or after steps; `again`: seconds to a second one."""

    phase: str
    steps: int
    seconds: float
    again: float | None = None

    @classmethod
    def drawn(cls, seed: int, *, twice: bool = False) -> Moment:
        """Return the moment of a seed; `twice` draws the time until a second Ctrl-C too."""
        draw = random.Random(seed)
        if seed % 4 == 0:
            phase, steps, seconds = PHASES[seed // 4 % len(PHASES)], 0, draw.random() * PHASE_S
        else:
            phase, steps, seconds = "", draw.randrange(1, 4), draw.random() * NAP_S
        return cls(phase, steps, seconds, draw.random() * 3.0 if twice else None)

    def __str__(self) -> str:
        after = f"{self.steps} steps" if self.steps else self.phase or "start"
        twice = "" if self.again is None else f", and {self.again:.2f} s later"
        return f"{after} + {self.seconds:.2f} s{twice}"


@dataclass(frozen=True, slots=True)
class Interrupted:
    """What one interrupt led to; without problems it was done right."""

    moment: str
    code: int | None
    """Exit code; None where the command did not end, or left processes behind."""
    steps: int
    """Steps that this command took."""
    ended_s: float
    """Seconds from the last Ctrl-C to the command's end."""
    problems: tuple[str, ...]


class Subject(ABC):
    """What is interrupted: a run or a search in a folder that `paced` has prepared."""

    command: str
    actor: str
    """Beginning of the name of the process of Ray that works for it."""

    def __init__(self, folder: Path, written: Mapping[str, Any]) -> None:
        self.folder, self.written = folder, written

    @property
    def epochs(self) -> int:
        """The epochs of a run, or of each trial."""
        return int(self.written["training"]["epochs"])

    def start(self) -> RunningCommand:
        """Start the command, or start it again."""
        return RunningCommand(self.folder, self.command, "spec.yaml")

    @abstractmethod
    def problem(self, taken: int) -> str:
        """Return what is wrong with the record of something stopped after so many steps in all; empty for nothing."""

    def interrupted(self, when: Moment) -> Interrupted:
        """Interrupt the command at a moment: every step that was taken is in a checkpoint, and the record says so."""
        before = len(logged_steps(self.folder))
        command = self.start()
        if when.phase:
            command.process_appears(self.actor if when.phase == "OWN" else when.phase)
        command.steps_reach(before + when.steps)
        time.sleep(when.seconds)
        command.interrupt()
        if when.again is not None:
            time.sleep(when.again)
            command.interrupt()
        began = time.monotonic()
        code, problems = _end_of(command)
        took, taken = time.monotonic() - began, len(logged_steps(self.folder))
        if taken and when.again is None and (problem := self.problem(taken)):
            problems.append(problem)
        return Interrupted(str(when), code, taken - before, round(took, 1), tuple(problems))

    def interrupted_at(self, seeds: Iterable[int]) -> None:
        """Interrupt it at each moment and demand that each is done right."""
        for seed in seeds:
            found = self.interrupted(Moment.drawn(seed))
            print(f"seed {seed}: {found}")
            assert not found.problems, found

    def finished(self) -> None:
        """Let the same command go on to the end, without a pause."""
        (self.folder / "mine" / "nap").write_text("0")
        command = self.start()
        assert command.ended() == 0, command.err[-3000:]


def _end_of(command: RunningCommand) -> tuple[int | None, list[str]]:
    """Return the exit code of an interrupted command, and what was wrong with its end."""
    try:
        code = command.ended()
    except AssertionError as error:
        return None, [str(error)]
    problems = [] if code == 130 else [f"exit code {code}: {command.err[-3000:]}"]
    problems += [f"prints {word!r}: {command.err[-3000:]}" for word in WORDS if word in command.err][:1]
    return code, problems


class InterruptedRun(Subject):
    """A run of `train`."""

    command, actor = "train", "ray::TrainController"

    def problem(self, taken: int) -> str:
        """Return what is wrong with the run's record or its newest checkpoint."""
        runs, run = Runs(open_store(self.written["store"])), only_name(self.written["store"])
        newest = max((one.step for one in Checkpoints(runs.store, run).listed()), default=0)
        info = runs.info(run)
        found = (info.state, info.step, newest)
        return "" if found == ("stopped", taken, taken) else f"{taken} steps: state, step, newest checkpoint {found}"


class InterruptedSearch(Subject):
    """A search."""

    command, actor = "search", "ray::TrialActor"

    def problem(self, taken: int) -> str:
        """Return what is wrong with the records of the search and its trials."""
        found = SearchStore(open_store(self.written["store"]), only_name(self.written["store"], "searches"))
        record = found.record()
        state = record.state if record is not None else "no record"
        trials = [(one.id, one.status, one.step) for one in found.trials()]
        over = sum(status == "finished" for _, status, _ in trials) * STEPS_AN_EPOCH * self.epochs
        kept = over + sum(step for _, status, step in trials if status == "waiting")
        right = state == "stopped" and kept == taken
        return "" if right else f"{taken} steps: state {state}, {kept} steps in checkpoints: {trials}"
