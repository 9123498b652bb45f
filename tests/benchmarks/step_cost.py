"""The cost of a training step compared with the same step in a plain PyTorch loop.

python tests/benchmarks/step_cost.py

`full` on MiniLM, one thread. The real loop (`training.loop.fit`) runs a window of steps; then a plain loop runs the
same steps: the same rows, tokenised in one call, forward, cross entropy, backward, clipping, fused AdamW, linear
schedule, dropout drawn from the same seeds. The first window is not timed; in it the losses must agree to 1e-6.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import record
import torch
from clock import Clock, Spent, compared, print_comparison
from tickets import Prepared, prepared
from torch.nn import functional as F

from regraft.contracts import Event, Stepped
from regraft.data.snapshot import open_snapshot
from regraft.training.harness import LocalHarness
from regraft.training.loop import fit
from regraft.training.prepare import base_of
from regraft.training.run import build_model
from regraft.training.step import seed_micro

GOALS = {"cpu": 1.03, "wall": 1.05}
TOLERANCE = 1e-6
AGREEING = 5
"""Number of first steps whose losses must agree; later ones diverge, because AdamW amplifies rounding."""


class PlainLoop:
    """The loop that one would write for this model without regraft."""

    def __init__(self, run: Prepared) -> None:
        training = run.spec.training
        snapshot = open_snapshot(run.store, run.job.fingerprint)
        adapted = build_model(run.spec, snapshot, LocalHarness(), base_of(run.store, run.spec, run.job))
        self.model = adapted.model.train()
        self.tokenizer = adapted.context.processor
        rows = [snapshot.train.row(number) for number in range(len(snapshot.train))]
        self.texts = [row["text"] for row in rows]
        self.labels = torch.tensor([adapted.context.index[row["label"]] for row in rows])
        self.seed, self.clip = training.seed, training.clip
        assert self.clip is not None and training.steps is not None
        flat = [p for p in self.model.parameters() if p.ndim <= 1]
        deep = [p for p in self.model.parameters() if p.ndim > 1]
        groups = [{"params": deep, "weight_decay": training.weight_decay}, {"params": flat, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=training.lr, fused=True)
        steps, warm = training.steps, round(training.warmup * training.steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda n: (n + 1) / warm if n < warm else max(0.0, 1 - (n - warm) / max(1, steps - warm))
        )
        self.losses: list[float] = []

    def step(self, number: int, rows: np.ndarray) -> None:
        """Make one optimizer step on these rows."""
        texts = [self.texts[row] for row in rows]
        batch = self.tokenizer(texts, truncation=True, max_length=256, padding=True, return_tensors="pt")
        labels = self.labels[torch.from_numpy(rows)]
        seed_micro(self.seed, number, 0, 0)
        loss = F.cross_entropy(self.model(**batch).logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip or 0.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss.item())


class Duel(LocalHarness):
    """A harness that runs the same steps in the plain loop after each window of the real one."""

    def __init__(self, plain: PlainLoop, window: int) -> None:
        super().__init__(device=torch.device("cpu"), progress=self.heard)
        self.plain, self.window = plain, window
        self.losses: list[float] = []
        self.ours: list[Spent] = []
        self.theirs: list[Spent] = []
        self._waiting: list[tuple[int, np.ndarray]] = []
        self._clock = Clock()

    def consumed(self, step: int, rows: np.ndarray) -> None:
        self._waiting.append((step, rows))

    def heard(self, event: Event) -> None:
        """Run the plain loop's window after its last step; the loop sends Stepped at the end of each step."""
        if isinstance(event, Stepped):
            self.losses.append(event.loss or math.nan)
            if len(self._waiting) == self.window:
                self.ours.append(self._clock.read())
                self.turn()
                self._clock = Clock()

    def turn(self) -> None:
        """Run a window of the plain loop."""
        clock = Clock()
        for number, rows in self._waiting:
            self.plain.step(number, rows)
        self.theirs.append(clock.read())
        self._waiting.clear()
        if len(self.theirs) == 1:
            worst = self.apart(AGREEING)
            print(f"losses of the first {AGREEING} steps differ by {worst:.1e} at most", flush=True)

    def apart(self, steps: int) -> float:
        """Return the largest difference of the two sides' losses over the first steps."""
        pairs = list(zip(self.losses, self.plain.losses, strict=True))[:steps]
        return max(abs(one - other) for one, other in pairs)


def main() -> int:
    """Compare, print and record; return 1 if a goal is missed."""
    options = arguments()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="regraft-step-cost-") as folder:
        run = prepared(Path(folder), steps=options.window * (options.pairs + 1))
        duel = Duel(PlainLoop(run), options.window)
        fit(run.job, duel)
    # Not in `heard`: an error of progress does not end a run.
    assert len(duel.theirs) == options.pairs + 1
    assert duel.apart(AGREEING) <= TOLERANCE, (duel.losses[:AGREEING], duel.plain.losses[:AGREEING])
    figures = compared(duel.ours[1:], duel.theirs[1:], per=options.window)
    print_comparison("a step", figures, ours="regraft", theirs="plain loop")
    reached = {kind: figures[kind]["ratio"] <= goal for kind, goal in GOALS.items()}
    found = {
        "goal": GOALS,
        "reached": reached,
        "window_steps": options.window,
        "first_losses_differ_by": duel.apart(AGREEING),
        "all_losses_differ_by": duel.apart(len(duel.losses)),
        "step": figures,
    }
    record.write("step_cost", found, options.results)
    return 0 if all(reached.values()) else 1


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--window", type=int, default=10, help="steps that one side runs in a turn")
    parser.add_argument("--pairs", type=int, default=7, help="timed turns of each side")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the JSON file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
