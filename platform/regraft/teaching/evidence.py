"""What a class is calibrated and measured on: features of labelled rows, from the nearest place that has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from regraft.data.kept_features import FILE, MOST_BYTES, KeptFeatures, chosen_rows, classes_of
from regraft.data.rows import Rows
from regraft.errors import Damaged, NotFound, RequestError
from regraft.evaluation.labelled_rows import read_labelled
from regraft.evaluation.options import EvaluationOptions
from regraft.evaluation.training_rows import training_snapshot
from regraft.serving.predictor import Predictor
from regraft.store.manifest import read_verified
from regraft.store.registry import Version
from regraft.teaching.head_reader import HeadReader
from regraft.teaching.request import TeachRequest


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Features of labelled rows, and where they are from."""

    kept: KeptFeatures
    source: str
    """`version`: those that it keeps; `snapshot`: the evaluation rows of its training; `rows`: those that are given."""
    rows: int
    """Rows that there were to choose from."""


def find_evidence(reader: HeadReader, request: TeachRequest, scratch: Path) -> LabelledFeatures:
    """Return features of rows of the model's classes: given ones, those that the version keeps, or its snapshot's.

    Rows that are given may be of the new class too, which is numbered after the others. Raises RequestError where
    there are none, and Damaged.
    """
    found = _of_rows(reader, request, scratch) if request.evaluation else _of_version(reader) or _of_snapshot(reader)
    if found is None:
        raise RequestError(
            "it keeps no features of evaluation rows, and the store no longer holds the rows of its training: pass "
            "--eval ROWS (evaluation=), labelled rows of the classes that it has",
            where=reader.predictor.name,
        )
    if not bool((found.kept.classes < len(reader.predictor.labels)).any()):
        where = request.evaluation or reader.predictor.name
        raise RequestError("no row there is of a class that the model has, which the new class is set beside", where)
    return found


def _of_rows(reader: HeadReader, request: TeachRequest, scratch: Path) -> LabelledFeatures:
    options = EvaluationOptions(columns=request.columns)
    labels = (*reader.predictor.labels, request.label)
    labelled = read_labelled(reader.predictor, str(request.evaluation), scratch, options, labels=labels)
    return _computed(reader, labelled.rows, "rows", labels)


def _of_version(reader: HeadReader) -> LabelledFeatures | None:
    version, labels = reader.predictor.fetched.version, reader.predictor.labels
    data = _file_of(version)
    if data is None:
        return None
    kept = KeptFeatures.load(data, len(labels), str(version))
    if kept.features.shape[1] != reader.head().weight.shape[1]:
        raise Damaged(f"{FILE} holds features of another width than its head reads", where=str(version))
    rows = ((reader.predictor.meta.get("lineage") or {}).get("data") or {}).get("rows") or {}
    return LabelledFeatures(kept, "version", max(len(kept), int(rows.get("eval") or 0)))


def _file_of(version: Version) -> bytes | None:
    try:
        size = version.manifest.entry(FILE).size
    except NotFound:
        return None
    if size > MOST_BYTES:
        raise Damaged(f"{FILE} has {size:,} bytes; at most {MOST_BYTES:,} are read", where=str(version))
    return read_verified(version.store, version.prefix, FILE, version.manifest)


def _of_snapshot(reader: HeadReader) -> LabelledFeatures | None:
    predictor: Predictor = reader.predictor
    try:
        rows = training_snapshot(predictor.fetched.version.store, predictor).eval
    except NotFound:
        return None
    return _computed(reader, rows, "snapshot", predictor.labels)


def _computed(reader: HeadReader, rows: Rows, source: str, labels: tuple[str, ...]) -> LabelledFeatures:
    """Compute the features of at most as many rows as a version keeps."""
    classes = classes_of(rows, labels)
    known = np.flatnonzero(classes >= 0)
    chosen = known[chosen_rows(classes[known])]
    features = reader.features(rows, chosen.tolist())
    return LabelledFeatures(KeptFeatures(features, torch.from_numpy(classes[chosen])), source, len(rows))
