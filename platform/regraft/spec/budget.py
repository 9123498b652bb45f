"""The section `budget` of a spec: the most that a run or a search may take."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from regraft.plugins import Frozen
from regraft.spec.search import SearchSpec

LEAST_S = 1e-3
"""The least seconds that are left of a budget: none are refused by whoever reads it."""


class BudgetSpec(Frozen):
    """Limits that are checked before the start and held by stopping with a checkpoint. No part of a run's name."""

    seconds: Annotated[float, Field(gt=0)] | None = None
    """Most wall-clock seconds over all attempts, stages included; `search.seconds` is the same for a search."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Most memory of each worker, in GB: of its GPU where it trains on one, else of its process."""
    store_gb: Annotated[float, Field(gt=0)] | None = None
    """Most that a run's checkpoints take in the store at one time, in GB; `search.quota_gb` is the same for a search.
    """

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    def less(self, seconds: float) -> Self:
        """Return what is left of the budget after so many seconds."""
        if self.seconds is None:
            return self
        return self.model_copy(update={"seconds": max(LEAST_S, self.seconds - seconds)})

    @property
    def limits(self) -> bool:
        """Whether anything is limited."""
        return any(value is not None for value in (self.seconds, self.memory_gb, self.store_gb))

    @property
    def memory(self) -> int | None:
        """Bytes of memory of each worker; None without a limit."""
        return None if self.memory_gb is None else round(self.memory_gb * 1e9)

    @property
    def store(self) -> int | None:
        """Bytes in the store; None without a limit."""
        return None if self.store_gb is None else round(self.store_gb * 1e9)


def within(search: SearchSpec, budget: BudgetSpec) -> SearchSpec:
    """Return a search's section with the limits of a budget; where both are written, the smaller one holds."""
    found: dict[str, float] = {}
    for ours, limit in (("seconds", budget.seconds), ("quota_gb", budget.store_gb)):
        own = getattr(search, ours)
        if limit is not None:
            found[ours] = limit if own is None else min(own, limit)
    return search.model_copy(update=found) if found else search
