"""The cut of a model that is about to train, checked on probe batches against the complete model."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.contracts import Batch, Example, Task, all_windows
from regraft.data.rows import Rows
from regraft.data.snapshot import Snapshot
from regraft.errors import Unsupported
from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore
from regraft.training.evaluate import to_device
from regraft.training.harness import Harness
from regraft.trunk.cache import row_sizes, without_pixels
from regraft.trunk.cost_model import CheckedCut
from regraft.trunk.cut import Cut, NotCut, capture, find_cut
from regraft.trunk.shapes import distinguishes, sizes_of
from regraft.trunk.verify import difference, loss_difference

TOLERANCE = 1e-5
"""Largest relative deviation of a cut model from the complete one; with a larger one, it is not used."""
STORED_TOLERANCE = {"no": 1e-3, "bf16": 0.1, "fp16": 0.02}
"""The same for values computed in another batch, by precision: rounding differs there, mistakes are larger."""
PROBES = 3
SAMPLES = 24
"""Rows examined for sizes that are equal in all of them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CutSite:
    """A model before its first step, its rows, and the device, precision and store that it uses."""

    spec: RunSpec
    snapshot: Snapshot
    adapted: Adapted
    harness: Harness
    accelerator: Accelerator
    store: ObjectStore
    run: str = ""
    """The run's name, which is written with the values that it keeps."""
    phase: int = 0
    """The phase of the run, which has a cut of its own."""

    @property
    def stored_tolerance(self) -> float:
        """Largest relative deviation of stored values from what this model computes."""
        return STORED_TOLERANCE[self.accelerator.mixed_precision]


def cache_requested(spec: RunSpec) -> bool:
    """Return whether the user named the place where the frozen part's outputs are kept."""
    return spec.compute.trunk in ("memory", "disk")


def may_cache(site: CutSite) -> bool:
    """Return whether the frozen part's outputs for a row stay the same during the run, as far as the spec shows.

    Raises Unsupported if it does not and the user asked for the cache.
    """
    return may_keep(site.spec, site.harness.world)


def may_keep(spec: RunSpec, world: int = 1) -> bool:
    """Return what `may_cache` does, for a spec and a number of workers."""
    if spec.compute.trunk == "off":
        return False
    sharded = spec.compute.strategy == "fsdp" and world > 1
    changing = spec.data.augment != "off" or spec.task.random_inputs
    if not changing and not spec.compute.compile and not sharded:
        return True
    if cache_requested(spec):
        changes = f"task {spec.task.key()}" if spec.task.random_inputs else "data.augment"
        what = changes if changing else "compute.compile" if spec.compute.compile else "fsdp"
        raise Unsupported(
            f"{spec.compute.trunk} is written with {what}, which changes what the frozen part is or how it runs: "
            "remove one of the two",
            where="compute.trunk",
        )
    return False


def as_not_cut(error: Exception) -> NotCut:
    """Return any error of a cut or its cache as the reason to go on without it, and log it.

    An error of a user's module or task, or a full disk, must not end a run that can go on without a cache.
    """
    if isinstance(error, NotCut):
        return error
    log.info("the frozen part cannot be kept", exc_info=error)
    reason = NotCut(f"keeping it failed ({type(error).__name__}: {' '.join(str(error).split())[:300]})")
    reason.__cause__ = error
    return reason


def checked_cut(site: CutSite) -> CheckedCut:
    """Find the model's cut and check it on probe batches; raises NotCut if the cut model computes something else.

    Pixels are kept for those who may read them besides the model: a loss term, and a task that evaluates otherwise than
    by a forward pass.
    """
    adapted, device = site.adapted, site.harness.device
    (short, long), examples = probes(adapted, site.snapshot.train)
    check_encoded_alike(adapted, site.snapshot.train)
    short, long = to_device(short, device), to_device(long, device)
    collated = adapted.task.collate([without_pixels(example) for example in examples], adapted.context)
    candidates = [(to_device(collated, device), True), (long, False)]
    if type(adapted.task).eval_forward is not Task.eval_forward or site.spec.losses:
        del candidates[0]
    with site.accelerator.autocast():
        cut = find_cut(adapted, short, long)
        adapted.eval_mode()
        tensors = {key: value.clone() for key, value in capture(adapted, long, cut.kept).items()}
        for batch, shape_only in candidates:
            if difference(adapted, cut, long, tensors, given=batch) > TOLERANCE:
                continue
            rejoined = to_device(cut.join(_split(adapted, cut, tensors, examples), sizes_of(long)), device)
            if loss_difference(adapted, cut, long, rejoined, given=batch) <= site.stored_tolerance:
                return CheckedCut(cut, shape_only)
    raise NotCut("the model's outputs differ when it begins after its frozen part")


def _split(adapted: Adapted, cut: Cut, tensors: dict[str, Tensor], examples: list[Example]) -> list[dict[str, Tensor]]:
    values = {key: value.cpu() for key, value in tensors.items()}
    return cut.split(values, [row_sizes(adapted, example) for example in examples])


def probes(adapted: Adapted, rows: Rows) -> tuple[tuple[Batch, Batch], list[Example]]:
    """Return two batches of different sizes, of two rows and of three longer ones, and the examples of the latter.

    Rows are searched until the batches distinguish all sizes that vary between rows. Raises NotCut if none do.
    """
    if len(rows) < PROBES:
        raise NotCut("there are fewer than three rows")
    task, context = adapted.task, adapted.context
    order = [int(index) for index in rows.lengths.argsort(kind="stable")]
    stride = max(1, len(order) // SAMPLES)
    few = _in_order(_examples(adapted, rows, order[::stride]))
    batch = task.collate([dict(example) for example in few[:1]], context)
    if not any(isinstance(value, Tensor) and value.ndim for name, value in batch.items() if name != "labels"):
        raise NotCut("its batches hold no tensors")
    samples = [row_sizes(adapted, example) for example in few]
    for end in range(len(order), PROBES - 1, -stride):
        examples = all_windows(_examples(adapted, rows, order[end - PROBES : end]))[:PROBES]
        long = task.collate([dict(example) for example in examples], context)
        for start in range(len(few) - 1):
            short = task.collate([dict(example) for example in few[start : start + 2]], context)
            if distinguishes(sizes_of(short), sizes_of(long), samples):
                return (short, long), examples
    raise NotCut("its rows vary too little to distinguish their lengths, or hold images of several sizes")


def _examples(adapted: Adapted, rows: Rows, indices: list[int], *, train: bool = False) -> list[Example]:
    return [adapted.task.encode(rows.row(index), adapted.context, train=train) for index in indices]


def _in_order(examples: list[Example]) -> list[Example]:
    """Return the windows of examples that are in the order of their lengths, in that order too."""
    windows = all_windows(examples)
    if len(windows) == len(examples):
        return windows
    return sorted(windows, key=lambda window: sum(len(v) for v in window.values() if isinstance(v, list)))


def check_encoded_alike(adapted: Adapted, rows: Rows) -> None:
    """Raise NotCut for a task whose inputs in training differ from those in evaluation, or are random.

    Words masked at random are an example: each epoch would have other outputs.
    """
    indices = list(range(min(8, len(rows))))
    expected = all_windows(_examples(adapted, rows, indices))
    for _ in range(2):
        found = all_windows(_examples(adapted, rows, indices, train=True))
        if len(found) != len(expected):
            raise NotCut(f"task {adapted.task.key()} reads rows otherwise when it trains")
        for one, two in zip(expected, found, strict=True):
            if not _same({**one, "labels": None}, {**two, "labels": None}):
                raise NotCut(f"task {adapted.task.key()} reads rows otherwise when it trains")


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.shape == two.shape and bool(torch.equal(one, two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_same(one[name], two[name]) for name in one)
    return bool(type(one) is type(two) and one == two)
