"""What a score of features reads and returns, and the root of its family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from regraft.errors import RequestError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class TargetKind(StrEnum):
    """What a row's label is."""

    CLASSES = "classes"
    """One class a row: values are (rows,) class numbers."""
    NUMBERS = "numbers"
    """Numbers: values are (rows, columns) floats."""
    TAGS = "tags"
    """Any number of tags a row: values are (rows, tags) booleans."""


@dataclass(frozen=True, eq=False)
class FeatureTarget:
    """The labels of rows whose features are scored, and the group of each row where rows belong together.

    Raises RequestError for values of another shape, for values that are no numbers, and for groups of other rows.
    """

    kind: TargetKind
    values: NDArray[Any]
    groups: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        kind, values = TargetKind(self.kind), np.asarray(self.values)
        if kind is TargetKind.CLASSES:
            values = values.astype(np.int64)
        else:
            values = values.astype(np.float64)
            values = values[:, None] if values.ndim == 1 else values
        if values.ndim != (1 if kind is TargetKind.CLASSES else 2):
            raise RequestError(f"a target of {kind} has values of shape {values.shape}")
        if not np.isfinite(values).all():
            raise RequestError(f"a target of {kind} has values that are no numbers")
        groups = None if self.groups is None else np.unique(np.asarray(self.groups), return_inverse=True)[1]
        if groups is not None and groups.shape != (len(values),):
            raise RequestError(f"{len(values)} rows have {len(groups)} groups")
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "groups", groups)

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[Any]) -> FeatureTarget:
        """Return the target of the rows with these indices."""
        return FeatureTarget(self.kind, self.values[rows], None if self.groups is None else self.groups[rows])

    def columns(self) -> Floats:
        """Return the values as (rows, columns) floats; classes are a column of 0 and 1 for each class that occurs."""
        if self.kind is not TargetKind.CLASSES:
            return np.asarray(self.values, dtype=np.float64)
        return np.asarray(self.values[:, None] == np.unique(self.values)[None], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Scored:
    """A score of features; higher is better. `value` is the mean of `by_row` where each row has its own."""

    value: float
    by_row: Floats | None = None
    by_half: Floats | None = None
    """Scores of the same rows by half as many other rows: what there is to gain from more of them."""

    @classmethod
    def of_rows(cls, by_row: Floats, by_half: Floats | None = None) -> Scored:
        """Return the score that is the mean of its rows."""
        return cls(float(by_row.mean()), by_row, by_half)


@dataclass(frozen=True)
class Accepted:
    """Whether a score has a meaning for a target, and the reason if not; true where it has."""

    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason


class FeatureScore(ABC):
    """A score of a base's features for a task's labels; higher is better."""

    name: ClassVar[str]
    """How pages and documents call it."""
    kinds: ClassVar[frozenset[TargetKind]] = frozenset(TargetKind)
    """Kinds of targets for which it has a meaning."""
    why_not: ClassVar[str] = ""
    """Why it has no meaning for the other kinds."""

    def accepts(self, target: FeatureTarget) -> Accepted:
        """Return whether the score has a meaning for the target, with the reason if not."""
        if target.kind not in self.kinds:
            return Accepted(f"{self.name} does not score {target.kind}: {self.why_not}")
        return Accepted(_without_contrast(target))

    def evaluate(self, features: Floats, target: FeatureTarget, draw: np.random.Generator) -> Scored:
        """Return the score of the features (rows, width); `draw` decides what is left to chance, such as folds.

        Raises RequestError for a target that it does not accept, and for features that do not fit the target.
        """
        accepted = self.accepts(target)
        if not accepted:
            raise RequestError(accepted.reason)
        features = np.asarray(features, dtype=np.float64)
        if features.ndim != 2 or len(features) != len(target) or not features.shape[1]:
            raise RequestError(f"features of shape {features.shape} do not fit a target of {len(target)} rows")
        if not np.isfinite(features).all():
            raise RequestError("features hold values that are no numbers")
        return self._evaluate(features, target, draw)

    @abstractmethod
    def _evaluate(self, features: Floats, target: FeatureTarget, draw: np.random.Generator) -> Scored:
        """Return the score of finite features for a target that is accepted."""


def _without_contrast(target: FeatureTarget) -> str:
    """Return the reason why no score can tell the rows of a target apart; empty if one can."""
    if len(target) < 2:
        return f"{len(target)} labelled rows cannot be scored: at least 2 are needed"
    if (target.values == target.values[0]).all():
        return "all rows have the same label"
    if target.groups is not None and (target.groups == target.groups[0]).all():
        return "all rows belong to one group, so no row can be judged by others"
    if target.kind is TargetKind.CLASSES and np.unique(target.values, return_counts=True)[1].max() < 2:
        return "no class has two rows"
    return ""
