"""The cost of one more trial beyond its own training, and of heads that train together.

python tests/benchmarks/search_trial_cost.py

MiniLM on SST-2, one worker, one thread. `cost`: trials of about a second (`freeze` at depth 5, its trunk kept); the CPU
time of many minus that of few and minus the trials' own training, divided by the difference in trials. `heads`: heads
alone on cached features, one epoch, together; each must have the losses of the same head alone (1e-5) first. `memory`:
the largest resident memory of a process that trains 8 heads, compared with that of one that trains 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import record
import torch
from clock import Clock, Spent
from searched import FakeCoordinator, job_of, spec_of, sst2, worked

from regraft.tuning.protocol import SearchJob
from regraft.tuning.worker.stacked_heads import Stack

COST_GOAL = 0.25
"""Upper limit: CPU seconds of one more trial for each second of its training."""
HEADS_GOAL = 0.15
"""Upper limit: seconds of the steps of 32 heads over 5,000 features."""
MEMORY_GOAL = 2.0
TOLERANCE = 1e-5


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--few", type=int, default=4)
    parser.add_argument("--many", type=int, default=20)
    parser.add_argument("--steps", type=int, default=12, help="of each trial: about a second")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--held", type=int, default=64)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--features", type=int, default=5000, help="rows of the heads")
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    return parser.parse_args()


def timed(job: SearchJob, folder: Path, points: Sequence[dict[str, Any]]) -> tuple[Spent, FakeCoordinator]:
    """Run a search in one worker."""
    clock = Clock()
    coordinator = worked(job, folder, points)
    return clock.read(), coordinator


def cost(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure CPU seconds of one more trial beyond its training."""
    data = sst2(folder, options.rows, options.held)
    spec = spec_of(data, folder / "store", "disk", {"type": "freeze", "depth": 5}, steps=options.steps)
    points = [{"training.lr": 1e-4 * (1 + number)} for number in range(options.many)]
    timed(job_of(spec, [5], "warm"), folder / "scratch", points[:1])
    few, one = timed(job_of(spec, [5], "few"), folder / "scratch", points[: options.few])
    many, other = timed(job_of(spec, [5], "many"), folder / "scratch", points)
    trained = [sum(end.seconds for end in coordinator.ends.values()) for coordinator in (one, other)]
    more = options.many - options.few
    each, own = (many.cpu - few.cpu) / more, (trained[1] - trained[0]) / more
    print(f"one more trial: {each:.3f} CPU seconds, {own:.3f} of them its own; over it {each - own:.3f}")
    return {"each_s": each, "own_s": own, "over_s": each - own, "goal": COST_GOAL, "reached": each - own <= COST_GOAL}


def heads(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time the steps of many heads, and check that each equals the same head trained alone."""
    data = sst2(folder, options.features, options.held)
    spec = spec_of(data, folder / "store", "disk", "feature-extraction", epochs=1, batch_size=32)
    points = [{"training.lr": 1e-3 * (1 + number)} for number in range(options.heads)]
    worked(job_of(spec, search="warm"), folder / "scratch", points[:1])
    spent, step = [0.0], Stack.step

    def clocked(stack: Stack) -> None:
        clock = Clock()
        step(stack)
        spent[0] += clock.read().cpu

    Stack.step = clocked  # type: ignore[method-assign]
    try:
        coordinator = worked(job_of(spec, search="heads"), folder / "scratch", points)
    finally:
        Stack.step = step  # type: ignore[method-assign]
    assert {end.together for end in coordinator.ends.values()} == {options.heads}
    check = (0, options.heads - 1)
    for number in check:
        lone = worked(job_of(spec, search=f"lone-{number}"), folder / "scratch", [points[number]]).losses()
        apart = max(
            abs(a.metrics["loss"] - b) for a, b in zip(coordinator.reports[f"t{number:04d}"], lone, strict=True)
        )
        assert apart <= TOLERANCE, f"head {number} ends {apart} apart"
    print(f"{options.heads} heads, an epoch of {options.features} features: {spent[0]:.3f} CPU seconds")
    return {"heads": options.heads, "step_s": spent[0], "goal": HEADS_GOAL, "reached": spent[0] <= HEADS_GOAL}


def weighed(job: SearchJob, folder: str, count: int, out: Any) -> None:
    """Return the peak resident memory of a process that trains so many heads, in bytes."""
    torch.set_num_threads(1)
    worked(job, Path(folder), [{"training.lr": 1e-3 * (1 + number)} for number in range(count)])
    # Not getrusage's, which includes the memory of the parent at the start of this process.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    out.put(int(line.split()[1]) * 1024)


def memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare the memory of 8 heads that train together with that of one."""
    data = sst2(folder, options.rows, options.held)
    spec = spec_of(data, folder / "store", "disk", "feature-extraction", epochs=2)
    context, found = multiprocessing.get_context("spawn"), {}
    for count in (1, 8):
        out = context.Queue()
        job = job_of(spec, search=f"heads-{count}")
        process = context.Process(target=weighed, args=(job, str(folder / f"scratch-{count}"), count, out))
        process.start()
        found[count] = out.get(timeout=600)
        process.join()
    ratio = found[8] / found[1]
    print(f"8 heads: {found[8] / 1e6:.0f} MB, 1 head: {found[1] / 1e6:.0f} MB, ratio {ratio:.2f}")
    return {"one": found[1], "eight": found[8], "ratio": ratio, "goal": MEMORY_GOAL, "reached": ratio <= MEMORY_GOAL}


def main() -> int:
    """Measure, print and write; return 1 if a goal is missed."""
    options = arguments()
    torch.set_num_threads(1)
    found = {}
    for part in (cost, heads, memory):
        with tempfile.TemporaryDirectory() as folder:
            found[part.__name__] = part(options, Path(folder))
    record.write("search_trial_cost", found, options.results)
    return 0 if all(part["reached"] for part in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
