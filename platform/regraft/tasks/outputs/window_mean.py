"""The mean of the scores of a row's windows (`contracts.windows`), in place of the scores of each."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from regraft.contracts import Batch, Example, all_windows, windows_of

COUNTS = "windows"
"""The entry of a batch with the number of windows of each row, where any row has several; no input of a model."""


def stacked_windows(examples: Sequence[Example]) -> Batch:
    """Return the inputs of all windows as tensors (windows, ...); those of a window have a first axis of length 1."""
    windows = all_windows(examples)
    names = [name for name in windows[0] if name != "labels"]
    batch: Batch = {name: torch.cat([window[name] for window in windows]) for name in names}
    if len(windows) > len(examples):
        batch[COUNTS] = [len(windows_of(example)) for example in examples]
    return batch


def mean_over_windows(output: Any, batch: Batch) -> Any:
    """Return an output whose `logits` (rows, labels) give the mean of the probabilities of each row's windows.

    Rows with one window keep the model's own logits.
    """
    counts = batch.get(COUNTS)
    if not counts:
        return output
    logits: Tensor = output.logits.float()
    numbers = torch.tensor(counts, device=logits.device)
    owners = torch.arange(len(counts), device=logits.device).repeat_interleave(numbers)
    shape = (len(counts), logits.shape[1])
    sums = logits.new_zeros(shape).index_add(0, owners, logits.softmax(-1))
    means = (sums / numbers[:, None]).clamp_min(torch.finfo(torch.float32).tiny).log()
    first = logits[numbers.cumsum(0) - numbers]
    return SimpleNamespace(logits=torch.where((numbers == 1)[:, None], first, means))
