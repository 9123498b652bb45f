"""Task: what the data mean, from a row's columns to the answer for it.

A task is one class in one file. Its hooks fall into three roles:

- columns, head and loss, which make a base trainable: `input_columns` to `configure`, `encode`, `collate`, `loss`;
- forward passes, metrics and answers, which evaluate and serve it: `eval_forward` to `answers`;
- how the Inference API writes its inputs and answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from regraft.contracts.api_form import ApiForm, own_form
from regraft.contracts.column import columns_of
from regraft.contracts.exported import ExportParts
from regraft.contracts.findings import Findings, OtherForm
from regraft.contracts.rows import Answer, Ask, Batch, Example, Kind, Numbers, Record, Row, TextLengths
from regraft.contracts.windows import in_parts
from regraft.plugins import Plugin

if TYPE_CHECKING:
    from torch import Tensor, nn

Forward = Callable[[Batch], Any]
"""The model's forward pass on a batch; `labels` are not passed to the model."""


@dataclass(frozen=True, slots=True)
class Score:
    """The metric that decides which checkpoint is best."""

    name: str
    mode: Literal["min", "max"]
    of_tokens: bool = False
    """Whether it counts tokens, so that bases with different tokenizers cannot be compared by it."""

    def better(self, new: float, old: float | None) -> bool:
        """Return whether `new` is better than `old`: always where `old` is None, never where `new` is NaN."""
        if new != new:
            return False
        if old is None:
            return True
        return new > old if self.mode == "max" else new < old


@dataclass(frozen=True, slots=True)
class Context:
    """Inputs of a task's hooks besides its own fields; the same in training, evaluation and serving."""

    processor: Any
    """The base's tokenizer or image processor."""
    labels: tuple[str, ...]
    """The classes in the order of the head's outputs; empty for tasks without classes."""
    config: Any = None
    """The transformers configuration of the task's model."""
    class_weights: Tensor | None = None
    """Weight of each class in the loss, (classes,); None weighs all alike."""
    label_smoothing: float = 0.0
    """Share of a target that the loss spreads over all classes."""
    augment: Literal["off", "light", "strong", "affine"] = "off"
    """How much training images are changed at random; choices are drawn from the row's `draw`."""

    @property
    def index(self) -> dict[str, int]:
        """The output index of each label."""
        return {label: number for number, label in enumerate(self.labels)}


class Loader(Protocol):
    """Makes a task's model from the base's weights; the argument `load` of `Task.build`."""

    config: Any
    """The base's transformers configuration."""
    pooling: str | None
    """`mean` or `cls` where a sentence-transformers base declares its pooling, else None."""
    pooling_problem: str
    """What else such a base does to make a vector, which regraft does not; empty if nothing."""

    def processor(self, modality: str) -> Any:
        """Return the base's processor of that medium, where the task needs another one than its own."""
        ...

    def __call__(self, auto: str, *, labels: Sequence[str] = (), **config: Any) -> nn.Module:
        """Return the base loaded as a model of the transformers Auto class `auto`.

        `labels` names the head's outputs, and `config` overrides entries of the base's configuration. Weights that the
        base lacks are initialised from torch's global generator.
        """
        ...


class Task(Plugin, ABC):
    """The meaning of the data: one class that training, evaluation and serving share.

    `encode` and `collate` are the only way from a row to a batch in all three, so that they cannot drift apart.

    Shapes in docstrings are in parentheses, such as (rows, tokens). Hooks that take a `context` are called with the
    same `Context` for as long as a run or a served model lasts.
    """

    family: ClassVar[str] = "tasks"
    auto: ClassVar[str]
    """Name of the transformers Auto class of the task's model, such as `AutoModelForTokenClassification`."""
    modality: ClassVar[str]
    """The key of the medium, which decides which processor of the base `Context.processor` is."""
    score: ClassVar[Score]
    """The metric that decides which checkpoint, trial or model is best; one of those that `metrics` returns."""
    columns: ClassVar[Mapping[str, Kind]]
    """Name and kind of every column that the task reads with default fields, targets included."""
    supports: ClassVar[frozenset[str]] = frozenset()
    """Options of a spec that have a meaning for this task: class_weights, label_smoothing, bucketing, baselines,
    prototypes, patches, augment, prompts. A spec that sets another one is refused. `features`: the head's last layer
    reads one vector for each row; `classes`: its outputs are logits of classes, (rows, classes). `prompts`: the head
    that `build` makes answers already, from the texts of its classes. `prototypes` and `patches` are what closed-form
    methods fit: a linear head on classes, a layer on the vectors of each part of an input."""
    takes_steps: ClassVar[bool] = True
    """Whether gradient steps minimise its loss; otherwise only closed-form methods fit its models."""
    api_names: ClassVar[Mapping[str, str]] = {}
    """Other names of the input columns that clients of the Inference API send."""
    packs: ClassVar[bool] = False
    """Whether `pack` makes the rows of the snapshot out of the rows that are read."""
    random_inputs: ClassVar[bool] = False
    """Whether `encode` draws the inputs of training rows from their `draw`, whatever the spec says: they differ in each
    epoch, so that nothing which is computed of them is kept."""
    whole_step: ClassVar[bool] = False
    """Whether the loss compares the rows of a step with one another. Steps then use `step_values` and `step_loss` in
    place of `loss`, so that workers and micro-batches do not change the result."""
    proposed: ClassVar[bool] = True
    """Whether a look at data proposes the task where none is named: its columns alone say what rows are for."""
    row_shapes: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """The task's fields for each form that its rows may have; a look at data takes the first that fits."""
    answer_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that change neither how rows with targets are encoded nor what a frozen base makes of them, so that its
    kept outputs stay valid."""
    export_code: ClassVar[str] = ""
    """Python that prints an answer of an exported model where transformers has no pipeline that gives it. It has
    `processor` and `model`; EXAMPLES stands for a tuple of example inputs."""

    # Columns, head and loss.

    def input_columns(self) -> Mapping[str, Kind]:
        """Return name and kind of every column that this task reads, targets included.

        Rows to predict lack the `target_columns`. Must not depend on anything but the task's fields.
        """
        return self.columns

    def stored_columns(self) -> Mapping[str, Kind]:
        """Return name and kind of the snapshot's columns: the input columns, unless the task packs rows."""
        return self.input_columns()

    def target_columns(self) -> frozenset[str]:
        """Return the input columns that hold what the model is to predict; rows to predict do not need them."""
        return frozenset(name for name, kind in columns_of(self.input_columns()).items() if kind.target)

    def classes(self) -> tuple[str, ...] | None:
        """Return the labels where the task's fields fix them, else None: they are collected from the training rows."""
        return None

    def pack(self, rows: Iterable[Row], processor: Any) -> Iterator[dict[str, Any]]:
        """Yield the snapshot's rows, made of the checked rows of one side, such as documents packed into blocks.

        Called once per side while the snapshot is built, only where `packs` is true. The result may depend on the
        order of the rows, on the fields and on the processor alone. Raises DataError for a row that cannot be used.
        """
        raise NotImplementedError

    def fit_to_rows(self, numbers: Numbers) -> Self:
        """Return the task with fields that depend on the training rows filled in, such as the scale of its targets.

        `numbers(column)` returns a numeric column of the training rows, (rows,); of a column of lists, how many items
        each row has. Called once when a run begins; the returned task's fields are stored with every version.
        """
        return self

    def fit_to_sample(self, rows: Iterable[Row]) -> Self:
        """Return the task with fields filled in that depend on the text of training rows, of which `rows` is a sample.

        Called after `fit_to_rows`; the sample is a function of the rows alone.
        """
        return self

    def balance(self, counts: Mapping[str, int], rows: int, labels: Sequence[str]) -> list[float]:
        """Return the weight of each label for `class_weights: balanced`.

        `counts` holds how many of the `rows` training rows have each label.
        """
        return [rows / (len(labels) * max(1, counts.get(label, 0))) for label in labels]

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the task's model on the base; new layers are initialised from torch's global generator.

        Called once per model, in training and serving. Raises Unsupported for a base that the task cannot use.
        """
        return load(self.auto, labels=labels)

    def merge(self, model: nn.Module) -> None:
        """Replace, in place, layers that `build` added to the base's architecture by plain ones with the same outputs.

        Called before an export, so that the exported model needs no class of this platform. Raises Unsupported
        where plain layers cannot hold the same function.
        """

    def export_parts(self, model: nn.Module, context: Context) -> ExportParts | None:
        """Return what an exported folder holds of a model, after `merge`; None where it is a transformers model."""
        return None

    def exported(self, model: nn.Module) -> tuple[nn.Module, nn.Linear | None]:
        """Return the model that an export writes, and the linear head that lies beside it where it has no place for it.

        `merge` was called before.
        """
        return model, None

    def configure(self, model: nn.Module, context: Context) -> None:
        """Set up the built model and the processor for the task's fields, in place (languages, generation settings).

        Called once after `build` and before the method adapts the model, in training and serving. Raises Unsupported
        where base, processor and fields do not fit one another.
        """

    def convert(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row with targets, as it was read, with its values in the form that `check` and `encode` take.

        Called once per row before `check`. Raises BadCell for a value that cannot be converted.
        """
        return row

    def check(self, row: Row) -> str | None:
        """Return what is wrong with a row as a message for the user, or None.

        Called once per row: while the snapshot is built, and for every row to predict. `row` has values of the right
        kinds; the target columns may be absent.
        """
        return None

    def remark(self, row: Row) -> str | None:
        """Return what a user should know about a checked row that is usable but doubtful, or None.

        The same text is counted over all rows and reported once, so it names no row.
        """
        return None

    def text_lengths(self, rows: Sequence[Row], context: Context) -> Sequence[TextLengths]:
        """Return how many tokens the texts of these rows have, and how many `encode` reads; by default none is cut.

        `context` is the base's own: the processor and the configuration, without labels.
        """
        return ()

    def length(self, row: Row) -> int:
        """Return a row's length, so that batches hold rows of similar length; a constant if lengths do not matter."""
        return 1

    @abstractmethod
    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return one row as the model's inputs, not padded, with the key `labels` where the row has targets.

        A row that is too long for one pass may be several examples: see `contracts.windows`.

        `train` permits random augmentation, drawn from `row["draw"]` where the row has it. Called in any thread. Raises
        DataError for a row that the model cannot take.
        """

    @abstractmethod
    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return examples as one batch, padded; each value is a tensor (rows, ...) or a list of one entry per row.

        Of rows with several windows, tensors are (windows, ...), and `labels` has a list of windows for each row.
        """

    @abstractmethod
    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch as two scalars, (sum over its rows, weight).

        The training loop divides by the weight summed over workers and micro-batches, so that the result does not
        depend on how rows are distributed over them. `output` is the model's, on the batch without `labels`.
        """

    @property
    def least_rows(self) -> int:
        """The fewest rows of a step from which its loss learns anything; 2 where rows have only one another."""
        return 2 if self.whole_step else 1

    def step_values(self, output: Any) -> Tensor:
        """Return what the loss of a whole step reads of each row, (rows, ...); for tasks with `whole_step`."""
        raise NotImplementedError

    def step_loss(self, values: Tensor, labels: Mapping[str, Tensor], context: Context) -> Tensor:
        """Return the loss of a step from the values and the batch's `labels` of all its rows, over all workers.

        A scalar on the scale of a mean over rows, computed in fp32; for tasks with `whole_step`.
        """
        raise NotImplementedError

    def target_tensor(self, rows: Iterable[Row], context: Context) -> Tensor | None:
        """Return the targets of rows as one tensor (rows, ...), without encoding their inputs.

        None, the default, is for tasks with other outputs than one vector per row. A task that overrides it may have
        its head trained on features alone.
        """
        return None

    def fitted_layer(self, model: nn.Module) -> nn.Module | None:
        """Return the layer of an adapted model that closed-form methods fit; None for the linear head."""
        return None

    def fit_targets(self, batch: Batch) -> Tensor:
        """Return what closed-form methods learn of each row, (rows,) of whole numbers, on the device of the batch.

        By default its labels; -1 is a row that is not learned from.
        """
        found: Tensor = batch["labels"]
        return found

    def usual_labels(self) -> tuple[str, ...]:
        """Return the labels of rows that a fitted layer may learn later, by `Method.learn`; none by default."""
        return ()

    def largest_usual(self, layer: nn.Module) -> float | None:
        """Return the largest score of a row that is beyond doubt usual; None where every row is usual."""
        return None

    def kinds_of(self, records: Sequence[Record]) -> list[str]:
        """Return the kind of each record's row, by which the effect of learning is measured."""
        return [str(record.get("kind", "")) for record in records]

    # Forward passes, metrics and answers.

    def eval_forward(self, forward: Forward, model: nn.Module, batch: Batch, context: Context) -> Any:
        """Return the output from which `records` is computed: by default, that of the forward pass.

        Overridden where metrics need more of the model, such as generated text. `forward(batch)` runs the model as
        wrapped for training, under its precision; `model` is the unwrapped model. Called without gradient, with the
        model in evaluation mode.
        """
        return in_parts(forward, batch)

    def predict_forward(self, forward: Forward, model: nn.Module, batch: Batch, context: Context) -> Any:
        """Return the output from which `answers` is computed: by default, that of the forward pass.

        Overridden where an answer takes several passes, such as generation. Arguments are those of `eval_forward`. The
        serving engine shares passes between models only for tasks that do not override it.
        """
        return in_parts(forward, batch)

    @abstractmethod
    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return what `metrics` and `findings` need of each row of an evaluated batch, one record per row.

        A record holds `error`, which is larger for worse rows and ranks them, and `correct` (0 or 1) where a row
        can be right. Unknown values are None: NaN means that training diverged.
        """

    def complete_records(self, records: Sequence[Record], context: Context) -> list[Record]:
        """Return the records of all rows of an evaluation, each completed by what it needs of the other rows.

        Called once before `metrics`, so that a rank among all rows is the same in every resampling of the records.
        """
        return list(records)

    @abstractmethod
    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return the metrics of an evaluation from the records of all its rows; one of them is `score.name`.

        Must be a function of the multiset of records: intervals resample it with replacement.
        """

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """Return what an evaluation shows besides metrics: tables by class, confusion matrices, curves."""
        return Findings()

    def other_form(self, rows: Iterable[Row], ask: Ask) -> OtherForm | None:
        """Return the metrics of rows that are asked in another form than the one they are evaluated in, or None.

        `ask` returns the model's answers to rows without targets. Called by an evaluation, not in training.
        """
        return None

    @abstractmethod
    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return the answer for each row, JSON-able; `output` is that of `predict_forward`."""

    def example_text(self, text: str, context: Context) -> str:
        """Return an example of an input text for users of an exported model, made of one that fits any task."""
        return text

    def shown(self, row: Row) -> Row:
        """Return a row as a report draws it, where the model sees its input otherwise than it is stored."""
        return row

    # The form of the Inference API.

    def api_form(self) -> ApiForm:
        """Return the form of requests and replies in the Inference API; by default, answers are sent as they are."""
        return own_form()
