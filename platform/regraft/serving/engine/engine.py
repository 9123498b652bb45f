"""Answers of many models in one process: one copy of each base, one pass per input, deltas loaded on demand.

All methods may run in any thread; `answer` is called by few (`batcher.Batcher`). Each pass holds the engine's one lock,
and turning outputs into answers does not; loading a model takes it only for the passes that verify the model.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from threading import RLock
from typing import Any, Literal

import torch
from torch import Tensor

from regraft.bases.locate import Base
from regraft.contracts import Answer, Example, medium_of, windows_of
from regraft.errors import DataError, NotFound, RegraftError, RequestError, RunError, StoreError
from regraft.serving.encoder import TOKENS_ON_GPU, TOKENS_PER_THREAD
from regraft.serving.engine.batch_cost import group_into_passes
from regraft.serving.engine.forward import LoadedModel, PassOutput, RoutedExample, forward_alone, forward_shared
from regraft.serving.engine.precision import Precision
from regraft.serving.engine.version_cache import VersionCache
from regraft.serving.engine.version_loader import ServedVersion, VersionLoader
from regraft.serving.predictor import resolve_device
from regraft.serving.row_checks import MAX_BATCH_NUMBERS, check_rows, with_column
from regraft.store.extension_panics import panics_as_damage
from regraft.store.names import is_version
from regraft.store.objects import ObjectStore, open_store
from regraft.store.registry import Registry
from regraft.trunk.shapes import sizes_of

__all__ = ["EncodedRow", "Engine", "EngineStats", "RowRequest", "ServedVersion"]

log = logging.getLogger(__name__)

PASS_OVERHEAD, PASS_OVERHEAD_ON_GPU = 32, 1 << 12
"""Fixed cost of a forward pass, in tokens that take as long to compute; on a CPU for each thread."""
ONEDNN_KERNELS = 48
"""Kernels that oneDNN caches. Building one again takes too little of a pass's time to be measurable."""
MAX_PASS_ROWS = 256
"""Rows of one pass; rows of several models that are computed once count each."""


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
    """A checked row as its model reads it."""

    served: ServedVersion
    loaded: LoadedModel
    """The model that computes it."""
    example: Example
    key: Any
    """Equal for rows that give a model the same inputs."""
    cost: int
    """Tokens, or pixels."""
    unit: Literal["token", "pixel"]
    shapes: tuple[Any, ...]
    """Shapes of its images: only images of one size share a batch."""

    @property
    def group(self) -> Any:
        """Equal for rows that one pass can compute together."""
        suffix = self.loaded.suffix
        return id(self.loaded) if suffix is None else id(suffix.prefix_frame), self.shapes

    @property
    def work(self) -> Any:
        """Equal for rows of a group whose shared prefix is computed once for all of them."""
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
    """The contents and counters of an engine."""

    bases: tuple[LoadedBase, ...]
    models: Mapping[str, int]
    """Bytes of each model's delta by `name@version`, the least recently used first."""
    bytes: int
    """Bytes of all deltas."""
    loads: int
    evictions: int
    rows: int
    """Rows answered."""
    passes: int


class Engine:
    """Answers rows of the models of one registry."""

    def __init__(
        self,
        store: ObjectStore | str,
        *,
        device: str = "auto",
        budget_bytes: int = 2 << 30,
        precision: Precision = "fp32",
        bases: Mapping[str, str] | None = None,
    ) -> None:
        """`budget_bytes` bounds the deltas; bases are not counted. `bases` gives the current place of bases by hash.

        `precision` auto is bf16 for each base where the processor supports it and it leaves the answers of the first
        model unchanged, else fp32; a log line gives the choice and the reason.
        """
        # Before the first pass: oneDNN caches a kernel for every batch size, of which there are hundreds (100 MB).
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(ONEDNN_KERNELS))
        self._store = open_store(store) if isinstance(store, str) else store
        self._device = resolve_device(device)
        self._computing = RLock()
        self._loader = VersionLoader(
            self._store, self._device, precision=precision, bases=dict(bases or {}), guard=self._computing
        )
        self._cache = VersionCache(lambda model, version: self._loader.open(model, version), budget_bytes)
        self._rows = self._passes = 0

    def open(self, model: str, version: str) -> ServedVersion:
        """Return the version, loaded unless it is in memory and unchanged in the store.

        Concurrent callers of one version wait for a single load. When the store cannot be reached, a version in memory
        goes on answering. Raises NotFound, BaseError, WrongBase, Damaged, UnknownPlugin, Unsupported.
        """
        cached = self._cache.get(model, version)
        if cached is not None:
            try:
                if Registry(self._store).version(model, version).id == cached.hash:
                    return cached
            except NotFound:
                self._cache.discard(cached)
                raise
            except StoreError as error:
                log.warning("%s answers from memory: %s", cached, error)
                return cached
            self._cache.discard(cached)
        return self._load(model, version)

    def holds(self, model: str, version: str) -> bool:
        """Return whether the version is loaded now."""
        return (model, version) in self._cache

    def encode(self, request: RowRequest) -> EncodedRow:
        """Return the row as its model reads it. Raises DataError for one that does not fit, and errors of `open`."""
        served = self._cache.get(request.model, request.version) or self._load(request.model, request.version)
        loaded = served.loaded
        row = check_rows(served.task, [request.row])[0]
        with loaded.frame.tokenizer_lock if medium_of(served.task.modality).serial else nullcontext():
            try:
                with panics_as_damage("its tokenizer or image processor", str(served)):
                    example = loaded.task.encode(row, loaded.context, train=False)
            except DataError as error:
                raise DataError(with_column(served.task, error.message), error.where) from error
        windows = windows_of(example)
        shapes = tuple(shape for window in windows for shape in _picture_shapes(window))
        pixels = sum(shape[-1] * shape[-2] for shape in shapes)
        alone = len(windows) > 1 or _breaks_cut(loaded, example)  # a shared pass counts on one slice for each row
        loaded = served.unshared if alone else loaded
        unit: Literal["token", "pixel"] = "pixel" if pixels else "token"
        cost = pixels or sum(map(_longest_input, windows))
        return EncodedRow(served, loaded, example, _input_key(windows), cost, unit, shapes)

    def answer(self, items: Sequence[EncodedRow]) -> list[Answer | RegraftError]:
        """Return one answer per row, in order, for any mix of models; a row that fails has its error instead."""
        found: list[Any] = [None] * len(items)
        for positions in self._passes_over(items):
            answers = self._answer_pass([items[position] for position in positions])
            for position, answer in zip(positions, answers, strict=True):
                found[position] = answer
        with self._computing:
            self._rows += len(items)
        return found

    def stats(self) -> EngineStats:
        """Return what is in memory now, and the counters so far."""
        served = self._cache.versions()
        return EngineStats(
            bases=self._loaded_bases(served),
            models={str(one): one.bytes for one in served},
            bytes=sum(one.bytes for one in served),
            loads=self._cache.loads,
            evictions=self._cache.evictions,
            rows=self._rows,
            passes=self._passes,
        )

    def bases(self) -> list[Base]:
        """Return the bases in memory."""
        return [weights.base for weights in list(self._loader.weights.values())]

    def budget(self, unit: Literal["token", "pixel"]) -> int:
        """Return the tokens or pixels of a pass, padding included, that use the processor fully and little memory."""
        if unit == "pixel":
            return MAX_BATCH_NUMBERS // 3
        return TOKENS_ON_GPU if self._device.type == "cuda" else TOKENS_PER_THREAD * torch.get_num_threads()

    def pass_overhead(self) -> int:
        """Return the fixed cost of a forward pass, in tokens that take as long to compute."""
        return PASS_OVERHEAD_ON_GPU if self._device.type == "cuda" else PASS_OVERHEAD * torch.get_num_threads()

    def _load(self, model: str, version: str) -> ServedVersion:
        if not is_version(version):
            raise RequestError(
                f"{version!r} is written; allowed is a version such as v3: an alias may move to another version"
            )
        return self._cache.load(model, version)

    def _loaded_bases(self, served: Sequence[ServedVersion]) -> tuple[LoadedBase, ...]:
        return tuple(
            LoadedBase(
                weights.base.reference,
                weights.base.hash,
                weights.nbytes,
                str(weights.dtype).removeprefix("torch."),
                sum(one.loaded.frame.weights is weights for one in served),
            )
            for weights in list(self._loader.weights.values())
        )

    def _passes_over(self, items: Sequence[EncodedRow]) -> Iterator[list[int]]:
        """Yield the positions of each pass: rows of one group and of like lengths, within the limits of a pass."""
        groups: dict[Any, list[int]] = defaultdict(list)
        for position, item in enumerate(items):
            groups[item.group].append(position)
        for positions in groups.values():
            rows = [items[position] for position in positions]
            for part in group_into_passes(
                [row.work for row in rows],
                [row.cost for row in rows],
                overhead=self.pass_overhead(),
                budget=self.budget(rows[0].unit),
                max_rows=MAX_PASS_ROWS,
            ):
                yield [positions[number] for number in part]

    def _answer_pass(self, items: Sequence[EncodedRow]) -> list[Answer | RegraftError]:
        rows = [RoutedExample(item.loaded, item.example, item.key) for item in items]
        try:
            if rows[0].loaded.suffix is None or _shares_nothing(rows):
                return self._answers(rows, [self._forward(rows)])
            return self._answers(rows, self._forward_shared(rows))
        except Exception:
            log.warning("a batch failed; its rows are computed one by one", exc_info=True)
        return [self._answer_alone(item, row) for item, row in zip(items, rows, strict=True)]

    def _forward_shared(self, rows: Sequence[RoutedExample]) -> list[PassOutput]:
        with self._computing, rows[0].loaded.frame.weights.inference_context():
            self._passes += 1
            return list(forward_shared(rows))

    def _forward(self, rows: Sequence[RoutedExample]) -> PassOutput:
        with self._computing, rows[0].loaded.frame.weights.inference_context():
            self._passes += 1
            return forward_alone(rows)

    def _answers(self, rows: Sequence[RoutedExample], outputs: Sequence[PassOutput]) -> list[Answer | RegraftError]:
        found: list[Any] = [None] * len(rows)
        for part in outputs:
            answers = part.loaded.task.answers(part.output, part.batch, part.loaded.context)
            for position, answer in zip(part.positions, answers, strict=True):
                found[position] = answer
        return found

    def _answer_alone(self, item: EncodedRow, row: RoutedExample) -> Answer | RegraftError:
        try:
            return self._answers([row], [self._forward([row])])[0]
        except DataError as error:
            return DataError(with_column(item.served.task, error.message), error.where)
        except RegraftError as error:
            return error
        except Exception as error:
            cause = " ".join(str(error).split())[:300]
            return RunError(f"it could not be answered: {type(error).__name__}: {cause}", where=str(item.served))


def _shares_nothing(rows: Sequence[RoutedExample]) -> bool:
    """Return whether a shared pass would save nothing: the rows are of one model, and all inputs differ."""
    return all(row.loaded is rows[0].loaded for row in rows) and len({row.key for row in rows}) == len(rows)


def _inputs_of(window: Example) -> list[Any]:
    return [value for name, value in window.items() if name != "labels"]


def _picture_shapes(window: Example) -> Iterator[tuple[int, ...]]:
    return (tuple(value.shape) for value in _inputs_of(window) if isinstance(value, Tensor) and value.ndim > 1)


def _longest_input(window: Example) -> int:
    """Return the length of the longest input."""
    return max([1, *(len(value) for value in _inputs_of(window) if isinstance(value, list | tuple) or _vector(value))])


def _vector(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 1


def _breaks_cut(loaded: LoadedModel, example: Example) -> bool:
    """Return whether a row has sizes that its model's cut does not cover, such as an image of other proportions."""
    if loaded.suffix is None or not loaded.suffix.cut.sizes.fixed:
        return False
    adapted = loaded.suffix.frame.adapted
    return bool(loaded.suffix.cut.sizes.broken_by(sizes_of(adapted.task.collate([dict(example)], adapted.context))))


def _input_key(windows: Sequence[Example]) -> Any:
    """Return a short hash of the inputs that a row gives its model."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in (item for window in windows for item in sorted(window.items())):
        if name == "labels":
            continue
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.contiguous().numpy().tobytes())
        else:
            digest.update(f"{name} {value!r} ".encode())
    return digest.digest()
