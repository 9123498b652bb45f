"""Contracts: what a task, a method, a loss and a data source must provide.

Three of them were settled first. The loss is a pair (sum, weight), so that the result does not depend on how rows fell
on workers and micro-batches. A delta holds final values of parameters and buffers under the base's own names. Data are
an Arrow snapshot read by index, in an order that is a pure function of (seed, epoch, index).
"""

from __future__ import annotations

from regraft.contracts.anatomy import Anatomy, device_of, under
from regraft.contracts.findings import Curve, Findings, Matrix, Table
from regraft.contracts.loss import Loss, Step
from regraft.contracts.method import Method, Serving
from regraft.contracts.rows import (
    TARGETS,
    Answer,
    Batch,
    Example,
    Kind,
    Numbers,
    Progress,
    Record,
    Row,
)
from regraft.contracts.source import Raw, Source
from regraft.contracts.task import Context, Forward, Loader, Score, Task

__all__ = [
    "TARGETS",
    "Anatomy",
    "Answer",
    "Batch",
    "Context",
    "Curve",
    "Example",
    "Findings",
    "Forward",
    "Kind",
    "Loader",
    "Loss",
    "Matrix",
    "Method",
    "Numbers",
    "Progress",
    "Raw",
    "Record",
    "Row",
    "Score",
    "Serving",
    "Source",
    "Step",
    "Table",
    "Task",
    "device_of",
    "under",
]
