"""The runs of an adaptation as specs: the source alone, with a loss that adapts, and with labelled target rows."""

from __future__ import annotations

from typing import Any

from regraft.contracts import Loss
from regraft.data.sampler import batches_per_epoch
from regraft.errors import RequestError
from regraft.spec.auto import resolve_auto
from regraft.spec.run import RunSpec, lacking
from regraft.training.prepare import base_reference
from regraft.training.run_steps import steps_of

ONE_LABEL = "prototypes"
"""What tasks with one label a row support."""


def check_adaptable(spec: RunSpec) -> None:
    """Raise RequestError for a spec without target rows, or of a task whose answers are not one label a row."""
    if spec.data.target is None:
        raise RequestError(
            "`regraft adapt` compares the training rows with rows of another domain, without their labels: name their "
            "files in data.target",
            where="data.target",
        )
    if spec.stages:
        raise RequestError(
            "`regraft adapt` begins with a base: train the stages with `regraft train`, and name the model of the last "
            "one as base: model:NAME",
            where="stages",
        )
    if ONE_LABEL not in spec.task.supports or "classes" not in spec.task.supports:
        raise RequestError(
            f"`regraft adapt` needs one label a row, which task {spec.task.key()} has not: train it with a loss that "
            "adapts (`regraft show losses`), and compare both models with `regraft evaluate`",
            where="task",
        )


def adapts(loss: Loss | type[Loss]) -> bool:
    """Return whether a loss reads target rows."""
    return "target" in loss.needs


def source_only(spec: RunSpec) -> RunSpec:
    """Return the spec without what it says of the target."""
    data = spec.data.model_copy(update={"target": None, "target_labels": None})
    losses = tuple(loss for loss in spec.losses if not adapts(loss))
    return spec.model_copy(update={"data": data, "losses": losses, "search": None})


def with_target_labels(spec: RunSpec) -> RunSpec:
    """Return the run of the source with the labelled target rows beside it."""
    data = spec.data.model_copy(update={"target": None})
    return source_only(spec).model_copy(update={"data": data})


def with_loss(spec: RunSpec, loss: Loss, begins_with: str | None, rows: int) -> RunSpec:
    """Return the run with one loss that adapts, whose last step counts: the source's score cannot choose a step.

    `begins_with` is the registered model whose weights it continues from; None begins as the source-only run did.
    """
    plain = source_only(spec)
    begun = resolve_auto(plain, rows)
    steps = steps_of(begun.training, rows)
    changes: dict[str, Any] = {"eval_steps": steps, "early_stopping": None, "baselines": False, "keep": 1}
    changes["checkpoint_steps"] = plain.training.checkpoint_steps or batches_per_epoch(rows, plain.training.batch_size)
    if begins_with is not None:
        changes["init"] = "pretrained"
    return plain.model_copy(
        update={
            "base": plain.base if begins_with is None else begins_with,
            "data": spec.data.model_copy(update={"target_labels": None}),
            "losses": (*plain.losses, loss),
            "training": plain.training.model_copy(update=changes),
        }
    )


def refuse_loss(spec: RunSpec, loss: Loss) -> str:
    """Return why this spec cannot be trained with a loss, and what to do; empty where it can."""
    if spec.method.closed_form:
        return f"needs gradient steps, which method {spec.method.key()} has not"
    return lacking(loss, spec)


def begins_again(spec: RunSpec) -> bool:
    """Return whether a run with a loss begins as the source-only run: its base then has the same kept outputs."""
    return spec.method.serves == "head"


def reads_base(spec: RunSpec) -> str:
    """Return the reference of the base that the source-only run begins with."""
    return base_reference(source_only(spec))
