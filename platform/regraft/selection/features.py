"""Features of a base for sampled rows, at every depth in one pass; what a later run needs is kept in the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from regraft.contracts import Batch, RowsEvaluated
from regraft.errors import DataError, Unsupported
from regraft.selection.depth_cuts import DepthCut, depth_cuts
from regraft.selection.direct_features import direct_cuts, direct_values
from regraft.selection.pooling import pooled, pooled_boundary
from regraft.selection.sampled_rows import SampledRows
from regraft.selection.score import Floats
from regraft.spec.run import RunSpec
from regraft.training.cut_check import CutSite, as_not_cut, may_keep
from regraft.training.evaluate import encoded, to_device
from regraft.training.trunk_cache import file_columns, open_features
from regraft.trunk.boundary import Boundary
from regraft.trunk.cache import BATCH, compute_rows
from regraft.trunk.cut import NotCut, capture_only
from regraft.trunk.feature_store import Features
from regraft.trunk.shapes import Sizes

MOST_BYTES = 1 << 30
"""Bytes of outputs that are kept of one base at most, beside the pooled features."""
COUNTED_ROWS = 4
"""Rows of the batch whose arithmetic is counted."""


@dataclass(frozen=True, eq=False)
class DepthFeatures:
    """Features at one depth, (rows, width) in float64."""

    name: str
    depth: int
    features: Floats


@dataclass
class BaseFeatures:
    """What a base makes of the sampled rows."""

    depths: list[DepthFeatures]
    computed: int
    """Rows that were computed; the others were in the store."""
    operations: float
    """Floating-point operations of a forward pass, for one row."""
    parameters: int
    blocks: int
    cuts: Sequence[DepthCut]
    kept: list[str] = field(default_factory=list)
    """Names of the depths whose outputs a run that follows finds."""
    note: str = ""
    """Why nothing is kept for such a run; empty where something is."""


@dataclass
class _Reading:
    """The places that are read, and what the store holds of them."""

    cuts: list[DepthCut]
    pooled: dict[str, Features] = field(default_factory=dict)
    """By the key of the value that is pooled; empty where nothing is kept."""
    kept: dict[str, Features] = field(default_factory=dict)
    """By the key of the whole value."""
    held: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    """Pooled values in this process, by key and row."""
    note: str = ""

    @property
    def boundaries(self) -> list[Boundary]:
        """Everything that a pass captures."""
        found = {one.read.key: one.read for one in self.cuts}
        found |= {part.key: part for one in self.cuts if one.cut for part in one.cut.kept if part.key in self.kept}
        return list(found.values())


def base_features(
    site: CutSite,
    spec: RunSpec,
    chosen: NDArray[np.int64],
    folder: Path,
    *,
    cuts: Sequence[DepthCut] | None = None,
) -> BaseFeatures:
    """Return the features of the chosen training rows at every depth, computed where the store lacks them.

    `site` holds the base with every weight moving, `spec` the run that may follow. `cuts` are those of a base of the
    same architecture; nothing is then kept. Raises DataError for a base that gives no numbers.
    """
    reading = _opened(site, spec, len(chosen)) if cuts is None else _Reading(list(cuts), note="a control is not kept")
    side = SampledRows(site.snapshot.train, file_columns(site.spec), chosen)
    try:
        computed = _fill(site, reading, side, folder)
    except NotCut as reason:  # pictures of several sizes are found when they are read
        reading = _direct(site, spec, reason)
        computed = _fill(site, reading, side, folder)
    depths = [DepthFeatures(one.name, one.depth, _read(reading, side, one.read)) for one in reading.cuts]
    usable = [one for one in depths if np.isfinite(one.features).all()]
    if not usable:
        raise DataError(
            "its features are no finite numbers: fine-tuning would diverge", where=site.adapted.base.reference
        )
    return BaseFeatures(
        depths=usable,
        computed=computed,
        operations=_operations(site, chosen) if cuts is None else 0.0,
        parameters=sum(parameter.numel() for parameter in site.adapted.model.parameters()),
        blocks=len(site.adapted.anatomy.blocks),
        cuts=reading.cuts,
        kept=[one.name for one in reading.cuts if one.cut and {part.key for part in one.cut.kept} <= set(reading.kept)],
        note=reading.note,
    )


def _opened(site: CutSite, spec: RunSpec, rows: int) -> _Reading:
    """Return the places where this base is read; places without cuts where the model cannot be cut."""
    try:
        reading = _Reading(depth_cuts(site, spec.method))
    except Exception as error:
        return _direct(site, spec, error)
    if not _keeps(spec):
        reading.note = f"compute.trunk: {spec.compute.trunk} keeps nothing in the store"
        return reading
    reading.pooled = _pooled_features(site, reading.cuts)
    try:
        keeps = may_keep(spec)
    except Unsupported as error:  # a run of this spec is refused; what bases are worth can still be said
        reading.note, keeps = error.message, False
    if keeps:
        free = site.store.free_bytes()
        budget = min(MOST_BYTES, spec.compute.trunk_gb * 1e9, MOST_BYTES if free is None else free / 2)
        reading.kept = open_features(site, _within(reading.cuts, budget / max(1, rows)))
    return reading


def _direct(site: CutSite, spec: RunSpec, error: Exception) -> _Reading:
    """Return the places where a base that cannot be cut is read; of its outputs the means alone are kept."""
    reading = _Reading(direct_cuts(site), note=str(as_not_cut(error)))
    if _keeps(spec):
        reading.pooled = _pooled_features(site, reading.cuts)
    return reading


def _keeps(spec: RunSpec) -> bool:
    return spec.compute.trunk in ("auto", "disk")


def _pooled_features(site: CutSite, cuts: Sequence[DepthCut]) -> dict[str, Features]:
    return open_features(site, {one.read.key: pooled_boundary(one.read) for one in cuts}.values(), pooled="mean")


def _within(cuts: Sequence[DepthCut], row_bytes: float) -> list[Boundary]:
    """Return the values to keep whole within so many bytes a row: those of the spec's own run, then small ones."""
    found: dict[str, Boundary] = {}

    def size(parts: Sequence[Boundary]) -> float:
        return sum(part.width * part.dtype.itemsize for part in parts if part.key not in found)

    whole = [one for one in cuts if one.cut is not None]
    for one in sorted(whole, key=lambda one: (not one.wanted, size(one.cut.kept) if one.cut else 0)):
        assert one.cut is not None
        if (more := size(one.cut.kept)) <= row_bytes:
            row_bytes -= more
            found |= {part.key: part for part in one.cut.kept}
    return list(found.values())


def _fill(site: CutSite, reading: _Reading, side: SampledRows, folder: Path) -> int:
    """Compute the sampled rows that lack any value, and return their number."""
    lacking = np.zeros(len(side.rows), dtype=bool)
    lacking[side.chosen] = not reading.pooled
    if reading.pooled:
        lacking |= side.missing([pooled_boundary(one.read) for one in reading.cuts], reading.pooled)
    have = {key: features.find(side.hashes)[:, 0] >= 0 for key, features in reading.kept.items()}
    for found in have.values():
        lacking[side.chosen] |= ~found[side.chosen]
    order = side.rows.lengths.argsort(kind="stable")
    missing = order[lacking[order]]
    if not len(missing):
        return 0
    known = {key: features.find(side.hashes)[:, 0] >= 0 for key, features in reading.pooled.items()}
    site.adapted.eval_mode()
    reads = list({one.read.key: one.read for one in reading.cuts}.values())
    with ExitStack() as stack:
        vectors = {key: stack.enter_context(one.writer(folder)) for key, one in reading.pooled.items()}
        whole = {key: stack.enter_context(one.writer(folder)) for key, one in reading.kept.items()}
        for done, (index, values) in enumerate(_computed(site, reading, side, missing), 1):
            name = bytes(side.hashes[index]) if vectors else b""
            for one in reads:
                vector = pooled(values[one.key], one)
                if not vectors:
                    reading.held.setdefault(one.key, {})[index] = vector
                elif not known[one.key][index]:
                    vectors[one.key].add(name, vector)
            for key, writer in whole.items():
                if not have[key][index]:
                    writer.add(name, values[key])
            if done % BATCH == 0 or done == len(missing):
                what = f"features of {site.adapted.base.reference}"
                site.harness.emit(RowsEvaluated(done, len(missing), what))
    for features in (*reading.pooled.values(), *reading.kept.values()):
        features.refresh()
    return len(missing)


def _computed(
    site: CutSite, reading: _Reading, side: SampledRows, missing: NDArray[np.int64]
) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
    """Yield each missing row with the values of all places, from batches of rows of similar length."""
    cuts = [one.cut for one in reading.cuts if one.cut is not None]
    if not cuts:
        for index in missing.tolist():
            with site.accelerator.autocast():
                yield index, direct_values(site, reading.cuts, index)
        return
    everything = capture_only(reading.boundaries, max((cut.sizes for cut in cuts), key=_assumptions))
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH].tolist()
        with site.accelerator.autocast():
            values, _ = compute_rows(site.adapted, everything, side.rows, batch)
        yield from zip(batch, values, strict=True)


def _assumptions(sizes: Sizes) -> int:
    return len(sizes.fixed) + len(sizes.same)


def _read(reading: _Reading, side: SampledRows, boundary: Boundary) -> Floats:
    """Return the pooled values of the sampled rows, in their order."""
    if boundary.key in reading.held:
        values = [reading.held[boundary.key][int(index)] for index in side.chosen]
    else:
        features = reading.pooled[boundary.key]
        places = features.find(side.hashes[side.chosen])
        if (places < 0).any():
            raise NotCut("features that were written are not in the store")
        values = [features.read(place, torch.float32) for place in places]
    return np.stack([value.numpy() for value in values]).astype(np.float64)


def _operations(site: CutSite, chosen: NDArray[np.int64]) -> float:
    """Return the floating-point operations of a row's forward pass, counted on a few rows; 0 where they cannot be."""
    few = chosen[:: max(1, len(chosen) // COUNTED_ROWS)][:COUNTED_ROWS]
    total = 0.0
    for index in few:
        batch: Batch = to_device(
            encoded(site.adapted, site.snapshot.train, few[few == index], train=False), site.harness.device
        )
        counter: Any = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            site.adapted.forward(batch)
        total += counter.get_total_flops()
    return total / len(few)
