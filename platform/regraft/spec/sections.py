"""Sections of a run's spec: data, training and compute."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    StringConstraints,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from regraft.contracts import Loss, Method, Source, Task, label_text
from regraft.plugins import Frozen
from regraft.spec.document import absolute

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
_EXPONENT = re.compile(r"[0-9]{1,9}(\.[0-9]{0,20})?[eE]-?[0-9]{1,3}")
AnyTask = SerializeAsAny[Annotated[Task, BeforeValidator(Task.parse)]]
AnyMethod = SerializeAsAny[Annotated[Method, BeforeValidator(Method.parse)]]
AnyLoss = SerializeAsAny[Annotated[Loss, BeforeValidator(Loss.parse)]]
AnySource = SerializeAsAny[Annotated[Source, BeforeValidator(Source.parse)]]
_Label = Annotated[str, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]}, mode="validation")]


_Number = TypeVar("_Number", int, float)


def number_of(value: _Number | Literal["auto"]) -> _Number:
    """Return the number of a training key, whose `auto` was resolved when the run was prepared."""
    if value == "auto":
        raise RuntimeError("a training key is still auto: resolve_auto was not called for this spec")
    return value


def omit_usual(document: dict[str, Any], **usual: Any) -> dict[str, Any]:
    """Return a document without fields at their usual values: specs that were stored before these existed stay so."""
    return {name: value for name, value in document.items() if name not in usual or value != usual[name]}


class DataSpec(Frozen):
    """Files of the rows, and the columns that the task reads."""

    train: str
    """The training rows: a file, a folder or a glob; on this machine, in S3 (s3://bucket/key) or on the hub
    (hf://datasets/org/name[@revision]/path). `x.npz#train` reads a part of a file, `train.{en,de}.gz` two files side by
    side. Formats: `regraft show sources`."""
    eval: str | Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The evaluation rows, which choose the best checkpoint: written as `train`, or as a share of `train` (by a stable
    hash of the row)."""
    target: str | None = None
    """Rows of another domain for `losses` that adapt to it, written as `train`, with the same columns but without
    labels: a column of labels there is not read."""
    target_labels: str | None = None
    """Labelled rows of that other domain, written as `train`, with the same columns: they are trained on beside the
    training rows, and each counts as ten of these. `regraft adapt` reads them for one candidate, never to choose."""
    test: str | Annotated[float, Field(gt=0, lt=1)] | None = None
    """The test rows: written as `eval`, and never read to stop, to choose or to set anything. The registered version is
    measured on them once, at the end, with an interval."""
    columns: dict[str, str | Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """The task's column names, each with its name in the files (a dot leads into a column: `objects.bbox`); other
    columns have the task's names. A list names several columns for one value: `labels: [toxic, rude]`, a column for
    each label; `prompt: [instruction, input]`, texts that are joined by a line break."""
    format: AnySource | None = None
    """The source that reads the files; null chooses by suffix."""
    labels: tuple[_Label, ...] | None = None
    """The labels in the order of the head's outputs; null takes those of the training rows. A row with another label
    is a bad row. They are text: in YAML, `yes` and `007` are what is written."""
    bad_rows: Literal["fail", "skip"] = "fail"
    """Treatment of rows that cannot be used: fail lists them and trains nothing; skip leaves them out and counts them
    in the run's record."""
    group: str | None = None
    """Column of the files (a patient, a document) whose rows stay on one side of the split; given sides that share a
    value are refused."""
    augment: Literal["off", "light", "strong", "affine"] = "off"
    """Random changes of training images, with their boxes and masks; different in each epoch. affine is for drawings
    and characters: small shifts, turns, shears and zooms, without mirroring and changes of colour."""

    @field_validator("eval", "test", mode="before")
    @classmethod
    def _a_share_is_a_number(cls, written: object) -> object:
        """Accept a share such as 1e-1, which YAML reads as a word."""
        share = float(written) if isinstance(written, str) and _EXPONENT.fullmatch(written) else written
        return share if isinstance(share, float) and 0 < share < 1 else written

    def absolute(self) -> Self:
        """Return the same section with absolute local paths: workers run in other directories."""
        sides = {name: getattr(self, name) for name in ("train", "eval", "target", "target_labels", "test")}
        return self.model_copy(
            update={name: absolute(value) for name, value in sides.items() if isinstance(value, str)}
        )

    @model_validator(mode="after")
    def _test_rows_are_others(self) -> Self:
        """Refuse test rows that are the rows of another side, and shares that leave no rows to train on."""
        if self.test is None:
            return self
        if isinstance(self.test, str) and self.test in (self.train, self.eval):
            side = "train" if self.test == self.train else "eval"
            raise ValueError(
                f"test: {self.test} is written, and {side} names the same rows: name rows that nothing else reads, or "
                "write a share of train, such as 0.1"
            )
        if isinstance(self.test, float) and isinstance(self.eval, float) and self.test + self.eval >= 1:
            raise ValueError(
                f"the shares eval: {self.eval} and test: {self.test} leave no rows to train on: write shares that are "
                "less than 1 together"
            )
        return self

    @model_serializer(mode="wrap")
    def _omit_absent_sides(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return omit_usual(handler(self), test=None, target=None, target_labels=None)

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_are_text(cls, written: object) -> object:
        """Accept whole numbers, and refuse labels that are written twice."""
        if not isinstance(written, list | tuple):
            return written
        for label in written:
            if isinstance(label, bool):
                raise ValueError(f"{label} is written; a label is text: write it as the rows have it, in quotes")
        labels = [label_text(label) if isinstance(label, int | float) else label for label in written]
        if twice := [label for number, label in enumerate(labels) if label in labels[:number]]:
            raise ValueError(f"{twice[0]!r} is written twice: each label is written once")
        return labels


class TrainingSpec(Frozen):
    """Optimisation. Nothing here depends on the number of workers."""

    epochs: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Passes over the training rows; auto follows from the method and the number of rows."""
    steps: int | None = Field(None, ge=1)
    """Exact number of optimizer steps, in place of `epochs`."""
    batch_size: int = Field(32, ge=1)
    """Rows per optimizer step over all workers and micro-batches."""
    accumulation: int = Field(1, ge=1)
    """Micro-batches per step and worker: less memory for the same step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW (Loshchilov and Hutter, 2019), or SGD with momentum 0.9."""
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Peak learning rate; auto follows from the method (`regraft show methods NAME`)."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay; biases and norms are exempt."""
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    """Course of the learning rate after the warm-up."""
    warmup: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = "auto"
    """Share of the steps over which the learning rate rises from 0; auto follows from the method."""
    clip: float | None = Field(1.0, gt=0)
    """Largest norm of the gradient over all weights; null for no limit."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Factor on the learning rate per block of distance from the head; 1 for equal rates."""
    head_factor: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Factor on the learning rate of the task's head; auto follows from the method, and is 1 beside a written lr."""
    class_weights: Literal["none", "balanced"] | dict[str, Annotated[float, Field(ge=0)]] = "none"
    """Weight of each label in the loss: none, balanced (inverse to its frequency), or one per label."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target spread over all labels (Szegedy et al., 2016)."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Replaces every dropout probability of the model; null keeps the base's."""
    bucketing: bool = True
    """Put rows of similar length into one batch, where the task has lengths."""
    early_stopping: int | None = Field(None, ge=1)
    """Number of evaluations without improvement after which training ends."""
    eval_steps: int | None = Field(None, ge=1)
    """Steps between evaluations; null evaluates once per epoch."""
    checkpoint_steps: int | None = Field(None, ge=1)
    """Steps between further checkpoints, besides the one after each evaluation."""
    keep: int = Field(1, ge=1)
    """Number of best checkpoints kept in the store; the last checkpoint is always kept."""
    soup: int = Field(1, ge=1, le=50)
    """Number of best checkpoints that are averaged after the last step, one after another as long as the average is
    better on the evaluation rows; 1 averages none."""
    baselines: bool = True
    """Measure baselines (majority class, nearest centroid on the frozen base) where the task has them."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Determines the order of rows, dropout and the head's initial values."""
    init: Literal["pretrained", "random"] = "pretrained"
    """The weights that training begins with: those of the base, or random ones of its configuration, from `seed`. A
    folder with a configuration and no weights always begins with random ones."""

    @model_serializer(mode="wrap")
    def _omit_later_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return omit_usual(handler(self), init="pretrained", soup=1)


class ComputeSpec(Frozen):
    """Resources. Not part of the run's identity: the same run may continue elsewhere."""

    workers: Annotated[int, Field(ge=0)] | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = 1
    """Ray Train workers; [1, 8] lets Ray choose a number in that range; 0 trains in this process, without Ray."""

    @field_validator("workers")
    @classmethod
    def _few_to_many(cls, workers: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(workers, tuple) and workers[0] > workers[1]:
            raise ValueError(f"{list(workers)} is written; the smaller number comes first: {sorted(workers)}")
        return workers

    cpus: Annotated[float, Field(gt=0)] | None = None
    """CPUs, and threads, per worker; null divides this machine's among the workers."""
    gpus: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """GPUs per worker; auto is 1 where the cluster has any."""
    accelerator: str | None = None
    """Ray's accelerator type, such as H100."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory to reserve per worker."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward pass; auto is bf16 on a GPU that has it, fp32 elsewhere."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp copies the model to each worker; fsdp (FSDP2) shards it."""
    compile: bool = False
    """torch.compile the model."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a quarter more time."""
    trunk: Literal["auto", "off", "memory", "disk"] = "auto"
    """Where outputs of the frozen part are cached, so that each row is computed once and not in every epoch: in the
    store (disk), where later runs find them, or in memory. auto measures what pays off."""
    trunk_gb: float = Field(8.0, ge=0)
    """Limit of the cached outputs, in GB."""
    trunk_check: Literal["auto", "off", "all"] | Annotated[int, Field(ge=1)] = "auto"
    """How many of the outputs that the store holds already are computed again and compared, whenever a run begins:
    auto takes a random one of 200 (at least 32, at most 512 rows), all takes every one. Outputs that differ are set
    aside and computed again."""
    max_failures: int = Field(3, ge=-1)
    """Number of times that lost workers are replaced, from the last checkpoint; -1 for no limit."""

    @model_serializer(mode="wrap")
    def _omit_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Specs that were stored before this field existed must stay as they were.
        document: dict[str, Any] = handler(self)
        if document.get("trunk_check") == "auto":
            del document["trunk_check"]
        return document
