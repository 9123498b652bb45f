"""The frozen part of a run, computed once: found, checked against the whole model, planned, filled and handed over."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import torch

from regraft.bases.adapt import Adapted
from regraft.contracts import Batch
from regraft.data.rows import Rows
from regraft.errors import Unsupported
from regraft.training.evaluate import to_device
from regraft.trunk.cut import Cut, NotCut, capture, difference, find_cut
from regraft.trunk.features import Features, trunk_id
from regraft.trunk.plan import Plan, Where, plan
from regraft.trunk.shapes import sizes_of
from regraft.trunk.trunk import Trunk, fill, hollowed, kept_rows

if TYPE_CHECKING:
    from regraft.training.loop import Run

AGREES = 1e-5
"""How far a cut model may be from the whole one, relative to its largest value; further, and it is not used."""
PROBES = 3


def keep_trunk(run: Run) -> None:
    """Give the run's model a trunk where that is right, possible and worth it; else leave it whole, and say why."""
    if not worth_asking(run):
        return
    try:
        cut, hollow = checked_cut(run)
    except NotCut as reason:
        if run.spec.compute.trunk in ("memory", "disk"):
            raise Unsupported(f"{run.spec.compute.trunk} is written, but {reason}", where="compute.trunk") from None
        return
    chosen = planned(run, cut)
    if chosen.where == "recompute":
        run.harness.say("note", message=f"the frozen part is computed anew in every epoch: {chosen.why}")
        return
    run.harness.say("note", message=f"the frozen part is computed once a row, {chosen.why}")
    images = [name for name, kind in run.spec.task.keeps().items() if kind in ("image", "mask")]
    sides = tuple(kept_rows(rows, images) for rows in (run.snapshot.train, run.snapshot.eval))
    features = opened(run, cut) if chosen.where == "disk" else {}
    trunk = Trunk(run.adapted, cut, sides, features, hollow)
    if features:
        fill_shared(run, trunk)
    else:
        fill(trunk, run.folder, autocast=run.accelerator.autocast, told=_progress(run))
    run.adapted.trunk = trunk


def worth_asking(run: Run) -> bool:
    """Whether rows are seen more than once by the same function of their frozen part."""
    spec = run.spec
    if spec.compute.trunk == "off" or spec.method.closed_form:
        return False
    sharded = spec.compute.strategy == "fsdp" and run.harness.world > 1
    if spec.data.augment != "off" or spec.compute.compile or sharded:
        what = "data.augment" if spec.data.augment != "off" else "compute.compile" if spec.compute.compile else "fsdp"
        if spec.compute.trunk in ("memory", "disk"):
            told = f"{spec.compute.trunk} is written with {what}, which changes what the frozen part is or how it runs"
            raise Unsupported(f"{told}: remove one of the two", where="compute.trunk")
        return False
    return run.steps > run.per_epoch


def checked_cut(run: Run) -> tuple[Cut, bool]:
    """The cut, and whether images may be left out of what the model is given; NotCut when it is not the whole model."""
    adapted, rows = run.adapted, run.snapshot.train
    first, second = (to_device(batch, run.harness.device) for batch in probes(adapted, rows))
    with run.accelerator.autocast():
        cut = find_cut(adapted, first, second)
        adapted.eval_mode()
        boundary = {key: value.clone() for key, value in capture(adapted, second, cut.kept).items()}
        for batch, hollow in ((to_device(hollowed(second), run.harness.device), True), (second, False)):
            if difference(adapted, cut, second, boundary, given=batch) <= AGREES:
                return cut, hollow
    raise NotCut("the model computes something else when it begins behind its frozen part")


def probes(adapted: Adapted, rows: Rows) -> tuple[Batch, Batch]:
    """Two batches of other sizes: two of the shorter rows, and three of the longest.

    The longer must not be to the shorter as three to two, or lengths and numbers of rows are taken for each other.
    """
    if len(rows) < PROBES:
        raise NotCut("there are fewer than three rows")
    order = [int(index) for index in rows.lengths.argsort(kind="stable")]
    long = _batch(adapted, rows, order[-PROBES:])
    for start in range(0, len(order) - 1, max(1, len(order) // 20)):
        short = _batch(adapted, rows, order[start : start + 2])
        before, after = sizes_of(short), sizes_of(long)
        if all(math.isclose(after[n] / before[n], 1) or after[n] * 2 != before[n] * 3 for n in before if n != "rows"):
            return short, long
    raise NotCut("no two rows are of lengths that tell rows from lengths")


def _batch(adapted: Adapted, rows: Rows, indices: list[int]) -> Batch:
    task, context = adapted.task, adapted.context
    return task.collate([task.encode(rows.row(index), context, train=False) for index in indices], context)


def planned(run: Run, cut: Cut) -> Plan:
    """The run's plan: measured once, by the first rank, and kept with the run."""
    known: Any = None
    if run.harness.first:
        known = (run.runs.find(run.job.run) or {}).get("trunk")
        if known is None:
            known = _measured(run, cut).document()
            run.runs.update(run.job.run, trunk=known)
    return Plan(**run.harness.from_first(known))


def _measured(run: Run, cut: Cut) -> Plan:
    compute = run.spec.compute
    both: tuple[Where, ...] = ("disk", "memory") if run.harness.world == 1 else ("disk",)
    allowed = both if compute.trunk == "auto" else tuple(where for where in both if where == compute.trunk)
    total = len(run.snapshot.train) + len(run.snapshot.eval)
    budget = round(compute.trunk_gb * 1e9)
    autocast = run.accelerator.autocast
    return plan(run.adapted, cut, run.snapshot.train, total, budget=budget, allowed=allowed, autocast=autocast)


def opened(run: Run, cut: Cut) -> dict[str, Features]:
    """The store's features of each kept value."""
    adapted = run.adapted
    task = json.loads(adapted.task.model_dump_json())
    made_by = {
        "base": adapted.base.hash,
        "processor": adapted.base.processor_hash,
        "task": task,
        "labels": list(adapted.context.labels) if run.spec.task.classes() else [],
        "precision": run.accelerator.mixed_precision,
        "torch": torch.__version__.split("+")[0],
    }
    prefix = adapted.anatomy.prefix
    store = run.checkpoints.store
    return {part.key: Features(store, trunk_id(part, prefix, **made_by)) for part in cut.kept}


def fill_shared(run: Run, trunk: Trunk) -> None:
    """Every rank computes its share, then all look for what the others wrote."""
    harness = run.harness
    fill(
        trunk,
        run.folder,
        rank=harness.rank,
        world=harness.world,
        autocast=run.accelerator.autocast,
        told=_progress(run),
    )
    harness.sum(torch.zeros(1, device=harness.device))
    for found in trunk.features.values():
        found.refresh()
    for side in trunk.sides:
        if side.missing(trunk.cut.kept, trunk.features).any():
            raise NotCut("features that were written are not there")


def _progress(run: Run) -> Any:
    def told(done: int, total: int) -> None:
        run.harness.say("trunk", rows=done, total=total)

    return told
