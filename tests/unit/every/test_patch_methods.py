"""Closed forms that describe patches, on every family of vision bases: fitted, stored, asked alone and in batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.delta import apply_delta, delta_tensors
from regraft.bases.locate import Base
from regraft.contracts import FeatureBatch, Method, Task
from regraft.errors import Unsupported
from regraft.spec.closed_form import fitting_methods
from unit.bases.families import FAMILIES
from unit.every.rows import base_of, family_of, fits, rows_of, task_of

TASKS = [key for key in Task.names() if "patches" in Task.lookup(key).supports]
WITHOUT_PLACES = {"detr", "clip", "siglip"}
"""Families whose hidden states are on no grid that their configuration tells, or are those of two encoders."""


def patch_cases() -> Iterator[Any]:
    for key in TASKS:
        for family in FAMILIES:
            if fits(key, family, FAMILIES[family].make().config):
                for method in fitting_methods(task_of(key)):
                    marks = () if family == family_of(key) and method == "patchcore" else pytest.mark.slow
                    yield pytest.param(key, family, method, id=f"{key}-{family}-{method}", marks=marks)


class Rows:
    """Features of all rows as one batch."""

    classes = 0

    def __init__(self, features: Tensor) -> None:
        self._batch = FeatureBatch(features, torch.zeros(len(features)).long(), torch.arange(len(features)))

    def __iter__(self) -> Iterator[FeatureBatch]:
        yield self._batch

    def summed(self, parts: Any) -> dict[str, Tensor]:
        (only,) = parts
        found: dict[str, Tensor] = only
        return found

    def gathered(self, value: Any) -> list[Any]:
        return [value]


def made(base: Base, key: str, method: str) -> Adapted:
    how = Method.parse({"type": method, "bank_mb": 0.02})
    assert isinstance(how, Method)
    return adapt(base, Adaptation(task=task_of(key), method=how, labels=(), seed=5))


@pytest.mark.parametrize(("key", "family", "method"), list(patch_cases()))
def test_a_fitted_layer_is_stored_and_scores_rows_alone_as_in_a_batch(
    key: str, family: str, method: str, tmp_path: Path
) -> None:
    base = base_of(family, tmp_path / "base")
    try:
        adapted = made(base, key, method)
    except Unsupported as refused:
        assert family in WITHOUT_PLACES and refused.where in ("base", "method"), refused
        return
    assert family not in WITHOUT_PLACES
    rows = [dict(row, label="good", mask=None) for row in rows_of(task_of(key))]
    task, context = adapted.task, adapted.context
    examples = [task.encode(row, context, train=False) for row in rows]
    with torch.no_grad():
        features = adapted.features(task.collate(examples, context))
        adapted.method.fit(adapted.fitted_layer(), Rows(features))
        together = adapted.forward(task.collate(examples, context)).score
        again = made(base, key, method)
        apply_delta(again, load(save({n: t.detach().contiguous() for n, t in delta_tensors(adapted).items()})))
        for number, example in enumerate(examples):
            alone = again.forward(task.collate([example], context)).score
            torch.testing.assert_close(alone[0], together[number], rtol=1e-4, atol=1e-4)
    assert torch.isfinite(together).all()
    assert sum(tensor.nbytes for tensor in delta_tensors(adapted).values()) <= 0.02e6 + 4 * (1003 + features.shape[1])
