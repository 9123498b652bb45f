"""Answers of many models in one process: a base is there once, an input goes through it once, deltas come as asked.

`encode` and `open` may run in any thread; `answer` is called by one thread at a time (`batching.Batcher`). A pass
holds the engine's one lock, and whatever loads a model holds it for the passes of a trial alone.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, RLock
from typing import Any, Literal

import torch
from torch import Tensor

from regraft.contracts import Answer, Example, medium_of
from regraft.errors import (
    BaseError,
    Damaged,
    NotFound,
    RegraftError,
    RequestError,
    RunError,
    StoreError,
    UnknownPlugin,
    Unsupported,
)
from regraft.plugins import add_folder
from regraft.serving.encoder import TOKENS_ON_GPU, TOKENS_PER_THREAD
from regraft.serving.engine.batch_cost import together
from regraft.serving.engine.forward import LoadedModel, PassOutput, RoutedExample, shared, whole
from regraft.serving.engine.precision import Precision
from regraft.serving.engine.version_loader import ServedVersion, VersionLoader
from regraft.serving.predictor import chosen_device
from regraft.serving.row_checks import MOST_NUMBERS, checked
from regraft.store.names import is_version
from regraft.store.objects import ObjectStore, open_store
from regraft.store.registry import Registry
from regraft.trunk.shapes import sizes_of

__all__ = ["EncodedRow", "Engine", "EngineStats", "RowRequest", "ServedVersion"]

log = logging.getLogger(__name__)

PRICE, PRICE_ON_GPU = 32, 1 << 12
"""Tokens that are computed in the time that a pass takes whatever it holds, on a CPU for each thread."""
AGAIN_S = 5.0
"""A version that could not be opened is tried again after this: reading it anew for each row would cost all others."""
LASTING = (Damaged, BaseError, UnknownPlugin, Unsupported)
"""What is as wrong a moment later."""
KERNELS = 48
"""That oneDNN keeps. Making one anew costs too little to be seen in the time of a pass."""
MOST_ROWS = 256
"""Rows of one pass, those that are computed once for many models counted each."""


@dataclass(frozen=True, slots=True)
class RowRequest:
    """One row for one model."""

    model: str
    version: str
    """`v3`, never an alias."""
    row: Mapping[str, Any]
    """The task's columns without its targets."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRow:
    """A row that fits its model, as the model reads it."""

    served: ServedVersion
    loaded: LoadedModel
    """How it is computed."""
    example: Example
    key: Any
    """Equal for rows that give a model the same inputs."""
    cost: int
    """Tokens, or pixels."""
    unit: Literal["token", "pixel"]
    shapes: tuple[Any, ...]
    """Of its images: only those of one size share a batch."""

    @property
    def group(self) -> Any:
        """Equal for rows that one pass can compute together."""
        suffix = self.loaded.suffix
        return id(self.loaded) if suffix is None else id(suffix.prefix_frame), self.shapes

    @property
    def work(self) -> Any:
        """Equal for rows of a group that are computed once up to where their models part."""
        return id(self.loaded.factors) if self.loaded.factors else 0, self.key


@dataclass(frozen=True)
class LoadedBase:
    """A base in memory."""

    reference: str
    hash: str
    bytes: int
    precision: str
    models: int


@dataclass(frozen=True)
class EngineStats:
    """What an engine holds, and what it did."""

    bases: tuple[LoadedBase, ...]
    models: Mapping[str, int]
    """Bytes of each model's delta, by `name@version`, the least recently used first."""
    bytes: int
    """Of all deltas."""
    loads: int
    evictions: int
    rows: int
    """Answered."""
    passes: int


class Engine:
    """Models of one registry, ready to answer."""

    def __init__(
        self,
        store: ObjectStore | str,
        *,
        device: str = "auto",
        budget_bytes: int = 2 << 30,
        precision: Precision = "fp32",
        plugins: Sequence[str | Path] = (),
        bases: Mapping[str, str] | None = None,
    ) -> None:
        """`budget_bytes` is for deltas; bases come beside it. `bases` says where a base is now, by its hash.

        `precision` auto is bf16 for each base where the processor has it and the answers of the first model stay what
        they are, else fp32; a log line says which, and why.
        """
        # Before anything is computed: oneDNN keeps a kernel for every size of batch, and meets hundreds (100 MB).
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
        for folder in plugins:
            add_folder(Path(folder).expanduser())
        self._store = open_store(store) if isinstance(store, str) else store
        self._device = chosen_device(device)
        self._computing = RLock()
        self._opener = VersionLoader(self._store, self._device, precision, dict(bases or {}), self._computing)
        self._budget = budget_bytes
        self._lock = Lock()
        """Never held while anything is read or computed."""
        self._served: OrderedDict[tuple[str, str], ServedVersion] = OrderedDict()
        self._opening: dict[tuple[str, str], Future[ServedVersion]] = {}
        self._broken: dict[tuple[str, str], tuple[float, RegraftError]] = {}
        """What was wrong with versions a moment ago, and until when that is taken for granted."""
        self._loads = self._evictions = self._rows = self._passes = 0

    def open(self, model: str, version: str) -> ServedVersion:
        """The version, loaded unless it is here and still the store's; callers of the same one wait for one load.

        Raises NotFound, BaseError, WrongBase, Damaged, UnknownPlugin, Unsupported. Where the store cannot be reached,
        a version that is here goes on answering.
        """
        here = self._found(model, version)
        if here is not None:
            try:
                if Registry(self._store).version(model, version).id == here.hash:
                    return here
            except NotFound:
                self._forget(here)
                raise
            except StoreError as error:
                log.warning("%s answers from memory: %s", here, error)
                return here
            self._forget(here)
        return self._loaded(model, version)

    def holds(self, model: str, version: str) -> bool:
        """Whether the version is loaded now."""
        return (model, version) in self._served

    def encode(self, ask: RowRequest) -> EncodedRow:
        """The row as its model reads it; DataError for one that does not fit, and what `open` raises."""
        served = self._found(ask.model, ask.version) or self._loaded(ask.model, ask.version)
        loaded = served.loaded
        row = checked(served.task, [ask.row])[0]
        with loaded.frame.tokenizer_lock if medium_of(served.task.modality).serial else nullcontext():
            example = loaded.task.encode(row, loaded.context, train=False)
        inputs = [value for name, value in example.items() if name != "labels"]
        shapes = tuple(tuple(value.shape) for value in inputs if isinstance(value, Tensor) and value.ndim > 1)
        pixels = sum(shape[-1] * shape[-2] for shape in shapes)
        tokens = [len(value) for value in inputs if isinstance(value, list | tuple) or _is_row(value)]
        loaded = served.apart if _strange(loaded, example) else loaded
        unit: Literal["token", "pixel"] = "pixel" if pixels else "token"
        return EncodedRow(served, loaded, example, _key(example), pixels or max([1, *tokens]), unit, shapes)

    def answer(self, items: Sequence[EncodedRow]) -> list[Answer | RegraftError]:
        """One answer an item, in order, whatever models they are for; an item that fails has its error instead."""
        found: list[Any] = [None] * len(items)
        for part in self._parts(items):
            rows = [items[place] for place in part]
            for place, answer in zip(part, self._answered(rows), strict=True):
                found[place] = answer
        self._rows += len(items)
        return found

    def stats(self) -> EngineStats:
        """What is in memory now, and what was done so far."""
        with self._lock:
            served = list(self._served.values())
        bases = tuple(
            LoadedBase(
                weights.base.reference,
                weights.base.hash,
                weights.nbytes,
                str(weights.dtype).removeprefix("torch."),
                sum(one.loaded.frame.weights is weights for one in served),
            )
            for weights in list(self._opener.weights.values())
        )
        return EngineStats(
            bases=bases,
            models={str(one): one.bytes for one in served},
            bytes=sum(one.bytes for one in served),
            loads=self._loads,
            evictions=self._evictions,
            rows=self._rows,
            passes=self._passes,
        )

    def _found(self, model: str, version: str) -> ServedVersion | None:
        with self._lock:
            found = self._served.get((model, version))
            if found is not None:
                self._served.move_to_end((model, version))
            return found

    def _forget(self, served: ServedVersion) -> None:
        with self._lock:
            if self._served.get((served.model, served.version)) is served:
                del self._served[served.model, served.version]

    def _loaded(self, model: str, version: str) -> ServedVersion:
        if not is_version(version):
            raise RequestError(
                f"{version!r} is written; allowed is a version such as v3, for what an alias means moves"
            )
        key = model, version
        with self._lock:
            until, error = self._broken.get(key, (0.0, None))
            if error is not None and time.monotonic() < until:
                raise copy(error)
            waiting = self._opening.get(key)
            mine = waiting is None
            if waiting is None:
                waiting = self._opening[key] = Future()
        if not mine:
            return waiting.result()
        try:
            served = self._opener.open(model, version)
        except BaseException as error:
            with self._lock:
                del self._opening[key]
                if isinstance(error, LASTING):
                    self._remember(key, copy(error))
            waiting.set_exception(error)
            raise
        with self._lock:
            del self._opening[key]
            self._served[key] = served
            self._loads += 1
            self._make_room()
        waiting.set_result(served)
        return served

    def _remember(self, key: tuple[str, str], error: RegraftError) -> None:
        now = time.monotonic()
        self._broken = {key: kept for key, kept in self._broken.items() if kept[0] > now}
        self._broken[key] = now + AGAIN_S, error

    def _make_room(self) -> None:
        """Let the least recently used go; rows that are on their way keep what they need until they are answered."""
        while len(self._served) > 1 and sum(one.bytes for one in self._served.values()) > self._budget:
            self._served.popitem(last=False)
            self._evictions += 1

    def _parts(self, items: Sequence[EncodedRow]) -> Iterator[list[int]]:
        """Places of each pass: rows of one group, like lengths together, within what a pass may hold."""
        groups: dict[Any, list[int]] = defaultdict(list)
        for place, item in enumerate(items):
            groups[item.group].append(place)
        for places in groups.values():
            rows = [items[place] for place in places]
            for part in together(
                [row.work for row in rows],
                [row.cost for row in rows],
                price=self.price(),
                budget=self.budget(rows[0].unit),
                most=MOST_ROWS,
            ):
                yield [places[number] for number in part]

    def budget(self, unit: Literal["token", "pixel"]) -> int:
        """Tokens or pixels, padding included, of a pass that keeps the processor busy and its memory small."""
        if unit == "pixel":
            return MOST_NUMBERS // 3
        return TOKENS_ON_GPU if self._device.type == "cuda" else TOKENS_PER_THREAD * torch.get_num_threads()

    def price(self) -> int:
        """Tokens that are computed in the time that a pass takes whatever it holds."""
        return PRICE_ON_GPU if self._device.type == "cuda" else PRICE * torch.get_num_threads()

    def _answered(self, items: Sequence[EncodedRow]) -> list[Answer | RegraftError]:
        rows = [RoutedExample(item.loaded, item.example, item.key) for item in items]
        try:
            if rows[0].loaded.suffix is None or _of_one(rows):
                return self._read(rows, [self._pass(rows)])
            with self._computing, rows[0].loaded.frame.weights.inference_context():
                self._passes += 1
                return self._read(rows, list(shared(rows)))
        except Exception:
            log.warning("a batch failed; its rows are computed one by one", exc_info=True)
        return [self._alone(item, row) for item, row in zip(items, rows, strict=True)]

    def _pass(self, rows: Sequence[RoutedExample]) -> PassOutput:
        with self._computing, rows[0].loaded.frame.weights.inference_context():
            self._passes += 1
            return whole(rows)

    def _read(self, rows: Sequence[RoutedExample], computed: Sequence[PassOutput]) -> list[Answer | RegraftError]:
        found: list[Any] = [None] * len(rows)
        for part in computed:
            answers = part.loaded.task.answers(part.output, part.batch, part.loaded.context)
            for place, answer in zip(part.places, answers, strict=True):
                found[place] = answer
        return found

    def _alone(self, item: EncodedRow, row: RoutedExample) -> Answer | RegraftError:
        try:
            return self._read([row], [self._pass([row])])[0]
        except RegraftError as error:
            return error
        except Exception as error:
            told = f"it could not be answered: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return RunError(told, where=str(item.served))


def _of_one(rows: Sequence[RoutedExample]) -> bool:
    """Whether nothing is shared: the rows are of one model, and all differ."""
    return all(row.loaded is rows[0].loaded for row in rows) and len({row.key for row in rows}) == len(rows)


def _is_row(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 1


def _strange(loaded: LoadedModel, example: Example) -> bool:
    """Whether a row has other sizes than those by which its model was cut: an image that keeps its proportions."""
    if loaded.suffix is None or not loaded.suffix.cut.sizes.fixed:
        return False
    adapted = loaded.suffix.frame.adapted
    return bool(loaded.suffix.cut.sizes.broken_by(sizes_of(adapted.task.collate([dict(example)], adapted.context))))


def _key(example: Example) -> Any:
    """What a row gives its model, short and the same for the same inputs."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(example.items()):
        if name == "labels":
            continue
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.contiguous().numpy().tobytes())
        else:
            digest.update(f"{name} {value!r} ".encode())
    return digest.digest()
