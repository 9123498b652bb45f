"""The cost of a checkpoint: the stall of the step thread, the time of a complete run, and bytes.

python tests/benchmarks/checkpoint_stall.py

`full` on MiniLM, one training thread (`--threads 2`: as many as cores, so that the upload takes its CPU time from the
steps), a store in a folder on this machine's disk (`TMPDIR` chooses which).

stall    `Run.checkpoint` (the part that the step thread waits for) compared with a copy of the same tensors into
         existing buffers; each turn begins after the upload of the turn before has ended.
run      the same steps with a checkpoint every 20 and with none: once up to the last step, and once up to the moment
         when the last checkpoint is committed. The losses of both sides must be the same bits.
bytes    the size of one checkpoint with optimizer, by method.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import record
import torch
from clock import Clock, Spent, compared, print_comparison
from safetensors.torch import load_file
from tickets import Prepared, prepared
from torch import Tensor

from regraft.bases.delta import delta_tensors
from regraft.contracts import CheckpointWritten, Event, Stepped
from regraft.data.snapshot import open_snapshot
from regraft.store.checkpoints import Checkpoints
from regraft.training.callbacks import RunCallbacks
from regraft.training.harness import LocalHarness
from regraft.training.loop import fit, micro_batches
from regraft.training.optimizer import optimizer_tensors
from regraft.training.prepare import base_of
from regraft.training.run import Run, build_model
from regraft.training.step import Stepper

STALL_GOAL = 1.5
RUN_GOAL = 1.035
BYTES = {
    "lora": ({"type": "lora", "rank": 8, "targets": ["query", "value"]}, 1 / 100),
    "feature-extraction": ("feature-extraction", 1 / 1000),
}
"""Methods, and their largest allowed share of the bytes of `full`."""
EVERY = 20
"""Steps between checkpoints."""


def main() -> int:
    """Measure the three, print and record; return 1 if a goal is missed."""
    options = arguments()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="regraft-checkpoint-stall-") as folder:
        stall = measure_stall(Path(folder) / "stall", options.pairs)
        sizes = measure_bytes(Path(folder) / "bytes", stall["bytes"])
        run = measure_run(Path(folder) / "run", options)
    found = {"stall": stall, "run": run, "bytes": sizes}
    name = "checkpoint_stall" + (f"_{options.threads}_threads" if options.threads > 1 else "")
    record.write(name, found, options.results)
    return 0 if stall["reached"] and run["reached"] and all(method["reached"] for method in sizes.values()) else 1


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="timed checkpoints, and copies beside them")
    parser.add_argument("--runs", type=int, default=3, help="runs with checkpoints, and runs without")
    parser.add_argument("--steps", type=int, default=60, help="timed steps of a run")
    parser.add_argument("--threads", type=int, default=1, help="threads of training")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the JSON file")
    return parser.parse_args()


def stepped(case: Prepared, folder: Path) -> Run:
    """Return a run after one step, so that the optimizer has moments."""
    snapshot = open_snapshot(case.store, case.job.fingerprint)
    base = base_of(case.store, case.spec, case.job)
    harness = LocalHarness(device=torch.device("cpu"))
    adapted = build_model(case.spec, snapshot, harness, base)
    callbacks = RunCallbacks(case.spec, case.job, case.store, harness, folder=folder)
    run = Run(spec=case.spec, snapshot=snapshot, adapted=adapted, harness=harness, callbacks=callbacks)
    stepper = Stepper(run.wrapped, run.optimizer, run.accelerator, harness, training=case.spec.training)
    adapted.train_mode()
    number, _, micros = next(micro_batches(run, 0))
    stepper.step(number, micros, 0.0)
    run.state.step = 1
    return run


def kept(run: Run) -> RunCallbacks:
    """Return the writer of the run's checkpoints."""
    assert isinstance(run.callbacks, RunCallbacks)
    return run.callbacks


def measure_stall(folder: Path, pairs: int) -> dict[str, Any]:
    """Write a first checkpoint, which allocates buffers, then time checkpoints and plain copies in turns."""
    run = stepped(prepared(folder), folder)
    tensors = {**delta_tensors(run.adapted), **optimizer_tensors(run.optimizer, run.names)}
    buffers = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    first = checkpointed(run)
    assert_whole(run, tensors, folder / "look")
    ours, theirs = [], []
    for _ in range(pairs):
        run.state.step += 1
        ours.append(checkpointed(run))
        theirs.append(copied(tensors, buffers))
    kept(run).writer.close()
    figures = compared(ours, theirs)
    size = sum(kept(run).writer.sizes.values())
    print_comparison(f"a checkpoint of {size / 1e6:.0f} MB", figures, ours="stall", theirs="copy")
    reached = figures["wall"]["ratio"] <= STALL_GOAL
    rest = {"first_stall_ms": round(1000 * first.wall, 1), "bytes": size, **figures}
    return {"goal": STALL_GOAL, "reached": reached, **rest}


def checkpointed(run: Run) -> Spent:
    """Time the step thread's part of one checkpoint; return after the commit, which is not counted."""
    clock = Clock(time.thread_time)
    kept(run).checkpoint(run, None)
    spent = clock.read()
    kept(run).writer.wait()
    return spent


def copied(tensors: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> Spent:
    """Time a copy of the same bytes."""
    clock = Clock(time.thread_time)
    with torch.no_grad():
        for name, tensor in tensors.items():
            buffers[name].copy_(tensor)
    return clock.read()


def assert_whole(run: Run, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Check that the newest checkpoint holds the tensors of the timed copy."""
    (saved,) = run.callbacks.checkpoints.listed()
    path = run.callbacks.checkpoints.open(saved, folder)
    stored = load_file(path / "delta.safetensors") | load_file(path / "optimizer.safetensors")
    assert stored.keys() == tensors.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())


def measure_bytes(folder: Path, full: int) -> dict[str, Any]:
    """Return the bytes of a checkpoint of each method, compared with `full`."""
    found = {}
    for name, (method, goal) in BYTES.items():
        run = stepped(prepared(folder / name, method), folder)
        checkpointed(run)
        kept(run).writer.close()
        size = sum(kept(run).writer.sizes.values())
        found[name] = {"bytes": size, "of_full": round(size / full, 6), "goal": goal, "reached": size <= goal * full}
        print(f"{name}: a checkpoint of {size / 1e3:.1f} kB, 1/{full / size:.0f} of full")
    return found


class Enough(BaseException):
    """Ends a run after its last timed step, before the evaluation that would end it.

    No Exception: what progress raises does not end a run.
    """


@dataclass(frozen=True)
class Timed:
    """Time one run: up to its last step, and up to the commit of its last checkpoint."""

    steps: Spent
    whole: Spent
    losses: tuple[float, ...]
    stalls_ms: tuple[float, ...]


class Watch(LocalHarness):
    """Starts the clock after the first step and ends the run `steps` later, one step after a checkpoint."""

    def __init__(self, steps: int) -> None:
        super().__init__(device=torch.device("cpu"), progress=self.heard)
        self.steps = steps
        self.losses: list[float] = []
        self.stalls: list[float] = []
        self.clock = Clock()
        self.spent = Spent(0.0, 0.0)

    def heard(self, event: Event) -> None:
        """Steps and checkpoints as the loop says them."""
        if isinstance(event, CheckpointWritten):
            self.stalls.append(round(1000 * event.stall_s, 1))
        if isinstance(event, Stepped):
            self.losses.append(event.loss or math.nan)
            if event.step == 1:
                self.clock = Clock()
            if event.step == self.steps + 1:
                self.spent = self.clock.read()
                raise Enough


def timed(case: Prepared, name: str, steps: int) -> Timed:
    """Run `steps` steps under a unique name, and wait for pending writes."""
    watch = Watch(steps)
    try:
        fit(replace(case.job, run=name), watch)
    except Enough:
        whole = watch.clock.read()
    every = case.spec.training.checkpoint_steps
    saved = Checkpoints(case.store, name).listed()
    assert len(watch.stalls) == (steps // every if every else 0) and bool(saved) == bool(every)
    return Timed(watch.spent, whole, tuple(watch.losses), tuple(watch.stalls))


def measure_run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time the same steps with and without checkpoints, in turns with alternating order."""
    steps: int = options.steps
    common = {"steps": steps + EVERY, "threads": options.threads}
    cases = {
        "with": prepared(folder / "with", checkpoint_steps=EVERY, **common),
        "without": prepared(folder / "without", **common),
    }
    found: dict[str, list[Timed]] = {side: [] for side in cases}
    for number in range(options.runs):
        for side in sorted(cases, reverse=number % 2 == 1):
            found[side].append(timed(cases[side], f"{side}-{number}", steps))
    ours, theirs = found["with"], found["without"]
    assert len({run.losses for run in ours + theirs}) == 1, "checkpoints changed what is computed"
    figures = {
        "steps_only": compared([run.steps for run in ours], [run.steps for run in theirs]),
        "until_committed": compared([run.whole for run in ours], [run.whole for run in theirs]),
    }
    for name, figure in figures.items():
        print_comparison(f"{steps} steps, {name.replace('_', ' ')}", figure, ours="with", theirs="without")
    stalls = [stall for run in ours for stall in run.stalls_ms]
    print(f"stalls within the runs: {median(stalls):.0f} ms median, {max(stalls):.0f} ms at most")
    reached = figures["until_committed"]["wall"]["ratio"] <= RUN_GOAL
    rest = {"checkpoint_every": EVERY, "stalls_ms": stalls, **figures}
    return {"goal": RUN_GOAL, "reached": reached, "steps": steps, **rest}


if __name__ == "__main__":
    sys.exit(main())
