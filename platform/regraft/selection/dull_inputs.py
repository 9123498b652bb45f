"""Dull baselines of sampled rows: what counted words or colours of their inputs foretell without any base."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regraft.bases.adapted import Adapted
from regraft.contracts import Column, columns_of
from regraft.data.rows import Rows
from regraft.selection.dull import logistic, majority, word_counts
from regraft.selection.score import FeatureTarget, Scored

MOST_FREQUENT = "the most frequent answer"
WORDS, COLOURS = "TF-IDF with logistic regression", "colours with logistic regression"


def dull_scores(adapted: Adapted, rows: Rows, chosen: NDArray[np.int64], target: FeatureTarget) -> dict[str, Scored]:
    """Return the dull baselines that have a meaning for these rows, by name."""
    task, targets = adapted.task, adapted.task.target_columns()
    kinds = columns_of(task.input_columns())
    inputs = {name: kind for name, kind in kinds.items() if name not in targets}
    found = {MOST_FREQUENT: majority(target, np.random.default_rng(0))}
    if texts := _read(rows, chosen, {name: kind for name, kind in inputs.items() if kind.plain == "words"}):
        joined = [" ".join(map(str, row)) for row in texts]
        found[WORDS] = logistic(word_counts(joined), target, np.random.default_rng(0))
    if pictures := _read(rows, chosen, {name: kind for name, kind in inputs.items() if kind.plain == "colours"}):
        shares = np.array([np.concatenate([np.asarray(one, dtype=float) for one in row]) for row in pictures])
        found[COLOURS] = logistic(shares, target, np.random.default_rng(0))
    return found


def _read(rows: Rows, chosen: NDArray[np.int64], columns: dict[str, Column]) -> list[list[object]]:
    """Return what baselines read of each row's columns; nothing where there are no columns."""
    if not columns:
        return []
    every = (rows.row(int(index)) for index in chosen)
    return [[kind.plain_input(row[name]) for name, kind in columns.items()] for row in every]
