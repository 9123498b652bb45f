"""The budget of a batch prediction: it ends between two blocks, and what was answered stays."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pydantic import ValidationError

from regraft.bases.base_header import folder_header
from regraft.bases.derived_base import find_base
from regraft.errors import RequestError, Stopped
from regraft.serving.batch.target import Target
from regraft.spec.budget import BudgetSpec
from regraft.store.names import parse
from regraft.store.objects import ObjectStore, open_store
from regraft.store.registry import Registry
from regraft.units import bytes_text


def budget_of(written: Mapping[str, float]) -> BudgetSpec:
    """Return the limits of a request. Raises RequestError for what is no limit."""
    try:
        return BudgetSpec.model_validate(dict(written))
    except ValidationError as error:
        allowed = ", ".join(BudgetSpec.model_fields)
        message = f"{dict(written)} is written; allowed are numbers above 0 for {allowed}: {error.errors()[0]['msg']}"
        raise RequestError(message, where="budget") from None


def refuse_large_base(budget: BudgetSpec, target: Target) -> None:
    """Raise RequestError where the weights alone need more memory than a worker may take."""
    if budget.memory is None:
        return
    store = open_store(target.store)
    reference = target.base or target.elsewhere
    if reference is None:
        reference = str(Registry(store).version(*parse(target.reference)).meta["base"]["reference"])
    need = 4 * folder_header(find_base(store, reference).path, reference).numbers
    if need > budget.memory:
        raise RequestError(
            f"budget.memory_gb: {budget.memory_gb:g} do not hold the weights of {reference}, {bytes_text(need)}: write "
            "more, or use a smaller base",
            where="budget",
        )


class BlockLimits:
    """Ends a batch before the next block would overspend its budget."""

    def __init__(self, budget: BudgetSpec, work: ObjectStore, output: str, started: float) -> None:
        self._budget, self._work, self._output = budget, work, output
        self._started = self._last = started
        self._slowest = 0.0
        self._first = True

    def check(self, left: int) -> None:
        """Raise Stopped after a block where the next of `left` others would overspend."""
        now = time.monotonic()
        if not self._first or self._budget.seconds is None:
            self._slowest = max(self._slowest, now - self._last)
        self._first, self._last = False, now
        if not left:
            return
        seconds = self._budget.seconds
        if seconds is not None and now - self._started + self._slowest > seconds:
            self._stop(f"budget.seconds: {seconds:g} are about to be spent")
        if self._budget.store is not None:
            used = sum(stat.size for stat in self._work.list(""))
            if used > self._budget.store:
                self._stop(f"budget.store_gb: {self._budget.store_gb:g} are reached ({bytes_text(used)})")

    def _stop(self, reason: str) -> None:
        raise Stopped(
            f"{reason}: what was answered is kept, and the same command goes on from there", where=self._output
        )
