"""One YAML file is the whole run: what may be written, checked at the edge, once and completely."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from regraft.contracts import Loss, Method, Source, Task
from regraft.errors import AskedWrong, SpecError
from regraft.plugins import Frozen, Plugin, add_folder, unknown
from regraft.space import SearchSpec

FORMAT = 1

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
AnyTask = SerializeAsAny[Annotated[Task, BeforeValidator(Task.parse)]]
AnyMethod = SerializeAsAny[Annotated[Method, BeforeValidator(Method.parse)]]
AnyLoss = SerializeAsAny[Annotated[Loss, BeforeValidator(Loss.parse)]]
AnySource = SerializeAsAny[Annotated[Source, BeforeValidator(Source.parse)]]


class DataSpec(Frozen):
    """Where the rows are and which columns the task reads."""

    train: str
    """The training rows: a file, a folder or a glob; on this machine, in S3 (s3://bucket/key) or on the hub
    (hf://datasets/org/name[@revision]/path). `x.npz#train` reads a part of it, `train.{en,de}.gz` both files side by
    side. What it may hold: `regraft show sources`."""
    eval: str | Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The same for the rows that choose the best checkpoint, or a share of `train` (by a stable hash of the row)."""
    columns: dict[str, str] = Field(default_factory=dict)
    """The task's column names, each with the name it has in the files (a dot leads into a column: `objects.bbox`);
    what is not named keeps the task's name."""
    format: AnySource | None = None
    """The source that reads the files; picked by suffix when not written."""
    labels: tuple[str, ...] | None = None
    """The labels in the order of the head's outputs; null takes those of the training rows. A row with another label
    is a bad row."""
    bad_rows: Literal["fail", "skip"] = "fail"
    """What happens to rows that cannot be used: fail names them and trains nothing; skip leaves them out, and counts
    them in the run's record."""
    group: str | None = None
    """Column of the files (a patient, a document) whose rows stay on one side of the split; refused when given sides
    share one."""
    augment: Literal["off", "light", "strong"] = "off"
    """Random changes of training images, their boxes and masks, another in each epoch."""


class TrainingSpec(Frozen):
    """How the weights are moved. Nothing here depends on how many workers there are."""

    epochs: int = Field(3, ge=1)
    """Passes over the training rows."""
    steps: int | None = Field(None, ge=1)
    """Train exactly so many optimizer steps, more or fewer than `epochs` would make."""
    batch_size: int = Field(32, ge=1)
    """Rows per optimizer step over all workers and micro-batches."""
    accumulation: int = Field(1, ge=1)
    """Micro-batches per step and worker: less memory for the same step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW (Loshchilov and Hutter, 2019), or SGD with momentum 0.9."""
    lr: float = Field(3e-4, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay; biases and norms are exempt."""
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    clip: float | None = Field(1.0, gt=0)
    """Largest norm of the whole gradient; null for none."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Factor on the learning rate for each block further from the head (1: all alike)."""
    head_factor: float = Field(1.0, gt=0)
    """Factor on the learning rate of the task's head."""
    class_weights: Literal["none", "balanced"] | dict[str, Annotated[float, Field(ge=0)]] = "none"
    """Weight of each label in the loss: none, balanced (inverse to its frequency), or one per label."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target spread over all labels (Szegedy et al., 2016)."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Replaces every dropout probability of the model; null keeps the base's own."""
    bucketing: bool = True
    """Put rows of like length into one batch, where the task has lengths."""
    early_stopping: int | None = Field(None, ge=1)
    """End after so many evaluations without improvement."""
    eval_steps: int | None = Field(None, ge=1)
    """Evaluate every so many steps instead of once an epoch."""
    checkpoint_steps: int | None = Field(None, ge=1)
    """A checkpoint every so many steps besides the one after each evaluation."""
    keep: int = Field(1, ge=1)
    """How many of the best checkpoints stay in the store; the last one always does."""
    baselines: bool = True
    """Measure the honest baselines (majority class, nearest centroid on the frozen base) where the task has them."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Fixes the order of rows, dropout and the head's first values."""


class ComputeSpec(Frozen):
    """Where it runs. Not part of the run's identity: the same run may continue elsewhere."""

    workers: Annotated[int, Field(ge=0)] | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = 1
    """Ray Train workers; [1, 8] lets Ray choose between; 0 trains in this process, without Ray."""

    @field_validator("workers")
    @classmethod
    def _few_to_many(cls, workers: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(workers, tuple) and workers[0] > workers[1]:
            raise ValueError(f"{list(workers)} is written; the smaller number comes first: {sorted(workers)}")
        return workers

    cpus: Annotated[float, Field(gt=0)] | None = None
    """CPUs, and threads, per worker; null shares this machine's among the workers."""
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
    """Where the outputs of the frozen part are kept, so that each row is computed once and not in every epoch: in the
    store (disk), where later runs find them, or in memory. auto measures what is worth it."""
    trunk_gb: float = Field(8.0, ge=0)
    """The most that they may take."""
    max_failures: int = Field(3, ge=-1)
    """How often lost workers are replaced, from the last checkpoint; -1 for ever."""


class RunSpec(Frozen):
    """The whole run."""

    format: Literal[1] = 1
    """Version of this format."""
    name: Slug
    """The model's name in the registry: lower case, digits, dots, dashes."""
    base: Annotated[str, StringConstraints(min_length=1)]
    """Hub id[@revision], folder, s3://..., or package:<module>/<folder>."""
    task: AnyTask
    """What the data mean; see `regraft show tasks`."""
    method: AnyMethod
    """Which weights move; see `regraft show methods`."""
    losses: tuple[AnyLoss, ...] = ()
    """Extra loss terms; see `regraft show losses`."""
    data: DataSpec
    """Rows."""
    training: TrainingSpec = TrainingSpec()
    """How the weights are moved."""
    compute: ComputeSpec = ComputeSpec()
    """Where it runs."""
    store: Annotated[str, StringConstraints(min_length=1)] = "./regraft-store"
    """Folder or s3://bucket/prefix that keeps runs, models, data."""
    plugins: tuple[str, ...] = ()
    """Folders with your own tasks/, methods/, losses/, sources/."""
    search: SearchSpec | None = None
    """What `regraft search` varies; `regraft train` passes over it."""

    @model_serializer(mode="wrap")
    def _only_a_search_that_is_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What a run is called and keeps is older than this field, and must not change by it.
        document: dict[str, Any] = handler(self)
        if document.get("search", 0) is None:
            del document["search"]
        return document

    @model_validator(mode="after")
    def _task_has_meaning_for_options(self) -> Self:
        training, task = self.training, self.task
        asked = {
            "class_weights": training.class_weights != "none",
            "label_smoothing": training.label_smoothing > 0,
            "augment": self.data.augment != "off",
        }
        for option, wanted in asked.items():
            if wanted and option not in task.supports:
                where = "data" if option == "augment" else "training"
                raise ValueError(f"{where}.{option} has no meaning for task {task.key()}: remove one of the two")
        if self.method.closed_form and "prototypes" not in task.supports:
            raise ValueError(f"method {self.method.key()} needs one label a row, which task {task.key()} has not")
        if self.method.closed_form and self.losses:
            raise ValueError(
                f"losses need gradient steps, which method {self.method.key()} has not: remove one of the two"
            )
        return self

    @model_validator(mode="after")
    def _labels_are_written_once(self) -> Self:
        fixed = self.task.classes()
        if fixed is None:
            return self
        if self.data.labels is not None and self.data.labels != fixed:
            raise ValueError(f"data.labels and task {self.task.key()} both say the labels: write them in task alone")
        if self.training.class_weights == "balanced" and "label" not in self.task.reads().values():
            raise ValueError(
                f"training.class_weights: balanced counts rows of each label, and a row of {self.task.key()} has many: "
                f"write a weight for each of {', '.join(fixed)}"
            )
        return self

    @model_validator(mode="after")
    def _columns_belong_to_the_task(self) -> Self:
        for name in self.data.columns:
            if name not in self.task.reads():
                raise ValueError(f"data.columns: {unknown('column', name, sorted(self.task.reads()))}")
        return self

    @classmethod
    def load(cls, path: Path, *, overrides: Mapping[str, object] | None = None) -> Self:
        """Read a YAML file; relative paths count from the current directory. SpecError holds all problems at once."""
        document = read_document(path, "a spec is a mapping of keys (name, base, task, ...)")
        return cls.resolve(document, overrides=overrides, where=str(path))

    @classmethod
    def resolve(
        cls, document: Mapping[str, Any], *, overrides: Mapping[str, object] | None = None, where: str = ""
    ) -> Self:
        """A spec from a parsed document: overrides applied, plugin folders found, paths made absolute."""
        document = merged(document, overrides or {}, where)
        folders = document.get("plugins") or ()
        if isinstance(folders, str):
            document["plugins"] = folders = [folders]
        for folder in folders if isinstance(folders, list | tuple) else ():
            add_folder(Path(str(folder)).expanduser())
        try:
            spec = cls.model_validate(document)
        except ValidationError as error:
            raise SpecError(
                tuple(dict.fromkeys(problem(item, cls, document) for item in error.errors())), where
            ) from None
        return spec.absolute()

    def override(self, changes: Mapping[str, object]) -> Self:
        """A new spec with dotted fields replaced, validated as if written by hand."""
        return type(self).resolve(self.model_dump(mode="json"), overrides=changes)

    def absolute(self) -> Self:
        """The same spec with every local path absolute: workers run in other directories."""
        data = self.data.model_copy(
            update={
                "train": absolute(self.data.train),
                "eval": absolute(self.data.eval) if isinstance(self.data.eval, str) else self.data.eval,
            }
        )
        base = absolute(self.base) if re.match(r"^(\.{0,2}/|~)", self.base) or Path(self.base).is_dir() else self.base
        plugins = tuple(absolute(folder) for folder in self.plugins)
        return self.model_copy(update={"data": data, "base": base, "store": absolute(self.store), "plugins": plugins})

    def dump(self) -> str:
        """The resolved spec as YAML, as stored with the run."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @property
    def run(self) -> str:
        """The run's name: the model's and a hash of the resolved spec without compute and store.

        Paths below the current directory count by their relative form, so that the same checkout unpacked elsewhere
        (as a submitted job is) continues the same run; the data themselves are held by their own fingerprint.
        """
        return self.named({"compute": True, "store": True, "search": True})

    def named(self, without: dict[str, Any]) -> str:
        """The model's name and a hash of the resolved spec without some fields (as pydantic's `exclude` says them)."""
        document = self.model_dump(mode="json", exclude=without)
        text = json.dumps(document, sort_keys=True).replace(json.dumps(f"{Path.cwd()}/")[1:-1], "")
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def read_document(path: Path, wanted: str) -> dict[str, Any]:
    """A file of YAML as a mapping, its store that of REGRAFT_STORE where that is set; AskedWrong says what is not right
    with it, `wanted` what it is to hold."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AskedWrong("there is no such file", where=str(path)) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AskedWrong(f"is not readable as YAML: {error}", where=str(path)) from None
    if not isinstance(document, dict):
        raise AskedWrong(wanted, where=str(path))
    if store := os.environ.get("REGRAFT_STORE"):
        document["store"] = store
    return document


def absolute(path: str) -> str:
    """A local path made absolute; URLs (`scheme://`) stay as they are."""
    if re.match(r"^[a-z][a-z0-9+.-]*://", path):
        return path
    return str(Path(os.path.abspath(Path(path).expanduser())))


def merged(document: Mapping[str, Any], overrides: Mapping[str, object], where: str = "") -> dict[str, Any]:
    """The document with dotted keys replaced; `method.depth` on `method: freeze` opens the short form."""
    result: dict[str, Any] = json.loads(json.dumps(document, default=str))
    for dotted, value in overrides.items():
        at = result
        *parents, last = dotted.split(".")
        for parent in parents:
            inner = at.get(parent)
            if inner is None or (isinstance(inner, str) and parent in ("task", "method")):
                inner = at[parent] = {} if inner is None else {"type": inner}
            if not isinstance(inner, dict):
                raise SpecError((f"{dotted}: {parent} is {inner!r}, which has no fields",), where)
            at = inner
        at[last] = value
    return result


def parse_set(pairs: list[str]) -> dict[str, object]:
    """`["training.lr=1e-4"]` as overrides; values are YAML, and 1e-4 is the number it looks like."""
    result: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise AskedWrong(
                f"{pair!r} is written; what is allowed is key=value, as in training.lr=1e-4", where="--set"
            )
        try:
            result[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise AskedWrong(f"{value!r} is not a YAML value: {error}", where=f"--set {key}") from None
    return result


def problem(item: Mapping[str, Any], root: type[Frozen], document: Mapping[str, Any]) -> str:
    """One pydantic error as: path, what was written, what is allowed, the nearest match."""
    noise = re.compile(r"^(function-|constrained-|tuple\[|dict\[|lax-or-strict|(str|float|int)$)")
    path = ".".join(str(part) for part in item["loc"] if not noise.match(str(part)))
    written = item.get("input")
    kind, message = item["type"], str(item["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        parent, _, name = path.rpartition(".")
        return f"{path}: {unknown('key', name, sorted(known_keys(parent, root, document)))}"
    if kind == "missing":
        return f"{path}: is missing; it must be written"
    if kind == "value_error":
        return f"{path}: {message}" if path else message
    if kind == "string_pattern_mismatch":
        return f"{path}: {written!r} is written; allowed are lower case letters, digits, dots, dashes (at most 64)"
    message = message.replace("valid tuple", "list").replace("tuple", "list").replace("valid dictionary", "mapping")
    return f"{path}: {written!r} is written; {message[0].lower()}{message[1:]}"


def known_keys(parent: str, root: type[Frozen], document: Mapping[str, Any]) -> list[str]:
    """The keys allowed at a dotted path; a plugin's are those of the member that the document names there."""
    families: dict[str, type[Plugin]] = {"task": Task, "method": Method, "losses": Loss, "data.format": Source}
    family = families.get(".".join(part for part in parent.split(".") if not part.isdigit()))
    at: Any = document
    model: Any = root
    for part in filter(None, parent.split(".")):
        at = at[int(part)] if isinstance(at, list | tuple) else at[part]
        model = None if family else model.model_fields[part].annotation
        model = next((kind for kind in get_args(model) if hasattr(kind, "model_fields")), model)
    if family:
        model = family.lookup(at["type"] if isinstance(at, Mapping) else str(at))
    return list(model.model_fields)
