"""Contracts: what a task, a method, a loss, a data source and a kind of column must provide.

Three decisions hold for all of them. A loss is a pair (sum, weight), so that the result does not depend on how rows are
distributed over workers and micro-batches. A delta holds final values of parameters and buffers, under the base's own
names. Data are an Arrow snapshot read by index, in an order that is a pure function of (seed, epoch, index).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regraft.contracts.anatomy import Anatomy, device_of, under
    from regraft.contracts.api_form import (
        ApiForm,
        Parameters,
        Schema,
        answer_form,
        candidates_form,
        depth_form,
        embedding_form,
        entities_form,
        fill_mask_form,
        json_list,
        json_object,
        objects_form,
        own_form,
        picture_vector_form,
        scores_form,
        segments_form,
        text_form,
    )
    from regraft.contracts.closed_form import FeatureBatch, FeatureRows
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
    from regraft.contracts.defaults import TrainingDefaults, TrainingFacts
    from regraft.contracts.events import (
        BaselineMeasured,
        BaselinesMeasured,
        CheckpointWritten,
        EvaluationDone,
        Event,
        MeasuredOnTest,
        Note,
        NotesOnce,
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
        note,
    )
    from regraft.contracts.findings import Curve, Findings, Matrix, OtherForm, Table
    from regraft.contracts.likeness import CellSample, Likeness
    from regraft.contracts.loss import Episode, ForwardPass, Loss, Need, Step, TeacherLoss
    from regraft.contracts.medium import Medium, medium_of
    from regraft.contracts.method import Method, Phase, Serving
    from regraft.contracts.rows import (
        Answer,
        Ask,
        Batch,
        Example,
        Kind,
        Numbers,
        Record,
        Row,
        TextLengths,
    )
    from regraft.contracts.source import Raw, Source
    from regraft.contracts.task import Context, Forward, Loader, Score, Task
    from regraft.contracts.windows import all_windows, by_row, windowed, windows_of

__all__ = [
    "Allowance",
    "Anatomy",
    "Answer",
    "ApiForm",
    "Ask",
    "BadCell",
    "BaselineMeasured",
    "BaselinesMeasured",
    "Batch",
    "CellSample",
    "CheckpointWritten",
    "Column",
    "Context",
    "Curve",
    "Episode",
    "EvaluationDone",
    "Event",
    "Example",
    "FeatureBatch",
    "FeatureRows",
    "Findings",
    "Forward",
    "ForwardPass",
    "Kind",
    "Likeness",
    "Loader",
    "Loss",
    "MadeUp",
    "Matrix",
    "MeasuredOnTest",
    "Medium",
    "Method",
    "Need",
    "Note",
    "NotesOnce",
    "Numbers",
    "OtherForm",
    "Parameters",
    "Phase",
    "Progress",
    "Raw",
    "Record",
    "Registered",
    "Resampled",
    "Resumed",
    "Row",
    "RowsEvaluated",
    "RunFailed",
    "Schema",
    "Score",
    "SearchStarted",
    "Serving",
    "Source",
    "Started",
    "Step",
    "Stepped",
    "Table",
    "Task",
    "TeacherLoss",
    "TextLengths",
    "TooLarge",
    "TrainingDefaults",
    "TrainingFacts",
    "TrialUpdated",
    "TrunkProgress",
    "TrunkShared",
    "Widget",
    "absent",
    "all_windows",
    "answer_form",
    "by_row",
    "candidates_form",
    "column_of",
    "columns_of",
    "depth_form",
    "device_of",
    "embedding_form",
    "entities_form",
    "fill_mask_form",
    "json_list",
    "json_object",
    "label_text",
    "medium_of",
    "note",
    "objects_form",
    "ordered_labels",
    "own_form",
    "picture_vector_form",
    "quoted",
    "scores_form",
    "segments_form",
    "text_form",
    "under",
    "windowed",
    "windows_of",
]

_LIGHT = (
    "events",
    "defaults",
    "findings",
    "rows",
    "anatomy",
    "source",
    "api_form",
    "likeness",
    "closed_form",
    "windows",
)
_MODULES = (*_LIGHT, "column", "medium", "loss", "method", "task")
"""Modules of this package, those without heavy imports first."""


def __getattr__(name: str) -> Any:
    """Import a contract when it is first asked for.

    A command that only reads events must not wait for pydantic, Arrow and NumPy.
    """
    for module in _MODULES if name in __all__ else ():
        found = vars(importlib.import_module(f"regraft.contracts.{module}"))
        if name in found:
            globals()[name] = found[name]
            return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
