"""Dull baselines on raw rows: class shares or means, and words or colours with a linear model, without any base.

Comparisons and the choice of a base both read these, so that "dull" means the same in both. Settings are chosen on
training rows that are held out, never on evaluation rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.contracts import Column, Context, Progress, Record, Row, RowsEvaluated, Task, columns_of
from regraft.data.rows import Rows
from regraft.errors import DataError, Unsupported
from regraft.lazy import Later

linear_model = Later("sklearn.linear_model")
text_features = Later("sklearn.feature_extraction.text")
scipy_sparse = Later("scipy.sparse")

TargetKind = Literal["classes", "tags", "numbers"]
Floats = NDArray[np.float64]
MOST_ROWS = 50_000
"""Training rows that are read; of more, a random part of this size."""
MOST_WORDS = 50_000
"""Words and pairs of words that are counted, the most frequent."""
STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse strengths of the penalty on weights that are tried on held-out training rows."""
_FIFTH = 5
_MANY_TAGS = 50
"""With more tags than this, no strength is chosen for each."""
_NEVER = -30.0
"""Logit of a class or a tag that no training row has."""
_EVERY = 200
"""Rows between two progress events."""


@dataclass(frozen=True, slots=True)
class PlainInputs:
    """What a model without a base may read of rows: texts and numbers by column."""

    rows: int
    reads: str = ""
    """What is read, such as `words`; empty for nothing."""
    texts: dict[str, list[str]] = field(default_factory=dict)
    numbers: dict[str, Floats] = field(default_factory=dict)
    """Column to numbers (rows, width)."""


@dataclass(frozen=True, slots=True)
class DullTarget:
    """Targets of rows: class numbers (rows,), tags as 0 and 1 (rows, tags), or numbers (rows, targets)."""

    kind: TargetKind
    values: NDArray[Any]
    outputs: int
    """The number of classes, tags or targets."""


@dataclass(frozen=True, slots=True)
class DullAnswers:
    """A dull baseline's outputs for the evaluation rows."""

    name: str
    """`majority`, `mean`, `words` or `colours`."""
    outputs: Floats
    """(rows, outputs), as the logits of the task's head."""
    records: list[Record]


def dull_answers(
    task: Task, context: Context, train: Rows, held_out: Rows, *, progress: Progress | None = None
) -> tuple[DullAnswers, ...]:
    """Return the dull baselines of a task, the one without inputs first, with their records on the held-out rows.

    Raises Unsupported for a task whose answers are not one vector for each row.
    """
    chosen = _chosen(len(train))
    target = dull_target(task, context, (train.stored(index) for index in chosen))
    truth = dull_tensor(task, context, (held_out.stored(index) for index in range(len(held_out))))
    found = [("mean" if target.kind == "numbers" else "majority", prior_outputs(target, len(held_out)))]
    if has_plain_inputs(task):
        inputs = plain_inputs(task, train, chosen, progress)
        others = plain_inputs(task, held_out, range(len(held_out)), progress)
        found.append((inputs.reads, fitted_outputs(inputs, target, others)))
    return tuple(DullAnswers(name, outputs, _records(task, context, outputs, truth)) for name, outputs in found)


def dull_tensor(task: Task, context: Context, rows: Iterable[Row]) -> Tensor:
    """Return the targets of rows as the task's tensor. Raises Unsupported where it has none."""
    found = task.target_tensor(rows, context) if "features" in task.supports else None
    if found is None:
        raise Unsupported(f"answers of task {task.key()} are not one vector for each row", where="task")
    return found


def dull_target(task: Task, context: Context, rows: Iterable[Row]) -> DullTarget:
    """Return the targets of rows. Raises Unsupported for a task whose answers are not one vector for each row."""
    values = dull_tensor(task, context, rows).numpy()
    if values.ndim == 1 and context.labels:
        return DullTarget("classes", values, len(context.labels))
    values = values.reshape(len(values), -1)
    return DullTarget("tags" if context.labels else "numbers", values, values.shape[1])


def has_plain_inputs(task: Task) -> bool:
    """Return whether a model without a base can read something of the task's inputs."""
    return bool(_plain_columns(task))


def _plain_columns(task: Task) -> dict[str, Column]:
    targets = task.target_columns()
    kinds = columns_of({name: kind for name, kind in task.stored_columns().items() if name not in targets})
    return {name: kind for name, kind in kinds.items() if kind.plain}


def plain_inputs(
    task: Task, rows: Rows, indices: Sequence[int] | NDArray[np.int64], progress: Progress | None = None
) -> PlainInputs:
    """Return what a model without a base reads of these rows; of a file that cannot be read, zeros."""
    kinds = _plain_columns(task)
    found: dict[str, list[Any]] = {name: [] for name in kinds}
    for number, index in enumerate(indices):
        row = rows.row(int(index))
        for name, kind in kinds.items():
            try:
                found[name].append(kind.plain_input(row[name]))
            except DataError:
                found[name].append(None)
        if progress and number % _EVERY == _EVERY - 1:
            progress(RowsEvaluated(number + 1, len(indices), "dull baseline"))
    texts, numbers = {}, {}
    for name, values in found.items():
        if any(isinstance(value, str) for value in values):
            texts[name] = ["" if value is None else value for value in values]
        elif width := max((len(value) for value in values if value is not None), default=0):
            numbers[name] = np.array([np.zeros(width) if value is None else value for value in values])
    reads = " and ".join(dict.fromkeys(kind.plain for kind in kinds.values()))
    return PlainInputs(len(indices), reads, texts, numbers)


def prior_outputs(target: DullTarget, rows: int) -> Floats:
    """Return the outputs of a model that knows the training targets alone, the same for each of `rows`."""
    return np.tile(_prior(target), (rows, 1))


def fitted_outputs(inputs: PlainInputs, target: DullTarget, held_out: PlainInputs) -> Floats:
    """Fit a linear model on words and numbers of training rows, and return its outputs for held-out rows."""
    known, asked = _designs(inputs, held_out)
    if known is None:
        return prior_outputs(target, held_out.rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that is stopped after its last iteration is good enough here
        if target.kind == "numbers":
            return _ridge(known, target.values.astype(np.float64), asked)
        if target.kind == "classes":
            return _logistic(known, target.values, asked, target.outputs)
        columns = target.values > 0.5
        tried = STRENGTHS if target.outputs <= _MANY_TAGS else STRENGTHS[1:2]
        each = [_logistic(known, column.astype(int), asked, 2, strengths=tried) for column in columns.T]
        return np.stack([outputs[:, 1] - outputs[:, 0] for outputs in each], axis=1)


def _chosen(rows: int) -> NDArray[np.int64]:
    if rows <= MOST_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))


def _records(task: Task, context: Context, outputs: Floats, truth: Tensor) -> list[Record]:
    """Return the task's records of outputs that stand in place of its head's."""
    # Numbers keep their precision; losses of classes are computed with weights in fp32.
    logits = torch.from_numpy(outputs if truth.dtype == torch.float64 else outputs.astype(np.float32))
    return task.records(SimpleNamespace(logits=logits), {"labels": truth}, context)


def _prior(target: DullTarget) -> Floats:
    if target.kind == "numbers":
        return np.asarray(np.asarray(target.values, np.float64).mean(0))
    if target.kind == "classes":
        counts = np.bincount(target.values, minlength=target.outputs)
        return np.asarray(np.log(np.maximum(counts / counts.sum(), np.exp(_NEVER))))
    shares = (target.values > 0.5).mean(0)
    return np.asarray(np.clip(np.log(shares + 1e-13) - np.log(1 - shares + 1e-13), _NEVER, -_NEVER))


def _designs(train: PlainInputs, held_out: PlainInputs) -> tuple[Any, Any]:
    """Return the features of both sides as sparse matrices; None where no word or number is there."""
    sides: list[tuple[Any, Any]] = []
    for name, texts in train.texts.items():
        vectorizer = text_features.TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, max_features=MOST_WORDS, token_pattern=r"(?u)\b\w+\b"
        )
        try:
            known = vectorizer.fit_transform(texts)
        except ValueError:  # the texts hold no word
            continue
        sides.append((known, vectorizer.transform(held_out.texts[name])))
    for name, numbers in train.numbers.items():
        asked = held_out.numbers.get(name, np.zeros((held_out.rows, numbers.shape[1])))
        sides.append((scipy_sparse.csr_matrix(numbers), scipy_sparse.csr_matrix(asked)))
    if not sides:
        return None, None
    return tuple(scipy_sparse.hstack(parts).tocsr() for parts in zip(*sides, strict=True))


def _logistic(
    known: Any, classes: NDArray[Any], asked: Any, outputs: int, *, strengths: Sequence[float] = STRENGTHS
) -> Floats:
    """Return log-probabilities (rows, outputs) of a logistic regression; classes without rows are never likely."""
    found = np.full((asked.shape[0], outputs), _NEVER)
    present = np.unique(classes)
    if len(present) < 2:
        found[:, present] = 0.0
        return found

    def fit(rows: NDArray[np.bool_], strength: float) -> Any:
        return linear_model.LogisticRegression(C=strength, max_iter=300).fit(known[rows], classes[rows])

    def loss(model: Any, rows: NDArray[np.bool_]) -> float:
        columns = np.searchsorted(model.classes_, classes[rows])
        return -float(model.predict_log_proba(known[rows])[np.arange(len(columns)), columns].mean())

    model = _best(fit, loss, _held_out(classes), strengths)
    found[:, model.classes_] = np.maximum(model.predict_log_proba(asked), _NEVER)
    return found


def _ridge(known: Any, numbers: Floats, asked: Any) -> Floats:
    """Return numbers (rows, targets) of a ridge regression on standardised targets."""
    mean, deviation = numbers.mean(0), numbers.std(0)
    deviation[deviation == 0] = 1.0
    scaled = (numbers - mean) / deviation

    def fit(rows: NDArray[np.bool_], strength: float) -> Any:
        return linear_model.Ridge(alpha=1.0 / strength, solver="lsqr").fit(known[rows], scaled[rows])

    def loss(model: Any, rows: NDArray[np.bool_]) -> float:
        return float(((model.predict(known[rows]).reshape(scaled[rows].shape) - scaled[rows]) ** 2).mean())

    tried = tuple(strength / 10 for strength in STRENGTHS)
    model = _best(fit, loss, _held_out(np.zeros(len(numbers), int)), tried)
    found: Floats = model.predict(asked).reshape(-1, numbers.shape[1]) * deviation + mean
    return found


def _best(
    fit: Callable[[NDArray[np.bool_], float], Any],
    loss: Callable[[Any, NDArray[np.bool_]], float],
    held_out: NDArray[np.bool_],
    strengths: Sequence[float],
) -> Any:
    """Return the model of all rows with the strength that has the least loss on the held-out ones."""
    best = strengths[len(strengths) // 2]
    if held_out.any() and len(strengths) > 1:
        best = min(strengths, key=lambda strength: loss(fit(~held_out, strength), held_out))
    return fit(np.ones(len(held_out), bool), best)


def _held_out(classes: NDArray[Any]) -> NDArray[np.bool_]:
    """Return every fifth row of each class, (rows,): a class of fewer rows stays whole in what is fitted."""
    held_out = np.zeros(len(classes), bool)
    for one in np.unique(classes):
        held_out[np.flatnonzero(classes == one)[_FIFTH - 1 :: _FIFTH]] = True
    return held_out
