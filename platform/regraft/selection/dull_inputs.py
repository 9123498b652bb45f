"""Dull baselines of sampled rows: what words or colours of their inputs foretell without any base."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regraft.contracts import Task
from regraft.data.rows import Rows
from regraft.selection.dull import from_inputs, majority
from regraft.selection.score import FeatureTarget, Scored
from regraft.training.dull_baseline import has_plain_inputs, plain_inputs

MOST_FREQUENT = "the most frequent answer"


def dull_scores(task: Task, rows: Rows, chosen: NDArray[np.int64], target: FeatureTarget) -> dict[str, Scored]:
    """Return the dull baselines that have a meaning for these rows, by name."""
    found = {MOST_FREQUENT: majority(target, np.random.default_rng(0))}
    if has_plain_inputs(task):
        inputs = plain_inputs(task, rows, chosen)
        found[f"{inputs.reads} with a linear model"] = from_inputs(inputs, target, np.random.default_rng(0))
    return found
