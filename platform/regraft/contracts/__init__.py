"""Contracts: what a task, a method, a loss, a data source and a kind of column must provide.

Three of them were settled first. The loss is a pair (sum, weight), so that the result does not depend on how rows fell
on workers and micro-batches. A delta holds final values of parameters and buffers under the base's own names. Data are
an Arrow snapshot read by index, in an order that is a pure function of (seed, epoch, index).
"""

from __future__ import annotations

from regraft.contracts.anatomy import Anatomy, device_of, under
from regraft.contracts.column import (
    Allowance,
    BadCell,
    Column,
    MadeUp,
    TooLarge,
    Widget,
    absent,
    column_of,
    columns_of,
    label_text,
    ordered_labels,
    quoted,
)
from regraft.contracts.events import (
    BaselineMeasured,
    BaselinesMeasured,
    CheckpointWritten,
    EvaluationDone,
    Event,
    Note,
    Progress,
    Registered,
    Resampled,
    Resumed,
    RowsEvaluated,
    RunFailed,
    SearchStarted,
    Started,
    Stepped,
    TrialUpdated,
    TrunkProgress,
    TrunkShared,
)
from regraft.contracts.findings import Curve, Findings, Matrix, Table
from regraft.contracts.loss import Loss, Step
from regraft.contracts.method import Method, Serving
from regraft.contracts.rows import (
    Answer,
    Batch,
    Example,
    Kind,
    Numbers,
    Record,
    Row,
)
from regraft.contracts.source import Raw, Source
from regraft.contracts.task import Context, Forward, Loader, Score, Task

__all__ = [
    "Allowance",
    "Anatomy",
    "Answer",
    "BadCell",
    "BaselineMeasured",
    "BaselinesMeasured",
    "Batch",
    "CheckpointWritten",
    "Column",
    "Context",
    "Curve",
    "EvaluationDone",
    "Event",
    "Example",
    "Findings",
    "Forward",
    "Kind",
    "Loader",
    "Loss",
    "MadeUp",
    "Matrix",
    "Method",
    "Note",
    "Numbers",
    "Progress",
    "Raw",
    "Record",
    "Registered",
    "Resampled",
    "Resumed",
    "Row",
    "RowsEvaluated",
    "RunFailed",
    "Score",
    "SearchStarted",
    "Serving",
    "Source",
    "Started",
    "Step",
    "Stepped",
    "Table",
    "Task",
    "TooLarge",
    "TrialUpdated",
    "TrunkProgress",
    "TrunkShared",
    "Widget",
    "absent",
    "column_of",
    "columns_of",
    "device_of",
    "label_text",
    "ordered_labels",
    "quoted",
    "under",
]
