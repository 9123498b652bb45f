"""A registered version loaded on its base, which turns rows into answers in this process."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.delta import apply_delta
from regraft.bases.derived_base import base_named
from regraft.bases.load import load_processor
from regraft.bases.locate import Base
from regraft.bases.safetensors_header import find_problem
from regraft.bases.safety import check_harmless
from regraft.bases.tensor_files import read_tensors
from regraft.contracts import Answer, Batch, Example, Method, Row, Task
from regraft.errors import BaseError, Damaged, DataError, RequestError, UnknownPlugin, Unsupported, WrongBase
from regraft.plugins import Plugin, add_folder
from regraft.serving.row_checks import batches, check_rows
from regraft.serving.training_names import training_names
from regraft.serving.version_files import PROCESSOR, Fetched, fetch, loading
from regraft.spec.column_names import Names
from regraft.store.extension_panics import panics_as_damage
from regraft.store.objects import ObjectStore, open_store

P = TypeVar("P", bound=Plugin)
_Read = Callable[[Any, Batch], list[Any]]
"""Turns an output and its batch into one result per row."""


class Predictor:
    """A version on its base, in eval mode and fp32; answers do not depend on the other rows of a call."""

    def __init__(self, adapted: Adapted, fetched: Fetched, device: torch.device) -> None:
        self.adapted = adapted
        self.fetched = fetched
        self.device = device
        adapted.model.to(device)
        adapted.eval_mode()

    @classmethod
    def open(
        cls,
        store: ObjectStore | str,
        reference: str,
        *,
        plugins: Sequence[str | Path] = (),
        device: str = "auto",
        base: str | None = None,
    ) -> Self:
        """Load the version that `name[@alias|@version]` refers to.

        Its files are fetched once and verified at every use. The base is expected at the version's own reference, or
        at `base`, and must be the one that the version was trained on. `plugins` are the folders of the user's own
        task or method; `device` is auto (cuda if there is one), cpu, cuda or cuda:1.

        Raises NotFound, Damaged, BaseError, WrongBase, UnknownPlugin.
        """
        chosen = resolve_device(device)
        for folder in plugins:
            add_folder(Path(folder).expanduser())
        fetched = fetch(open_store(store) if isinstance(store, str) else store, reference)
        return cls(load_adapted(fetched, base), fetched, chosen)

    @property
    def name(self) -> str:
        """`model@version`."""
        return str(self.fetched.version)

    @property
    def hash(self) -> str:
        """Id of the version's manifest, which every HTTP answer carries."""
        return self.fetched.version.id

    @property
    def meta(self) -> Mapping[str, Any]:
        """The version's metadata: labels, metrics, lineage."""
        return self.fetched.meta

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the head's outputs."""
        return self.adapted.context.labels

    def __repr__(self) -> str:
        task, method = self.adapted.task.key(), self.adapted.method.key()
        return f"Predictor({self.name}, {task} by {method} on {self.adapted.base.reference}, {self.device})"

    @cached_property
    def column_names(self) -> Mapping[str, Names]:
        """The columns' names in the training files, by the task's; empty where they are the task's own."""
        return training_names(self.fetched)

    def predict(self, rows: Any) -> list[Answer]:
        """Return one answer per row, in order; its fields depend on the task (`regraft show tasks NAME`).

        `rows` is a list of rows, a table (pandas, pyarrow, Polars, `datasets`), or one row, which gets a list of one
        answer. A row holds the task's columns without the targets, under the task's names or those of the training
        files. For a task with one input its value suffices: a text, a list of words, what a chat's user says, or a
        picture (path, bytes, PIL image, array of 8 bits). Raises DataError, which names the first row that does not
        fit.
        """
        good = check_rows(self.adapted.task, rows, self.column_names)
        return self._results(good, self._read_answers, self._forward)

    def attempt(self, rows: Sequence[Row]) -> list[Answer | DataError]:
        """Return answers as `predict` does, for rows whose columns were checked before, each with its number `row`.

        A row that cannot be encoded, such as a truncated image, gets its DataError in place of an answer.
        """
        return self._attempted(rows, self._read_answers, self._forward)

    def features(self, rows: Sequence[Row]) -> list[Tensor | DataError]:
        """Return the input of the head's one linear layer for each row, (width,) on the CPU.

        Rows and errors as in `attempt`. Raises Unsupported when the head is not a single linear layer.
        """
        self.adapted.linear_head()
        return self._attempted(rows, lambda output, _: list(output.float().cpu()), self.adapted.features)

    def logits(self, rows: Any) -> Tensor:
        """Return the model's logits, (rows, labels) for one label a row, on the CPU; rows as in `predict`."""
        task = self.adapted.task
        good = check_rows(task, rows, self.column_names)
        found = self._results(good, lambda output, _: list(_logits(task, output).float().cpu()), self.adapted.forward)
        return torch.stack(found) if found else torch.zeros(0, len(self.labels))

    def _forward(self, batch: Batch) -> Any:
        return self.adapted.task.predict_forward(self.adapted.forward, self.adapted.model, batch, self.adapted.context)

    def _read_answers(self, output: Any, batch: Batch) -> list[Answer]:
        return self.adapted.task.answers(output, batch, self.adapted.context)

    def _results(
        self, rows: Sequence[Row], read: _Read, run: Callable[[Batch], Any], failed: dict[int, DataError] | None = None
    ) -> list[Any]:
        """Return what `read` gives for each row of the outputs of `run`; `failed` as in `_outputs`."""
        results: list[Any] = [None] * len(rows)
        for positions, output, batch in self._outputs(rows, run, failed):
            for position, result in zip(positions, read(output, batch), strict=True):
                results[position] = result
        return results

    def _attempted(self, rows: Sequence[Row], read: _Read, run: Callable[[Batch], Any]) -> list[Any]:
        failed: dict[int, DataError] = {}
        results = self._results(rows, read, run, failed)
        return [failed.get(int(row["row"]), result) for row, result in zip(rows, results, strict=True)]

    def _outputs(
        self, rows: Sequence[Row], run: Callable[[Batch], Any], failed: dict[int, DataError] | None = None
    ) -> Iterator[tuple[list[int], Any, Batch]]:
        """Yield positions, output and batch of each batch.

        The DataError of a row that cannot be encoded is raised, or put into `failed` by the row's number if given.
        """
        task, context = self.adapted.task, self.adapted.context

        def encode(row: Row) -> Example | None:
            try:
                with panics_as_damage("its tokenizer or image processor", self.name):
                    return task.encode(row, context, train=False)
            except DataError as error:
                if failed is None:
                    raise
                failed[int(row["row"])] = error
                return None

        for positions, examples in batches(task, rows, encode):
            batch = to_device(task.collate(examples, context), self.device)
            with torch.inference_mode():
                output = run(batch)
            yield positions, output, batch


def load_adapted(fetched: Fetched, base: str | None = None) -> Adapted:
    """Build the base with the version's delta applied, on the CPU."""
    with loading(fetched):
        return _adapted(fetched, base)


def _adapted(fetched: Fetched, base: str | None) -> Adapted:
    meta = fetched.meta
    task, method = parse_member(Task, meta["task"], fetched), parse_member(Method, meta["method"], fetched)  # type: ignore[type-abstract]
    found = version_base(fetched, base)
    adapted = adapt(
        found,
        Adaptation(
            task=task, method=method, labels=tuple(meta["labels"]), seed=int(meta["seed"]), dropout=meta.get("dropout")
        ),
        processor=version_processor(task, found, fetched),
    )
    apply_delta(adapted, _tensors(fetched))
    return adapted


def version_processor(task: Task, base: Base, fetched: Fetched) -> Any:
    """Load the version's own tokenizer or image processor: the base's may have changed since training.

    The base's configuration is put beside the files while they are read, as in training: transformers derives a
    tokenizer's class from it when the tokenizer's own file names none.
    """
    check_harmless(fetched.processor, str(fetched.version))
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        shutil.copytree(fetched.processor, folder, dirs_exist_ok=True)
        shutil.copyfile(base.path / "config.json", Path(folder) / "config.json")
        try:
            return load_processor(replace(base, path=Path(folder)), task.modality)
        except BaseError as error:  # not the base's: the files are the version's own
            raise Damaged(f"its {PROCESSOR}/ files: {error.message}", where=str(fetched.version)) from error


def version_base(fetched: Fetched, elsewhere: str | None = None) -> Base:
    """Find the base that the version was trained on. Raises BaseError, and WrongBase when its hash differs."""
    wanted, where = fetched.meta["base"], str(fetched.version)
    reference = elsewhere or str(wanted["reference"])
    why = (
        f"the version was trained on {wanted['reference']} with that hash, and its delta fits no other base. Put the "
        "base back as it was, or pass base= with where the same base is"
    )
    try:
        return base_named(fetched.version.store, reference, str(wanted["hash"]), why, where=where)
    except WrongBase:
        raise
    except BaseError as error:
        raise BaseError(
            f"its base cannot be used: {error}. Put it there again, or pass base= with where the same base is",
            where=where,
        ) from error


def parse_member(root: type[P], written: Mapping[str, Any], fetched: Fetched) -> P:
    """Return the version's task or method from its stored form.

    Raises UnknownPlugin when a plugin folder is needed, and Unsupported when its fields do not fit this regraft.
    """
    where = str(fetched.version)
    try:
        found = root.lookup(str(written.get("type", "")))
        return found.model_validate({key: value for key, value in written.items() if key != "type"})
    except UnknownPlugin as error:
        file = f"{root.family}/{str(written['type']).replace('-', '_')}.py"
        message = f"{error.message} It was made with a plugin: pass plugins=[folder], the folder that holds {file}."
        raise UnknownPlugin(message, where=where) from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        made = fetched.meta.get("versions", {}).get("regraft", "unknown")
        raise Unsupported(
            f"its {root.family} entry does not fit this regraft ({problems}); it was made by regraft {made}: use that",
            where=where,
        ) from error


def resolve_device(written: str) -> torch.device:
    """Return the device for auto, cpu, cuda or cuda:1. Raises RequestError when this machine lacks it."""
    if written == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(written)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(
            f"{written!r} is written; allowed are auto, cpu, and cuda or cuda:1 where there is one", where="device"
        ) from error
    return device


def to_device(value: Any, device: torch.device) -> Any:
    """Return a batch, or a value inside one, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list):
        return [to_device(item, device) for item in value]
    return value


def _tensors(fetched: Fetched) -> dict[str, Tensor]:
    if wrong := find_problem(fetched.delta):
        raise Damaged(f"delta.safetensors {wrong}", where=str(fetched.version))
    return read_tensors(fetched.delta, str(fetched.version))


def _logits(task: Task, output: Any) -> Tensor:
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise Unsupported(f"the model of task {task.key()} has no logits: use predict")
    return logits
