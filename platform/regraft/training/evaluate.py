"""Evaluation of a model: metrics of all rows, each used once over all ranks, and the interval of a gain."""

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
    """Return a batch, or any value inside one, on a device."""
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
    """Return the rows as one batch; augmentation draws from `key`, (seed, epoch), and the row's index."""
    if isinstance(adapted.trunk, Trunk) and adapted.trunk.holds(rows):
        return adapted.trunk.batch(rows, indices.tolist(), train=train)
    task, context = adapted.task, adapted.context
    examples = []
    for index in indices.tolist():
        row = rows.row(index)
        if train and (context.augment != "off" or task.random_inputs):
            row["draw"] = draw(*key, index)
        examples.append(task.encode(row, context, train=train))
    return task.collate(examples, context)


def ordered(rows: Rows, size: int, harness: Harness) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield this rank's batches of row indices, sorted by length, with how many of each batch are its own.

    Every rank gets the same number of batches, and runs a row that is not its own where it has none left. Sharded
    models gather their weights batch by batch, so that a rank with fewer batches would leave the others waiting.
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
    """Return the metrics of the rows, equal on every rank, and on the first rank their records in row order.

    Raises Diverged on every rank when an answer of the model is not finite. Metrics of such records would look normal,
    and after the last step no loss shows the failure.
    """
    adapted.eval_mode()
    # Running statistics differ between ranks: the first rank's are evaluated, as they are stored.
    harness.share_buffers(adapted.model)
    mine: list[tuple[int, Record]] = []
    with torch.inference_mode(), autocast:
        for indices, own in ordered(rows, size, harness):
            batch = to_device(encoded(adapted, rows, indices, train=False), harness.device)
            output = eval_output(adapted, batch)
            records = adapted.task.records(output, batch, adapted.context)
            mine.extend(list(zip(indices.tolist(), records, strict=True))[:own])
            harness.pulse.beat()
    everything = [item for rank in harness.gather(mine) for item in rank]
    records = [record for _, record in sorted(everything, key=lambda item: item[0])]
    # One rank decides: ranks on different processors could differ in a last bit, and then in when the run ends.
    intact = harness.from_first(all(map(finite, records)))
    if not intact:
        raise Diverged(
            "the model answers evaluation rows with what is not a number: lower training.lr, or raise the warm-up"
        )
    records = adapted.task.complete_records(records, adapted.context) if records else records
    harness.pulse.beat()  # comparing all rows with one another may take as long as a batch
    metrics = harness.from_first(adapted.task.metrics(records, adapted.context) if harness.first else {})
    return metrics, records


def eval_output(adapted: Adapted, batch: Batch) -> Any:
    """Return the task's evaluation output for a batch.

    The trunk's values of the batch are used if the task passes this very batch to the model. A task that calls the
    model otherwise (generation) never gets them.
    """
    kept = batch.pop("kept", None)

    def forward(given: Batch) -> Any:
        return adapted.forward({**given, "kept": kept} if kept is not None and given is batch else given)

    return adapted.task.eval_forward(forward, adapted.model, batch, adapted.context)


def finite(record: Record) -> bool:
    """Return whether all floating-point numbers of a record, arrays included, are finite; unknown values are None."""
    return all(
        np.isfinite(value).all()
        for value in record.values()
        if isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f")
    )


def packed(records: Sequence[Record]) -> str:
    """Return the correct rows as hex, one bit per row; empty for tasks without correct answers."""
    if not records or "correct" not in records[0]:
        return ""
    return np.packbits([int(record["correct"]) for record in records]).tobytes().hex()


def gain(rows: int, new: str, old: str, *, samples: int = 10_000, seed: int = 0) -> dict[str, float] | None:
    """Return the gain in accuracy with its paired-bootstrap 95 % interval (Efron and Tibshirani, 1993).

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
