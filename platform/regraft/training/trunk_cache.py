"""The frozen part of a run, computed once: found, checked against the whole model, planned, filled and handed over.

By default a run decides this by itself, so nothing here may end a run that nobody asked to keep anything: whatever goes
wrong, the model is computed whole, on all ranks alike, and a note says why.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import PIL
import torch
import transformers
from accelerate import Accelerator
from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.contracts import Batch, Example, Note, Task, TrunkProgress, columns_of
from regraft.data.rows import Rows
from regraft.data.snapshot import Snapshot
from regraft.errors import Unsupported
from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore
from regraft.store.runs import Runs
from regraft.training.evaluate import to_device
from regraft.training.harness import Harness
from regraft.training.memory_check import available
from regraft.trunk.boundary import Part
from regraft.trunk.cache import Kept, Trunk, alone, astray, fill, hollowed, kept_rows
from regraft.trunk.cost_model import Limits, Plan, Where, plan
from regraft.trunk.cut import Cut, NotCut, NothingFrozen, capture, find_cut
from regraft.trunk.feature_store import Features, trunk_id
from regraft.trunk.shapes import sizes_of, tells
from regraft.trunk.verify import difference, loss_difference

if TYPE_CHECKING:
    from regraft.training.loop import Run


class Site(Protocol):
    """What is asked of a run, or of a search in its place: a model, its rows, and where both are."""

    @property
    def spec(self) -> RunSpec: ...
    @property
    def snapshot(self) -> Snapshot: ...
    @property
    def adapted(self) -> Adapted: ...
    @property
    def harness(self) -> Harness: ...
    @property
    def accelerator(self) -> Accelerator: ...
    @property
    def store(self) -> ObjectStore: ...


T = TypeVar("T")
log = logging.getLogger(__name__)

AGREES = 1e-5
"""How far a cut model may be from the whole one, relative to its largest value; further, and it is not used."""
KEPT_AGREES = {"no": 1e-3, "bf16": 0.1, "fp16": 0.02}
"""The same where values were computed in another batch, by precision: rounding there differs, a mistake is larger."""
PROBES = 3
SAMPLES = 24
"""Rows that are looked at for what is of the same size in all."""


def keep_trunk(run: Run, runs: Runs) -> None:
    """Give the run's model a trunk where that is right, possible and worth it; else leave it whole, and say why."""
    if not worth_asking(run):
        return
    try:
        run.adapted.trunk = made_trunk(run, runs)
    except NotCut as reason:
        if asked(run.spec):
            raise Unsupported(f"{run.spec.compute.trunk} is written, but {reason}", where="compute.trunk") from reason
        if not isinstance(reason, NothingFrozen):
            run.harness.emit(Note(f"the frozen part is computed anew in every epoch: {reason}"))


def made_trunk(run: Run, runs: Runs) -> Trunk | None:
    """The trunk, filled; None where keeping it is not worth it. NotCut, on every rank, when it cannot be."""
    cut, hollow = together(run, lambda: checked_cut(run))
    chosen = planned(run, runs, cut, hollow)
    if chosen.where == "recompute":
        run.harness.emit(Note(f"the frozen part is computed anew in every epoch: {chosen.why}"))
        return None
    run.harness.emit(Note(f"the frozen part is computed once a row, {chosen.why}"))
    features = together(run, lambda: opened(run, cut.kept) if chosen.where == "disk" else {})
    trunk = Trunk(run.adapted, cut, both_sides(run), features, hollow)
    if features:
        fill_shared(run, trunk)
    else:
        told = _progress(run)
        together(run, lambda: fill(trunk, run.folder, autocast=run.accelerator.autocast, told=told))
    return trunk


def asked(spec: RunSpec) -> bool:
    """Whether the user wrote where the frozen part's outputs are to be kept."""
    return spec.compute.trunk in ("memory", "disk")


def both_sides(site: Site) -> tuple[Kept, Kept]:
    """The rows of both sides, before anything of them is kept."""
    columns = columns_of(site.spec.task.stored_columns())
    files = [name for name, column in columns.items() if column.by_reference]
    return kept_rows(site.snapshot.train, files), kept_rows(site.snapshot.eval, files)


def together(run: Run, work: Callable[[], T]) -> T:
    """What `work` gives; NotCut on every rank when it fails on any, for a rank alone would wait for the others.

    `work` speaks with no other rank. What a user's own module or task raises here, and a disk that is full, is no
    reason to end a run that can go on without.
    """
    failed: NotCut | None = None
    result: Any = None
    try:
        result = work()
    except NotCut as reason:
        failed = reason
    except Exception as error:
        log.info("the frozen part cannot be kept", exc_info=True)
        failed = NotCut(f"keeping it failed ({type(error).__name__}: {' '.join(str(error).split())[:300]})")
        failed.__cause__ = error
    count = run.harness.sum(torch.tensor([float(failed is not None)], device=run.harness.device))
    if failed is not None:
        raise failed
    if count.item():
        raise NotCut("another worker could not keep it")
    found: T = result
    return found


def worth_asking(run: Run) -> bool:
    """Whether rows are seen more than once by the same function of their frozen part."""
    return not run.spec.method.closed_form and may_keep(run) and run.steps > run.per_epoch


def may_keep(site: Site) -> bool:
    """Whether the spec leaves the frozen part one function of the row; Unsupported where it was asked for all the
    same."""
    spec = site.spec
    if spec.compute.trunk == "off":
        return False
    sharded = spec.compute.strategy == "fsdp" and site.harness.world > 1
    if spec.data.augment != "off" or spec.compute.compile or sharded:
        what = "data.augment" if spec.data.augment != "off" else "compute.compile" if spec.compute.compile else "fsdp"
        if asked(spec):
            told = f"{spec.compute.trunk} is written with {what}, which changes what the frozen part is or how it runs"
            raise Unsupported(f"{told}: remove one of the two", where="compute.trunk")
        return False
    return True


def checked_cut(run: Site) -> tuple[Cut, bool]:
    """The cut, and whether images may be left out of what the model is given; NotCut when it is not the whole model.

    Images are left to those who may read them besides the model: a loss term, and a task that evaluates otherwise than
    by a forward pass.
    """
    adapted, device = run.adapted, run.harness.device
    long, examples = probes(adapted, run.snapshot.train)
    read_alike(adapted, run.snapshot.train)
    first, second = (to_device(batch, device) for batch in long)
    emptied = to_device(adapted.task.collate([hollowed(example) for example in examples], adapted.context), device)
    bare = type(adapted.task).eval_forward is Task.eval_forward and not run.spec.losses
    with run.accelerator.autocast():
        cut = find_cut(adapted, first, second)
        adapted.eval_mode()
        boundary = {key: value.clone() for key, value in capture(adapted, second, cut.kept).items()}
        for batch, hollow in ((emptied, True), (second, False)):
            if hollow and not bare:
                continue
            if difference(adapted, cut, second, boundary, given=batch) <= AGREES:
                rejoined = to_device(cut.join(_split(adapted, cut, boundary, examples), sizes_of(second)), device)
                allowed = KEPT_AGREES[run.accelerator.mixed_precision]
                if loss_difference(adapted, cut, second, rejoined, batch) <= allowed:
                    return cut, hollow
    raise NotCut("the model computes something else when it begins behind its frozen part")


def _split(adapted: Adapted, cut: Cut, boundary: dict[str, Tensor], examples: list[Example]) -> list[dict[str, Tensor]]:
    values = {key: value.cpu() for key, value in boundary.items()}
    return cut.split(values, [alone(adapted, example) for example in examples])


def probes(adapted: Adapted, rows: Rows) -> tuple[tuple[Batch, Batch], list[Example]]:
    """Two batches of other sizes, two rows and three longer ones; and the examples of the latter.

    They are looked for among the rows until they tell apart all sizes that are not the same in every row.
    """
    if len(rows) < PROBES:
        raise NotCut("there are fewer than three rows")
    task, context = adapted.task, adapted.context
    order = [int(index) for index in rows.lengths.argsort(kind="stable")]
    few = _examples(adapted, rows, order[:: max(1, len(order) // SAMPLES)])
    batch = task.collate([dict(example) for example in few[:1]], context)
    if not any(isinstance(value, Tensor) and value.ndim for name, value in batch.items() if name != "labels"):
        raise NotCut("its batches hold no tensors")
    samples = [alone(adapted, example) for example in few]
    stride = max(1, len(order) // SAMPLES)
    for end in range(len(order), PROBES - 1, -stride):
        examples = _examples(adapted, rows, order[end - PROBES : end])
        long = task.collate([dict(example) for example in examples], context)
        for start in range(len(few) - 1):
            short = task.collate([dict(example) for example in few[start : start + 2]], context)
            if tells(sizes_of(short), sizes_of(long), samples):
                return (short, long), examples
    raise NotCut("its rows are too alike to tell which length is which, or hold images of several sizes")


def _examples(adapted: Adapted, rows: Rows, indices: list[int], *, train: bool = False) -> list[Example]:
    return [adapted.task.encode(rows.row(index), adapted.context, train=train) for index in indices]


def read_alike(adapted: Adapted, rows: Rows) -> None:
    """NotCut for a task that gives the model other inputs when it trains, by the way it reads or by chance (words
    masked at random): each epoch then has a trunk of its own."""
    indices = list(range(min(8, len(rows))))
    still = _examples(adapted, rows, indices)
    for _ in range(2):
        for one, two in zip(still, _examples(adapted, rows, indices, train=True), strict=True):
            if not _same({**one, "labels": None}, {**two, "labels": None}):
                raise NotCut(f"task {adapted.task.key()} reads rows otherwise when it trains")


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.shape == two.shape and bool(torch.equal(one, two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_same(one[name], two[name]) for name in one)
    return bool(type(one) is type(two) and one == two)


def planned(run: Run, runs: Runs, cut: Cut, hollow: bool) -> Plan:
    """The run's plan: measured once, by the first rank, and kept with the run while it says what the spec allows."""
    first = run.harness.first
    known: Any = None
    if first:
        known = (runs.find(run.job.run) or {}).get("trunk")
        if known is not None and (known.get("where") not in (*rooms(run, run.folder), "recompute") or asked(run.spec)):
            known = None
    fresh = first and known is None
    measured = together(run, lambda: _measured(run, cut, hollow).document() if fresh else known)
    if fresh:
        runs.update(run.job.run, trunk=measured)
    return Plan(**run.harness.from_first(measured))


def _measured(run: Run, cut: Cut, hollow: bool) -> Plan:
    budget = round(run.spec.compute.trunk_gb * 1e9)
    limits = Limits(budget, rooms(run, run.folder), run.steps / run.per_epoch, asked(run.spec))
    total = len(run.snapshot.train) + len(run.snapshot.eval)
    autocast = run.accelerator.autocast
    return plan(run.adapted, cut, run.snapshot.train, total, hollow=hollow, limits=limits, autocast=autocast)


def rooms(site: Site, folder: Path) -> dict[Where, int]:
    """Where values may be kept, and half of what is free there: checkpoints and everything else need room too."""
    found: dict[Where, int] = {"disk": shutil.disk_usage(folder).free // 2}
    if site.harness.world == 1:
        found["memory"] = available() // 2
    written = site.spec.compute.trunk
    return found if written == "auto" else {where: room for where, room in found.items() if where == written}


def opened(run: Site, parts: Iterable[Part]) -> dict[str, Features]:
    """The store's features of each kept value."""
    adapted = run.adapted
    made_by = {
        "base": adapted.base.hash,
        "processor": adapted.base.processor_hash,
        "task": json.loads(adapted.task.model_dump_json()),
        "labels": list(adapted.context.labels) if run.spec.task.classes() else [],
        "precision": run.accelerator.mixed_precision,
        "device": run.harness.device.type,
        # transformers holds the model's code and the processor's, Pillow resizes.
        "versions": [torch.__version__.split("+")[0], transformers.__version__, PIL.__version__],
    }
    prefix = adapted.anatomy.prefix
    found = {part.key: Features(run.store, trunk_id(part, prefix, **made_by)) for part in parts}
    for features in found.values():
        for shard, why in features.refused.items():
            told = f"kept values that cannot be used are passed over, and computed again: {why}"
            run.harness.emit(Note(told))
            log.info("%s: %s", shard, why)
    return found


def fill_shared(run: Run, trunk: Trunk) -> None:
    """Every rank computes its share, then all look for what the others wrote."""
    harness, autocast, told = run.harness, run.accelerator.autocast, _progress(run)

    def trusted() -> None:
        if (found := astray(trunk, autocast)) > KEPT_AGREES[run.accelerator.mixed_precision]:
            places = ", ".join(features.prefix for features in trunk.features.values())
            raise NotCut(
                f"what the store holds in {places} is not what this model computes (it differs by {found:.1%}): "
                "delete it there"
            )

    together(run, trusted)
    together(
        run,
        lambda: fill(trunk, run.folder, rank=harness.rank, world=harness.world, autocast=autocast, told=told),
    )

    def look() -> None:
        for found in trunk.features.values():
            found.refresh()
        for side in trunk.sides:
            if side.missing(trunk.cut.kept, trunk.features).any():
                raise NotCut("features that were written are not in the store")

    together(run, look)


def _progress(run: Run) -> Any:
    def told(done: int, total: int) -> None:
        run.harness.emit(TrunkProgress(done, total))

    return told
