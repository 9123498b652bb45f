"""How good a model is on rows: every row once, over all ranks, and the interval of a gain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from regraft.bases.adapted import Adapted
from regraft.contracts import Batch, Record
from regraft.data.rows import Rows
from regraft.data.sampler import draw
from regraft.errors import Diverged
from regraft.training.harness import Harness
from regraft.trunk.cache import Trunk


def to_device(value: Any, device: torch.device) -> Any:
    """A batch, or anything inside one, on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_device(item, device) for item in value]
    return value


def encoded(
    adapted: Adapted, rows: Rows, indices: NDArray[np.int64], *, train: bool, key: tuple[int, int] = (0, 0)
) -> Batch:
    """The rows as one batch; `key` is (seed, epoch), of which augmentation draws."""
    if isinstance(adapted.trunk, Trunk) and adapted.trunk.holds(rows):
        return adapted.trunk.batch(rows, indices.tolist(), train=train)
    task, context = adapted.task, adapted.context
    examples = []
    for index in indices.tolist():
        row = rows.row(index)
        if train and context.augment != "off":
            row["draw"] = draw(*key, index)
        examples.append(task.encode(row, context, train=train))
    return task.collate(examples, context)


def ordered(rows: Rows, size: int, harness: Harness) -> Iterator[tuple[NDArray[np.int64], int]]:
    """This rank's batches of row indices, rows of like length together, and how many of each are its own.

    Every rank gets the same number of batches, the last ones filled up with a row that is not its own: sharded
    models gather their weights batch by batch, and a rank that had fewer would leave the others waiting.
    """
    order = np.argsort(rows.lengths, kind="stable")
    mine = order[harness.rank :: harness.world]
    most = -(-len(order) // harness.world)
    for start in range(0, most, size):
        part = mine[start : start + size]
        yield (part, len(part)) if len(part) else (order[:1], 0)


def evaluate(
    adapted: Adapted, rows: Rows, harness: Harness, *, size: int, autocast: AbstractContextManager[Any]
) -> tuple[dict[str, float], list[Record]]:
    """Metrics of the rows, the same on every rank, and on the first their records in row order.

    Diverged, on every rank, when the model answers with what is not a number: of such records metrics would be made
    that look like others, or none, and after the last step no loss tells it any more.
    """
    adapted.eval_mode()
    # Running statistics moved by each rank's own rows: evaluated, as stored, are those of the first.
    harness.share_buffers(adapted.model)
    mine: list[tuple[int, Record]] = []
    with torch.inference_mode(), autocast:
        for indices, own in ordered(rows, size, harness):
            batch = to_device(encoded(adapted, rows, indices, train=False), harness.device)
            output = examined(adapted, batch)
            records = adapted.task.records(output, batch, adapted.context)
            mine.extend(list(zip(indices.tolist(), records, strict=True))[:own])
    everything = [item for rank in harness.gather(mine) for item in rank]
    records = [record for _, record in sorted(everything, key=lambda item: item[0])]
    # One rank decides: ranks on other processors could differ in a last bit, and then in when the run ends.
    whole = harness.from_first(all(map(finite, records)))
    if not whole:
        raise Diverged(
            "the model answers evaluation rows with what is not a number: lower training.lr, or raise the warm-up"
        )
    metrics = harness.from_first(adapted.task.metrics(records, adapted.context) if harness.first else {})
    return metrics, records


def examined(adapted: Adapted, batch: Batch) -> Any:
    """What the task asks of the model for a batch; what was kept for it stands in where the task passes this very
    batch on, and a task that asks more (generation) never sees it."""
    kept = batch.pop("kept", None)

    def forward(given: Batch) -> Any:
        return adapted.forward({**given, "kept": kept} if kept is not None and given is batch else given)

    return adapted.task.eval_forward(forward, adapted.model, batch, adapted.context)


def finite(record: Record) -> bool:
    """Whether every real number of a record, also those in its arrays, is one; what is unknown is None."""
    return all(
        np.isfinite(value).all()
        for value in record.values()
        if isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f")
    )


def packed(records: Sequence[Record]) -> str:
    """Which rows were right, one bit a row, as hex; empty where a row cannot be right."""
    if not records or "correct" not in records[0]:
        return ""
    return np.packbits([int(record["correct"]) for record in records]).tobytes().hex()


def gain(rows: int, new: str, old: str, *, samples: int = 10_000, seed: int = 0) -> dict[str, float] | None:
    """Accuracy gained, with the paired-bootstrap 95 % interval (Efron and Tibshirani, 1993).

    The resampled mean of paired differences, which are -1, 0 or 1, is a multinomial draw of their three counts.
    """
    if not new or not old:
        return None
    right, before = (np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:rows] for text in (new, old))
    difference = right.astype(int) - before.astype(int)
    share = [(difference == value).mean() for value in (-1, 0, 1)]
    draws = np.random.default_rng(seed).multinomial(rows, share, size=samples)
    means = (draws[:, 2] - draws[:, 0]) / rows
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(difference.mean()), "low": float(low), "high": float(high)}
