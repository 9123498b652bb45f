"""What does a registered model answer? A version opened on its base, and rows turned into answers, in this process."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.delta import apply_delta
from regraft.bases.load import load_processor
from regraft.bases.locate import Base, base_named
from regraft.bases.safetensors_header import find_problem
from regraft.bases.safety import check_harmless
from regraft.contracts import Answer, Batch, Example, Method, Row, Task
from regraft.errors import BaseError, Damaged, DataError, RequestError, UnknownPlugin, Unsupported, WrongBase
from regraft.plugins import Plugin, add_folder
from regraft.serving.row_checks import batches, checked
from regraft.serving.version_files import Fetched, fetch
from regraft.store.objects import ObjectStore, open_store

P = TypeVar("P", bound=Plugin)


class Predictor:
    """A version on its base, in eval mode and fp32; answers do not depend on what else is asked at the same time."""

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
        """The version that `name[@alias|@version]` means, ready to answer.

        Its files are fetched once and verified at every use. The base is looked for where the version says, or at
        `base`, and is taken only when it is the very one that the version was made on. `plugins` are the folders of
        the user's own task or method that it needs; `device` is auto (cuda where there is one), cpu, cuda or cuda:1.

        Raises NotFound, Damaged, BaseError, WrongBase, UnknownPlugin, each saying what to do.
        """
        chosen = chosen_device(device)
        for folder in plugins:
            add_folder(Path(folder).expanduser())
        fetched = fetch(open_store(store) if isinstance(store, str) else store, reference)
        return cls(assembled(fetched, base), fetched, chosen)

    @property
    def name(self) -> str:
        """`model@version`."""
        return str(self.fetched.version)

    @property
    def hash(self) -> str:
        """The id of the version's manifest, which every answer over HTTP carries."""
        return self.fetched.version.id

    @property
    def meta(self) -> Mapping[str, Any]:
        """What the version says of itself: labels, metrics, lineage."""
        return self.fetched.meta

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the head's outputs."""
        return self.adapted.context.labels

    def __repr__(self) -> str:
        task, method = self.adapted.task.key(), self.adapted.method.key()
        return f"Predictor({self.name}, {task} by {method} on {self.adapted.base.reference}, {self.device})"

    def predict(self, rows: Sequence[str | Mapping[str, Any]]) -> list[Answer]:
        """One answer a row, in the rows' order; what an answer holds is the task's (`regraft show tasks NAME`).

        A row holds the task's columns without the targets; a bare string is enough where that is one text or image.
        DataError names the first row that does not fit.
        """
        answer = self.adapted.task.answers
        return self._over(rows, lambda output, batch: answer(output, batch, self.adapted.context), self._infer)

    def attempt(self, rows: Sequence[Row]) -> list[Answer | DataError]:
        """As `predict`, for rows whose columns were checked before, each with its number `row`.

        A row that cannot be encoded (an image that is cut short) gives its DataError in place of an answer, and the
        others theirs.
        """
        answer = self.adapted.task.answers
        return self._attempted(rows, lambda output, batch: answer(output, batch, self.adapted.context), self._infer)

    def features(self, rows: Sequence[Row]) -> list[Tensor | DataError]:
        """What the head's one linear layer sees of each row, (width,) on the CPU; rows and errors as in `attempt`.

        Unsupported where the head is anything else.
        """
        self.adapted.linear_head()
        return self._attempted(rows, lambda output, _: list(output.float().cpu()), self.adapted.features)

    def logits(self, rows: Sequence[str | Mapping[str, Any]]) -> Tensor:
        """The model's logits, (rows, labels) for one label a row, on the CPU; rows as in `predict`."""
        task = self.adapted.task
        found = self._over(rows, lambda output, _: list(_logits(task, output).float().cpu()), self.adapted.forward)
        return torch.stack(found) if found else torch.zeros(0, len(self.labels))

    def _infer(self, batch: Batch) -> Any:
        return self.adapted.task.predict_forward(self.adapted.forward, self.adapted.model, batch, self.adapted.context)

    def _over(
        self,
        rows: Sequence[str | Mapping[str, Any]],
        read: Callable[[Any, Batch], list[Any]],
        run: Callable[[Batch], Any],
    ) -> list[Any]:
        good = checked(self.adapted.task, rows)
        results: list[Any] = [None] * len(good)
        for positions, output, batch in self._outputs(good, run):
            for position, result in zip(positions, read(output, batch), strict=True):
                results[position] = result
        return results

    def _attempted(
        self, rows: Sequence[Row], read: Callable[[Any, Batch], list[Any]], run: Callable[[Batch], Any]
    ) -> list[Any]:
        failed: dict[int, DataError] = {}
        results: list[Any] = [None] * len(rows)
        for positions, output, batch in self._outputs(rows, run, failed):
            for position, result in zip(positions, read(output, batch), strict=True):
                results[position] = result
        return [failed.get(int(row["row"]), result) for row, result in zip(rows, results, strict=True)]

    def _outputs(
        self, rows: Sequence[Row], run: Callable[[Batch], Any], failed: dict[int, DataError] | None = None
    ) -> Iterator[tuple[list[int], Any, Batch]]:
        """Outputs by batch; a row that cannot be encoded ends them, or goes into `failed` by its `row`."""
        task, context = self.adapted.task, self.adapted.context

        def encode(row: Row) -> Example | None:
            try:
                return task.encode(row, context, train=False)
            except DataError as error:
                if failed is None:
                    raise
                failed[int(row["row"])] = error
                return None

        for positions, examples in batches(task, rows, encode):
            batch = on_device(task.collate(examples, context), self.device)
            with torch.inference_mode():
                output = run(batch)
            yield positions, output, batch


def assembled(fetched: Fetched, base: str | None = None) -> Adapted:
    """The base with the version's delta on it, as it was when training saved it; on the CPU."""
    meta = fetched.meta
    task, method = member(Task, meta["task"], fetched), member(Method, meta["method"], fetched)  # type: ignore[type-abstract]
    found = right_base(fetched, base)
    adapted = adapt(
        found,
        Adaptation(
            task=task, method=method, labels=tuple(meta["labels"]), seed=int(meta["seed"]), dropout=meta.get("dropout")
        ),
        processor=own_processor(task, found, fetched),
    )
    apply_delta(adapted, _tensors(fetched))
    return adapted


def own_processor(task: Task, base: Base, fetched: Fetched) -> Any:
    """The version's own tokenizer or image processor: one that was changed in the base since gives other inputs.

    The base's configuration lies beside the files while they are read, as it did in training: transformers picks the
    class of a tokenizer by it where the tokenizer's own file names none.
    """
    check_harmless(fetched.processor, str(fetched.version))
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        shutil.copytree(fetched.processor, folder, dirs_exist_ok=True)
        shutil.copyfile(base.path / "config.json", Path(folder) / "config.json")
        return load_processor(replace(base, path=Path(folder)), task.modality)


def right_base(fetched: Fetched, elsewhere: str | None = None) -> Base:
    """The base that the version was made on; WrongBase when what is found now is another."""
    wanted, where = fetched.meta["base"], str(fetched.version)
    reference = elsewhere or str(wanted["reference"])
    why = (
        f"the version was made on {wanted['reference']} with that one, and its delta means nothing on another. Put the "
        "base back as it was, or pass base= with where the same base is"
    )
    try:
        return base_named(reference, str(wanted["hash"]), why, where=where)
    except WrongBase:
        raise
    except BaseError as error:
        told = f"its base cannot be used: {error}. Put it there again, or pass base= with where the same base is"
        raise BaseError(told, where=where) from error


def member(root: type[P], written: Mapping[str, Any], fetched: Fetched) -> P:
    """The version's task or method; UnknownPlugin tells to bring the user's own folder."""
    where = str(fetched.version)
    try:
        found = root.lookup(str(written["type"]))
        return found.model_validate({key: value for key, value in written.items() if key != "type"})
    except UnknownPlugin as error:
        file = f"{root.family}/{str(written['type']).replace('-', '_')}.py"
        told = f"{error.message} It was made with a plugin: pass plugins=[folder], the folder that holds {file}."
        raise UnknownPlugin(told, where=where) from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        made = fetched.meta.get("versions", {}).get("regraft", "unknown")
        told = (
            f"its {root.family} entry does not fit this regraft ({problems}); it was made by regraft {made}: use that"
        )
        raise Unsupported(told, where=where) from error


def chosen_device(written: str) -> torch.device:
    """The device for auto, cpu, cuda or cuda:1; RequestError when there is no such device here."""
    if written == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(written)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        told = f"{written!r} is written; allowed are auto, cpu, and cuda or cuda:1 where there is one"
        raise RequestError(told, where="device") from error
    return device


def on_device(value: Any, device: torch.device) -> Any:
    """A batch, or anything inside one, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: on_device(item, device) for key, item in value.items()}
    if isinstance(value, list):
        return [on_device(item, device) for item in value]
    return value


def _tensors(fetched: Fetched) -> dict[str, Tensor]:
    if wrong := find_problem(fetched.delta):
        raise Damaged(f"delta.safetensors {wrong}", where=str(fetched.version))
    try:
        return load_file(fetched.delta)
    except (SafetensorError, OSError) as error:
        raise Damaged(f"delta.safetensors cannot be read: {error}", where=str(fetched.version)) from error


def _logits(task: Task, output: Any) -> Tensor:
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise Unsupported(f"the model of task {task.key()} has no logits: use predict")
    return logits
