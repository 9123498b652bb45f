"""The order in which steps read the training rows: each row once an epoch, as many rows of each class where the method
trains features, or episodes where a loss draws them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.contracts import Episode
from regraft.data.rows import Rows
from regraft.data.sampler import balanced_batches, batches, episode, position
from regraft.data.snapshot import Snapshot
from regraft.errors import DataError
from regraft.spec.run import RunSpec
from regraft.units import counted

Indices = NDArray[np.int64]
_SHOWN = 5
"""Classes that a sentence names."""


class RowOrder(Protocol):
    """A pure function of the step's number."""

    def of_step(self, number: int) -> tuple[Indices, tuple[int, int]]:
        """Return the rows of a step, and the key from which augmentation draws for them."""
        ...


def row_order(spec: RunSpec, rows: Rows, per_epoch: int) -> RowOrder:
    """Return the order of the training rows that the spec asks for."""
    if spec.episode is not None:
        return EpisodeOrder(rows, spec.episode, spec.training.seed)
    if spec.method.trains_features:
        return BalancedOrder(spec, rows, per_epoch)
    return EpochOrder(spec, rows, per_epoch)


class EpochOrder:
    """Each row once an epoch."""

    def __init__(self, spec: RunSpec, rows: Rows, per_epoch: int) -> None:
        self._rows, self._training, self._per_epoch = rows, spec.training, per_epoch
        self._bucketing = spec.training.bucketing and "bucketing" in spec.task.supports
        self._epoch, self._order = -1, list[Indices]()

    def of_step(self, number: int) -> tuple[Indices, tuple[int, int]]:
        """Return the rows of a step, and (seed, epoch)."""
        epoch, index = position(number, self._per_epoch)
        if epoch != self._epoch:
            training, lengths = self._training, self._rows.lengths
            self._epoch = epoch
            self._order = batches(training.seed, epoch, lengths, training.batch_size, bucketing=self._bucketing)
        return self._order[index], (self._training.seed, epoch)


class BalancedOrder:
    """As many rows of each class in a step; an epoch has as many steps as otherwise."""

    def __init__(self, spec: RunSpec, rows: Rows, per_epoch: int) -> None:
        self._training, self._per_epoch = spec.training, per_epoch
        self._labels = np.zeros(len(rows), dtype=np.int64)
        for number, indices in enumerate(rows.by_label().values()):
            self._labels[indices] = number
        self._epoch, self._order = -1, list[Indices]()

    def of_step(self, number: int) -> tuple[Indices, tuple[int, int]]:
        """Return the rows of a step, and (seed, epoch)."""
        epoch, index = position(number, self._per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = balanced_batches(self._training.seed, epoch, self._labels, self._training.batch_size)
        return self._order[index], (self._training.seed, epoch)


class EpisodeOrder:
    """An episode a step, drawn from the classes with enough rows; an epoch has as many steps as otherwise."""

    def __init__(self, rows: Rows, drawn: Episode, seed: int) -> None:
        """Raises DataError where too few classes have enough rows."""
        self._drawn, self._seed = drawn, seed
        self._classes = list(episode_classes(rows, drawn).values())

    def of_step(self, number: int) -> tuple[Indices, tuple[int, int]]:
        """Return the rows of a step, and (seed, step): a row that comes twice in an epoch is changed anew."""
        drawn = self._drawn
        return episode(self._seed, number, self._classes, way=drawn.way, rows_each=drawn.rows_each), (
            self._seed,
            number,
        )


def episode_classes(rows: Rows, drawn: Episode) -> dict[str, Indices]:
    """Return the rows of each class that has enough for an episode. Raises DataError where such classes are too few."""
    every = rows.by_label()
    found = {label: indices for label, indices in every.items() if len(indices) >= drawn.rows_each}
    if len(found) >= drawn.way:
        return found
    raise DataError(
        f"an episode takes {counted(drawn.way, 'class', 'classes')} with {counted(drawn.rows_each, 'row')} each (shot "
        f"{drawn.shot} + query {drawn.query}), and {len(found)} of {counted(len(every), 'class', 'classes')} have as "
        "many training rows: write a smaller way, shot or query in losses, or add rows",
        where="losses",
    )


def episode_notes(spec: RunSpec, snapshot: Snapshot) -> tuple[str, ...]:
    """Return a sentence about classes that no episode draws. Raises DataError where those left are too few."""
    if spec.episode is None:
        return ()
    drawn = episode_classes(snapshot.train, spec.episode)
    left_out = [label for label in snapshot.train.counts if label not in drawn]
    if not left_out:
        return ()
    more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
    return (
        f"{counted(len(left_out), 'class is', 'classes are')} in no episode, for less than "
        f"{counted(spec.episode.rows_each, 'training row')} each: {', '.join(left_out[:_SHOWN])}{more}",
    )


def lone_step_notes(spec: RunSpec, rows: int) -> tuple[str, ...]:
    """Return a sentence about the step of each epoch that has too few of the training rows to compare them."""
    left = rows % spec.training.batch_size
    ordered = spec.episode is None and not spec.method.trains_features and not spec.method.closed_form
    if not ordered or not 0 < left < spec.task.least_rows:
        return ()
    return (
        f"one step of each epoch has {counted(left, 'row')}, which task {spec.task.key()} compares with the other rows "
        f"of its step: nothing is learned there. training.batch_size is {spec.training.batch_size}; another one may "
        "leave more rows",
    )
