"""The contracts everything is built on: what a task, a method, a loss and a data source must answer.

Three of them were settled first. The loss is a pair (sum, weight), so that the result does not depend on how rows fell
on workers and micro-batches. A delta holds final values of parameters and buffers under the base's own names. Data are
an Arrow snapshot read by index, in an order that is a pure function of (seed, epoch, index).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from regraft.contracts.api_form import ApiForm, own_form
from regraft.contracts.column import columns_of
from regraft.contracts.findings import Findings
from regraft.contracts.rows import Answer, Batch, Example, Kind, Numbers, Record, Row
from regraft.plugins import Plugin

if TYPE_CHECKING:
    from torch import Tensor, nn

Forward = Callable[[Batch], Any]
"""A model's forward pass on a batch, whose `labels` are not passed on."""


@dataclass(frozen=True, slots=True)
class Score:
    """The metric that decides which checkpoint is best."""

    name: str
    mode: Literal["min", "max"]

    def better(self, new: float, old: float | None) -> bool:
        """Whether `new` improves on `old`; anything does on None, and nothing that is not a number does."""
        if new != new:
            return False
        if old is None:
            return True
        return new > old if self.mode == "max" else new < old


@dataclass(frozen=True, slots=True)
class Context:
    """What a task needs besides its own fields: the same for training, evaluation and serving."""

    processor: Any
    """The base's tokenizer or image processor."""
    labels: tuple[str, ...]
    """The classes, in the order of the head's outputs; empty where the task has none."""
    config: Any = None
    """The task model's configuration."""
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0
    augment: Literal["off", "light", "strong"] = "off"
    """How much training images are changed; drawn from the row's `draw`."""

    @property
    def index(self) -> dict[str, int]:
        """Label to output index."""
        return {label: number for number, label in enumerate(self.labels)}


class Loader(Protocol):
    """What the bases floor hands to `Task.build`: it makes a model of the base's weights."""

    config: Any
    """The base's transformers configuration."""
    pooling: str | None
    """`mean` or `cls` where a sentence-transformers base says so, else None."""

    def __call__(self, auto: str, *, labels: Sequence[str] = (), **config: Any) -> nn.Module:
        """The base in the transformers Auto class `auto`; what the base lacks is drawn from torch's generator."""
        ...


class Task(Plugin, ABC):
    """What the data mean; one file serves training and serving alike.

    `encode` and `collate` are the only way from a row to a batch, on both sides, so that training and serving
    cannot drift apart.
    """

    family: ClassVar[str] = "tasks"
    auto: ClassVar[str]
    """The transformers Auto class of the task's model."""
    modality: ClassVar[str]
    """The key of the medium: which processor of the base is used."""
    score: ClassVar[Score]
    columns: ClassVar[Mapping[str, Kind]]
    """Every column that the task reads while its fields have their defaults, with its kind."""
    supports: ClassVar[frozenset[str]] = frozenset()
    """Which of class_weights, label_smoothing, bucketing, baselines, prototypes and augment the task has a meaning
    for."""
    api_names: ClassVar[Mapping[str, str]] = {}
    """The task's input columns by other names that clients of the Inference API send."""
    packs: ClassVar[bool] = False
    """Whether the rows kept are others than the rows read: `pack` makes them."""

    def input_columns(self) -> Mapping[str, Kind]:
        """Every column the task reads with these fields, with its kind; `targets` are absent when predicting."""
        return self.columns

    def stored_columns(self) -> Mapping[str, Kind]:
        """The columns of the snapshot: what is read, unless the task packs rows into others."""
        return self.input_columns()

    def target_columns(self) -> frozenset[str]:
        """The columns that hold what the model is to find out: never asked for when predicting."""
        return frozenset(name for name, kind in columns_of(self.input_columns()).items() if kind.target)

    def classes(self) -> tuple[str, ...] | None:
        """The labels where the task's fields fix them; None: they are gathered from the training rows."""
        return None

    def pack(self, rows: Iterable[Row], processor: Any) -> Iterator[dict[str, Any]]:
        """Checked rows of one side as the rows that are kept (documents as blocks of tokens), in order; `packs`."""
        raise NotImplementedError

    def fit_to_rows(self, numbers: Numbers) -> Self:
        """The task with what it takes from the training rows (the scale of its targets) in its fields.

        Asked once when a run begins; the fields of what comes back are kept with every version.
        """
        return self

    def balance(self, counts: Mapping[str, int], rows: int, labels: Sequence[str]) -> list[float]:
        """The weight of each label that `class_weights: balanced` stands for, by how many of the rows have it."""
        return [rows / (len(labels) * max(1, counts.get(label, 0))) for label in labels]

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """The task's model on the base; its new layers are drawn from torch's global generator."""
        return load(self.auto, labels=labels)

    def merge(self, model: nn.Module) -> None:
        """Turn what `build` put into the base's own architecture, in place, into plain layers with the same outputs:
        asked before an export."""

    def configure(self, model: nn.Module, context: Context) -> None:
        """What the built model and the processor must know of each other and of the fields (languages, settings of
        generation); called once, before the method adapts the model, in training and in serving alike."""

    def check(self, row: Row) -> str | None:
        """What is wrong with a row, or None; called once a row when the snapshot is made."""
        return None

    def length(self, row: Row) -> int:
        """A row's cost, for length bucketing; the same for all rows where it does not matter."""
        return 1

    @abstractmethod
    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """One row as the model's inputs; the key `labels` only when the row has them."""

    @abstractmethod
    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Examples as one padded batch."""

    @abstractmethod
    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """(sum over rows, weight): the loop divides by the weight summed over ranks and micro-batches."""

    def eval_forward(self, forward: Forward, model: nn.Module, batch: Batch, context: Context) -> Any:
        """The output that `records` reads: the forward pass, unless the metrics need more of the model (generation).

        `forward(batch)` is the model's forward pass without `labels`; `model` is the unwrapped model.
        """
        return forward(batch)

    def predict_forward(self, forward: Forward, model: nn.Module, batch: Batch, context: Context) -> Any:
        """The output that `answers` reads: the forward pass, unless an answer takes several (generation)."""
        return forward(batch)

    @abstractmethod
    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """What `metrics` needs of each row of an evaluated batch; `correct` (0 or 1) where a row can be right, and
        `error`, larger for worse, by which the worst rows are found. What is unknown is None: a number that is none
        says that training diverged."""

    @abstractmethod
    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Metrics over all rows of an evaluation; holds `score.name`."""

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """What an evaluation shows besides metrics: tables by class, a confusion matrix, curves."""
        return Findings()

    @abstractmethod
    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """What the user gets for each row."""

    def api_form(self) -> ApiForm:
        """Return the form of requests and replies in the Inference API; answers go out as they are by default."""
        return own_form()
