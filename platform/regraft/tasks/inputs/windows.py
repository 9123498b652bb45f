"""Rows that a model reads in several windows: training takes one of each, and the scores of all are averaged.

An example holds its windows along the first axis of each input. A batch holds the first window of each row as any
other task does, so that frozen parts are computed once a row. Its entry `windows` holds the further ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from regraft.contracts import Batch, Example
from regraft.contracts.task import Forward

FURTHER = "windows"


def first_windows(examples: Sequence[Example]) -> Batch:
    """Return the first window of each example as a batch, and further ones, where any has them, by row."""
    names = [name for name in examples[0] if name != "labels"]
    batch: Batch = {name: torch.stack([example[name][0] for example in examples]) for name in names}
    if any(len(example[names[0]]) > 1 for example in examples):
        batch[FURTHER] = [{name: example[name][1:] for name in names} for example in examples]
    return batch


def averaged_scores(forward: Forward, batch: Batch) -> Any:
    """Return the output for a batch whose `logits` (rows, labels) give the mean of the probabilities of all windows.

    Rows with one window keep the model's own logits. The passes over further windows hold no more rows than the batch.
    """
    output = forward(batch)
    further = batch.get(FURTHER)
    if not further:
        return output
    owners = torch.tensor([row for row, windows in enumerate(further) for _ in range(_count(windows))])
    rows, parts = len(further), []
    for start in range(0, len(owners), rows):
        part = {name: _slice(further, name, start, start + rows) for name in further[0]}
        parts.append(forward(_like(part, batch)).logits.double().softmax(-1))
    logits: Tensor = output.logits
    if not parts:
        return output
    owners = owners.to(logits.device)
    counts = torch.bincount(owners, minlength=rows) + 1
    sums = logits.double().softmax(-1).index_add(0, owners, torch.cat(parts))
    means = (sums / counts[:, None]).clamp_min(torch.finfo(torch.float64).tiny).log().to(logits.dtype)
    return SimpleNamespace(logits=torch.where((counts == 1)[:, None], logits, means))


def _count(windows: Mapping[str, Tensor]) -> int:
    return len(next(iter(windows.values())))


def _slice(further: Sequence[Mapping[str, Tensor]], name: str, start: int, stop: int) -> Tensor:
    """Return some of the further windows of all rows, in the order of the rows."""
    return torch.cat([windows[name] for windows in further])[start:stop]


def _like(part: Mapping[str, Tensor], batch: Batch) -> Batch:
    """Return inputs on the device and in the precision of the batch's own."""
    return {name: value.to(batch[name].device, batch[name].dtype) for name, value in part.items()}
