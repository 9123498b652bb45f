"""Several models on the same rows: those of one base read each row once, and heads share the base's pass."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from regraft.contracts import Batch, Example, Progress, Record, Row, RowsEvaluated, Task
from regraft.errors import DataError, Unsupported
from regraft.evaluation.labelled_rows import LabelledRows
from regraft.evaluation.measure import RowsOnAccess, completed
from regraft.serving.predictor import Predictor, to_device
from regraft.serving.row_checks import batches
from regraft.store.registry import Version
from regraft.trunk.verify import relative_deviation

TOLERANCE = 1e-5
"""Largest deviation of a head on shared features from the model's own pass, relative to the largest value."""
ALONE, INPUTS, FEATURES = "nothing", "encoded rows", "the pass of the base"
"""What a model shares with the others of its base."""


@dataclass
class GroupRecords:
    """The records of one model by the row's index; `failed` are rows that could not be encoded."""

    records: dict[int, Record] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    shares: str = ALONE


def groups_of(versions: Sequence[Version]) -> list[list[int]]:
    """Return the places of the versions that can be measured in one pass, in groups: of one base, task and labels."""
    found: dict[str, list[int]] = {}
    for at, version in enumerate(versions):
        found.setdefault(_pass_key(version.meta), []).append(at)
    return list(found.values())


def _pass_key(meta: Mapping[str, Any]) -> str:
    base = meta["base"]
    return json.dumps([base["hash"], base.get("processor_hash"), meta["task"], meta["labels"]], sort_keys=True)


def measure_group(
    predictors: Sequence[Predictor], labelled: LabelledRows, progress: Progress | None = None, *, skip: bool = False
) -> list[GroupRecords]:
    """Run models of one base, task and labels on all rows, each of which is read and encoded once.

    Raises DataError for the first row that cannot be encoded; with `skip`, only if no row can be.
    """
    found = [GroupRecords(shares=INPUTS if len(predictors) > 1 else ALONE) for _ in predictors]
    rows, failed = len(labelled.rows), dict[int, str]()
    together: bool | None = None
    for positions, batch in _batches(predictors[0], labelled, failed, skip=skip):
        if together is None:
            together = _heads_agree(predictors, batch)
        outputs = _outputs(predictors, batch, together=together)
        for one, predictor, output in zip(found, predictors, outputs, strict=True):
            records = predictor.adapted.task.records(output, batch, predictor.adapted.context)
            one.records.update(zip(positions, records, strict=True))
        if progress:
            names = predictors[0].name if len(predictors) == 1 else f"{len(predictors)} models of one base"
            progress(RowsEvaluated(len(found[0].records) + len(failed), rows, names))
    if not found[0].records:
        raise DataError(f"no row can be used: {next(iter(failed.values()))}", where=labelled.path)
    for one, predictor in zip(found, predictors, strict=True):
        one.failed, one.records = failed, completed(predictor, one.records)
        one.shares = FEATURES if together else one.shares
    return found


def _batches(
    predictor: Predictor, labelled: LabelledRows, failed: dict[int, str], *, skip: bool
) -> Iterator[tuple[list[int], Batch]]:
    task, context = predictor.adapted.task, predictor.adapted.context

    def encode(row: Row) -> Example | None:
        try:
            return task.encode(labelled.rows.row(row["row"]), context, train=False)
        except DataError as error:
            if not skip:
                raise
            failed[int(row["row"])] = str(error)
            return None

    for positions, examples in batches(task, RowsOnAccess(labelled.rows), encode):
        yield positions, to_device(task.collate(examples, context), predictor.device)


def _outputs(predictors: Sequence[Predictor], batch: Batch, *, together: bool) -> list[Any]:
    """Return the output of each model for a batch."""
    with torch.inference_mode():
        if together:
            features = predictors[0].adapted.features(batch)
            return [SimpleNamespace(logits=_head(predictor, features)) for predictor in predictors]
        every = [predictor.adapted for predictor in predictors]
        return [one.task.eval_forward(one.forward, one.model, batch, one.context) for one in every]


def _heads_agree(predictors: Sequence[Predictor], batch: Batch) -> bool:
    """Return whether each model is a head on the same frozen base, by a batch that both ways compute."""
    if len(predictors) < 2 or any(not _is_head_alone(predictor) for predictor in predictors):
        return False
    try:
        with torch.inference_mode():
            features = predictors[0].adapted.features(batch)
            return all(
                relative_deviation(_head(one, features), one.adapted.forward(batch).logits) <= TOLERANCE
                for one in predictors
            )
    except (Unsupported, AttributeError):
        return False


def _is_head_alone(predictor: Predictor) -> bool:
    adapted = predictor.adapted
    return adapted.method.serves == "head" and type(adapted.task).eval_forward is Task.eval_forward


def _head(predictor: Predictor, features: Tensor) -> Tensor:
    found: Tensor = predictor.adapted.linear_head()(features)
    return found
