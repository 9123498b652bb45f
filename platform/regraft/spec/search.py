"""The search section of a spec: varied fields, their values, sampler, scheduler and limits."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from regraft.plugins import Frozen, unknown

DRAWS = ("choice", "grid", "uniform", "loguniform", "randint")
TRIAL = r"^t[0-9]{4,}$"
"""Names of trials."""
REGISTER = "none, best, a number from 1 on (that many of the best), or a trial such as t0011 (that one)"


def _registered(written: object) -> object:
    """Return what `register` says; raises ValueError for anything else, in one message for all its forms."""
    count = isinstance(written, int) and not isinstance(written, bool) and written >= 1
    if count or (isinstance(written, str) and (written in ("none", "best") or re.match(TRIAL, written))):
        return written
    raise ValueError(f"{written!r} is written; allowed are {REGISTER}")


RegisteredTrials = Annotated[
    Literal["none", "best"] | Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=TRIAL, examples=["t0011"])],
    BeforeValidator(_registered),
]


class Draw(Frozen):
    """Values of one field, in exactly one of these forms."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1)
    """One of these."""
    grid: tuple[Any, ...] | None = Field(None, min_length=1)
    """Each of these in turn; samplers that draw go through every combination of the grids."""
    uniform: tuple[float, float] | None = None
    """A number between the two."""
    loguniform: tuple[float, float] | None = None
    """A number between the two, uniform in its logarithm."""
    randint: tuple[int, int] | None = None
    """An integer from the first to the last, both included."""

    @model_validator(mode="before")
    @classmethod
    def _a_mapping(cls, written: object) -> object:
        if not isinstance(written, dict | Draw):
            raise ValueError(
                f"{written!r} is written; allowed is one of {', '.join(DRAWS)}, as in {{choice: [1, 2]}} or "
                "{loguniform: [1.0e-5, 1.0e-3]}"
            )
        if isinstance(written, dict) and (strange := [name for name in written if name not in DRAWS]):
            raise ValueError(unknown("way to vary", str(strange[0]), sorted(DRAWS)))
        return written

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = [name for name in DRAWS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'nothing'} is written; write exactly one of {', '.join(DRAWS)}")
        if self.bounds is not None:
            low, high = self.bounds
            if not low < high:
                raise ValueError(f"{given[0]}: [{low:g}, {high:g}] is written; the smaller number comes first")
            if given == ["loguniform"] and low <= 0:
                raise ValueError(f"loguniform: {low:g} is written; both numbers must be above 0")
        return self

    @property
    def values(self) -> tuple[Any, ...] | None:
        """The values of `choice` or `grid`; None for ranges."""
        return self.choice if self.choice is not None else self.grid

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The two ends of a range; None for `choice` and `grid`."""
        return self.uniform or self.loguniform or self.randint

    def has(self, value: Any) -> bool:
        """Return whether the value may be drawn."""
        if self.values is not None:
            return value in self.values
        assert self.bounds is not None
        number = isinstance(value, int if self.randint is not None else int | float) and not isinstance(value, bool)
        return number and self.bounds[0] <= value <= self.bounds[1]

    def at(self, share: float) -> Any:
        """Return the value at `share` of the values, a number in [0, 1)."""
        if self.values is not None:
            return self.values[int(share * len(self.values))]
        if self.randint is not None:
            first, last = self.randint
            return first + int(share * (last - first + 1))
        assert self.bounds is not None
        low, high = self.bounds
        if self.loguniform is None:
            return low + share * (high - low)
        return min(high, math.exp(math.log(low) + share * (math.log(high) - math.log(low))))


class SearchSpec(Frozen):
    """The search that `regraft search` makes; `regraft train` ignores it."""

    # Every pydantic class has an attribute `register`, so the field has another name in Python.
    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    space: dict[str, Draw]
    """Dotted fields of this spec, each with its values. `method` and `method.depth` may both be given: a field that a
    trial's method does not have, or sets itself, is left out of that trial. `base: [a, b]` searches several bases."""
    trials: int | None = Field(None, ge=1)
    """Number of trials; null: all points where they can be counted and there is a grid, else 16, or with `seconds` as
    many as they allow."""
    seconds: float | None = Field(None, gt=0)
    """Wall-clock budget over all attempts: after it no trial starts, and running ones end at their next evaluation."""
    sampler: Literal["random", "grid", "optuna"] = "random"
    """What chooses the points: at random, each combination in turn, or TPE (Bergstra et al., 2011) by Optuna."""
    scheduler: Literal["asha", "median", "none"] = "asha"
    """What ends trials early: asynchronous successive halving (Li et al., 2020), the median rule (Golovin et al.,
    2017), or none."""
    grace: int = Field(1, ge=1)
    """Evaluations before a trial may be stopped."""
    reduction: float = Field(3.0, gt=1)
    """asha: one in this many trials of a rung continues; rungs are this factor apart."""
    concurrency: int | None = Field(None, ge=1)
    """Trials at a time (those trained together count as one); null: as many as the cluster holds."""
    keep: int = Field(3, ge=1)
    """Number of best trials whose checkpoint is kept, so that they can be registered later; as many as `register` says,
    where that is more."""
    quota_gb: float | None = Field(None, gt=0)
    """Limit of all checkpoints of the search, in GB."""
    to_register: RegisteredTrials = Field("best", alias="register")
    """Trials that become versions of the model: none, the best, a number (that many of the best), or the name of one
    trial (t0011)."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Determines the points; the random numbers of a trial are determined by training.seed."""

    @property
    def points(self) -> int | None:
        """Number of combinations, including fields that do not apply; None where they cannot be counted."""
        sizes = [len(draw.values) if draw.values is not None else None for draw in self.space.values()]
        sizes = [
            draw.randint[1] - draw.randint[0] + 1 if size is None and draw.randint else size
            for size, draw in zip(sizes, self.space.values(), strict=True)
        ]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    @property
    def most(self) -> int | None:
        """Most trials of the search; None: as many as the time allows."""
        gridded = self.sampler == "grid" or any(draw.grid is not None for draw in self.space.values())
        if self.trials is not None:
            return self.trials
        if gridded and self.points is not None:
            return self.points
        return None if self.seconds is not None else 16

    @field_validator("space", mode="before")
    @classmethod
    def _a_list_of_bases(cls, written: Any) -> Any:
        # Of other fields a list might be meant as a range.
        if isinstance(written, Mapping) and isinstance(bases := written.get("base"), list | tuple):
            return {**written, "base": {"choice": bases}}
        return written

    @field_validator("space")
    @classmethod
    def _not_empty(cls, space: dict[str, Draw]) -> dict[str, Draw]:
        if not space:
            raise ValueError("is empty: name at least one field, as in {training.lr: {loguniform: [1.0e-5, 1.0e-3]}}")
        return space

    @model_validator(mode="after")
    def _a_grid_can_be_counted(self) -> Self:
        if self.sampler == "grid":
            for name, draw in self.space.items():
                if draw.values is None and draw.randint is None:
                    raise ValueError(
                        f"sampler grid needs a list of values, and space.{name} is a range: write "
                        "grid: [...] for it, or sampler: random"
                    )
        return self
