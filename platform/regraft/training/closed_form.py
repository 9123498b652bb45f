"""Methods that are fitted without gradient steps: one pass over the training rows, sums, a solution."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from regraft.bases.adapted import Adapted
from regraft.contracts import Method
from regraft.data.rows import Rows
from regraft.training.evaluate import encoded, ordered, to_device
from regraft.training.harness import Harness

if TYPE_CHECKING:
    from regraft.training.loop import Run


def fit_closed_form(run: Run) -> None:
    """The run of a closed-form method: one step, one evaluation, one checkpoint."""
    if run.resumed_at_its_end():
        return
    run.keeper.begins(run)
    try:
        size = max(32, run.spec.training.batch_size)
        solve_head(run.adapted, run.spec.method, run.snapshot.train, run.harness, size=size)
        run.state.step = run.steps
        metrics = run.evaluate()
        run.state.finished = True
        run.keeper.paused(run, metrics)
    finally:
        run.keeper.close()


def solve_head(adapted: Adapted, method: Method, rows: Rows, harness: Harness, *, size: int) -> None:
    """Write the head from sums over all rows of all ranks."""
    adapted.eval_mode()
    classes = len(adapted.context.labels)
    sums: dict[str, Tensor] = {}
    with torch.inference_mode():
        for indices, own in ordered(rows, size, harness):
            batch = to_device(encoded(adapted, rows, indices, train=False), harness.device)
            part = method.statistics(adapted.features(batch)[:own], batch["labels"][:own], classes)
            sums = {name: sums[name] + value if sums else value for name, value in part.items()}
        if harness.world > 1:
            sums = {name: harness.sum(value) for name, value in sums.items()}
    head = adapted.linear_head()
    with torch.no_grad():
        method.solve(head, {name: value.clone() for name, value in sums.items()})


def solved(method: Method, features: Tensor, labels: Tensor, classes: int, head: nn.Linear) -> nn.Linear:
    """A head like `head`, written from what it sees of all rows, (rows, width), at once."""
    found = deepcopy(head)
    with torch.no_grad():
        method.solve(found, method.statistics(features, labels, classes))
    return found
