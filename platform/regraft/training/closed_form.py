"""Heads that are solved without gradient steps, from sums over one pass of the training rows."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from regraft.bases.adapted import Adapted
from regraft.contracts import Method
from regraft.data.rows import Rows
from regraft.training.evaluate import encoded, ordered, to_device
from regraft.training.harness import Harness


def solve_head(adapted: Adapted, method: Method, rows: Rows, harness: Harness, *, size: int) -> None:
    """Set the head from sums over all rows of all ranks, read in batches of `size` rows."""
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


def solved(method: Method, features: Tensor, labels: Tensor, classes: int, *, head: nn.Linear) -> nn.Linear:
    """Return a copy of `head` solved from the features (rows, width) and labels (rows,) of all rows."""
    found = deepcopy(head)
    with torch.no_grad():
        method.solve(found, method.statistics(features, labels, classes))
    return found
