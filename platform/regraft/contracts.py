"""The contracts everything is built on: what a task, a method, a loss and a data source must answer.

Three of them were settled first. The loss is a pair (sum, weight), so that the result does not depend on how rows fell
on workers and micro-batches. A delta holds final values of parameters and buffers under the base's own names. Data are
an Arrow snapshot read by index, in an order that is a pure function of (seed, epoch, index).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from regraft.errors import Unsupported
from regraft.findings import Findings
from regraft.plugins import Plugin

Row = Mapping[str, Any]
"""One row of the snapshot: the columns that the task keeps by name, and `row`, its index; where data are augmented,
also `draw`, a 64-bit number made of (seed, epoch, row) from which every random choice about the row is drawn."""
Example = dict[str, Any]
"""One encoded row, not padded yet."""
Batch = dict[str, Any]
"""Collated examples: tensors, or lists of dicts of tensors and strings; the key `labels` is never passed to the model,
so that it may also hold what answers are made of, and `kept` holds what the frozen part gave for these rows."""
Record = dict[str, Any]
"""What evaluation keeps of one row: small, made of Python numbers, strings and numpy arrays."""
Answer = dict[str, Any]
"""What a user gets for one row; JSON-able."""

Numbers = Callable[[str], NDArray[np.float64]]
"""A column of numbers of the training rows, (rows,), by its name."""

Kind = Literal[
    "text", "texts", "image", "mask", "label", "number", "boxes", "labels", "words", "tags", "messages", "tokens"
]
"""What a column holds. text: str. texts: a list of str; a file may hold one str instead.
image: a path, an s3:// URL or the bytes of an image file. mask: the same, of an image whose pixels are class numbers.
label: str. number: float. boxes: a list of [x, y, width, height] in pixels. labels: a list of str (one per box, where
there are boxes). words: a list of str; whoever predicts may write one str instead. tags: a list of IOB2 tags, one per
word. messages: a list of {role, content}. tokens: a list of int, which no file holds: a task makes it by `pack`."""

TARGETS: frozenset[Kind] = frozenset({"label", "labels", "boxes", "tags", "mask"})
"""Kinds that hold what a model is to find out, unless a task says otherwise."""

Forward = Callable[[Batch], Any]
"""A model's forward pass on a batch, whose `labels` are not passed on."""

Serving = Literal["head", "low_rank", "whole"]
"""How a served model shares its base: all of it up to the head; all with low-rank factors per row; or not at all."""


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


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Where the parts of a task model are; every entry is a name in the model's own module or parameter tree."""

    prefix: str
    """Where the base stands inside the task model (`bert`); empty when the model is the base itself."""
    stem: tuple[str, ...]
    """What comes before the blocks, and whatever the blocks share: frozen from depth 1 on."""
    blocks: tuple[str, ...]
    """The finest sequential units in forward order."""
    head: tuple[str, ...]
    """The task's own layers, which the base does not have."""
    reason: str = ""
    """Why no blocks were found; empty when they were."""
    beside: tuple[tuple[str, ...], ...] = ()
    """For each block, what belongs to it and stands outside it (the downsampling before it); or nothing."""
    idle: tuple[str, ...] = ()
    """What no method trains: constants kept as parameters, and layers of the base whose output nothing reads."""

    def depth(self, written: int | str) -> int:
        """Frozen blocks for an integer, a percentage (`50%`) or `all`; Unsupported says what is allowed."""
        total = len(self.blocks)
        if not total:
            raise Unsupported(f"this base cannot be frozen at a depth: {self.reason}", where="method.depth")
        if written == "all":
            return total
        if isinstance(written, str):
            return round(float(written.removesuffix("%")) / 100 * total)
        if not 0 <= written <= total:
            raise Unsupported(f"{written} is written; this base has {total} blocks: 0 to {total}", where="method.depth")
        return written

    def trunk(self, depth: int) -> tuple[str, ...]:
        """The names that are frozen at that depth: the stem and the first `depth` blocks."""
        return (*self.stem, *(name for block in range(depth) for name in self.members(block))) if depth else ()

    def members(self, block: int) -> tuple[str, ...]:
        """All names of one block; a stem entry inside of it still belongs to the stem."""
        return (self.blocks[block], *(self.beside[block] if self.beside else ()))


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
    modality: ClassVar[Literal["text", "image"]]
    """Which processor of the base is used."""
    score: ClassVar[Score]
    columns: ClassVar[Mapping[str, Kind]]
    """Every column that the task reads while its fields have their defaults, with its kind."""
    supports: ClassVar[frozenset[str]] = frozenset()
    """Which of class_weights, label_smoothing, bucketing, baselines, prototypes and augment the task has a meaning
    for."""
    packs: ClassVar[bool] = False
    """Whether the rows kept are others than the rows read: `pack` makes them."""

    def reads(self) -> Mapping[str, Kind]:
        """Every column the task reads with these fields, with its kind; `targets` are absent when predicting."""
        return self.columns

    def keeps(self) -> Mapping[str, Kind]:
        """The columns of the snapshot: what is read, unless the task packs rows into others."""
        return self.reads()

    def targets(self) -> frozenset[str]:
        """The columns that hold what the model is to find out: never asked for when predicting."""
        return frozenset(name for name, kind in self.reads().items() if kind in TARGETS)

    def classes(self) -> tuple[str, ...] | None:
        """The labels where the task's fields fix them; None: they are gathered from the training rows."""
        return None

    def pack(self, rows: Iterable[Row], processor: Any) -> Iterator[dict[str, Any]]:
        """Checked rows of one side as the rows that are kept (documents as blocks of tokens), in order; `packs`."""
        raise NotImplementedError

    def fitted(self, numbers: Numbers) -> Self:
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

    def settle(self, model: nn.Module, context: Context) -> None:
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

    def examine(self, forward: Forward, model: nn.Module, batch: Batch, context: Context) -> Any:
        """The output that `records` reads: the forward pass, unless the metrics need more of the model (generation).

        `forward(batch)` is the model's forward pass without `labels`; `model` is the unwrapped model.
        """
        return forward(batch)

    def infer(self, forward: Forward, model: nn.Module, batch: Batch, context: Context) -> Any:
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


class Method(Plugin, ABC):
    """Which weights move. The other floors ask these questions and never for a method's name.

    The default `adapt` freezes what `frozen` names: feature extraction, freezing at a depth and full fine-tuning
    differ in that answer alone.
    """

    family: ClassVar[str] = "methods"
    serves: ClassVar[Serving] = "whole"
    closed_form: ClassVar[bool] = False
    """Fitted from sums over the training rows, without gradient steps: `statistics` and `solve`."""

    def depth_of(self, anatomy: Anatomy) -> int:
        """How many blocks stay the base's own function: what the trunk may compute once."""
        return 0

    def frozen(self, model: nn.Module, anatomy: Anatomy) -> tuple[str, ...]:
        """Names of modules (or single parameters) whose values stay the base's."""
        return anatomy.trunk(self.depth_of(anatomy))

    def adapt(self, model: nn.Module, anatomy: Anatomy) -> None:
        """Prepare the model in place, once, before the optimizer and any wrapping."""
        frozen = self.frozen(model, anatomy)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not under(name, frozen))

    def merge(self, model: nn.Module) -> None:
        """Turn an adapted model in place into one of the base's own architecture, with the same outputs."""

    def statistics(self, features: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
        """Closed form: additive statistics of (rows, width) features and (rows,) labels."""
        raise NotImplementedError

    def solve(self, head: nn.Linear, statistics: Mapping[str, Tensor]) -> None:
        """Closed form: write the head from the statistics summed over all rows."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Step:
    """What a loss term sees of one micro-batch."""

    batch: Batch
    output: Any
    features: Tensor | None
    """What the head saw, (rows, width), where the head is one linear layer; else None."""
    progress: float
    """0 at the run's first step, 1 at its last."""


class Loss(Plugin, ABC):
    """What else pulls on the weights; zero or more a run, each with its weight."""

    family: ClassVar[str] = "losses"
    weight: float = Field(1.0, ge=0)
    """Factor of this term beside the task's own loss."""

    @abstractmethod
    def build(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """The term: a module whose `forward(step: Step)` is a scalar on the scale of a mean over rows.

        Called once on the freshly adapted model, before any checkpoint is read into it, so that what the term keeps of
        the model are the base's values. The module's parameters are optimised and checkpointed with the run.
        """


@dataclass(frozen=True, slots=True)
class Raw:
    """One row as a source gives it."""

    values: dict[str, Any]
    where: str = field(compare=False)
    """file:row, for messages."""
    problem: str | None = None
    """Why this one row cannot be read, in words; a source goes on after such a row (`data.bad_rows: skip`)."""


class Source(Plugin, ABC):
    """How a file or folder becomes rows; picked by suffix, by `accepts`, or by `data.format`.

    A source with a field `part` (the arrays of an archive, a split of a data set) reads `path#part` where a spec says
    so, each side of it its own.
    """

    family: ClassVar[str] = "sources"
    suffixes: ClassVar[tuple[str, ...]] = ()

    def accepts(self, path: Path) -> bool:
        """Whether the source reads this path when no format is given."""
        return path.name.lower().endswith(self.suffixes) if self.suffixes else False

    @abstractmethod
    def read(self, path: Path) -> Iterator[Raw]:
        """The rows in file order; a row that cannot be read has a `problem`, DataError is for what ends the file."""


def under(name: str, roots: Iterable[str]) -> bool:
    """Whether a parameter or module name is one of the roots or lies below one."""
    return any(name == root or name.startswith(f"{root}.") for root in roots)


Progress = Callable[[Mapping[str, Any]], None]
"""A sink for live progress: step, steps, loss, rate, and whatever else a run wants to show."""


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter is."""
    return next(model.parameters()).device
