"""Features and logits of a model for the rows of both domains; a frozen part is computed once for all candidates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.bases.delta import apply_delta, canonical_name
from regraft.contracts import RowsEvaluated, TrunkProgress
from regraft.data.rows import Rows
from regraft.errors import Unsupported
from regraft.training.cut_check import CutSite, checked_cut, may_cache
from regraft.training.evaluate import encoded, eval_output, to_device
from regraft.training.trunk_cache import file_columns, fill_trunk, measured_plan, open_features
from regraft.trunk.cache import CachedRows, Trunk
from regraft.trunk.cut import NotCut

MOST_ROWS = 20_000
"""Rows of a side that are read; of more, a random part of this size."""
BATCH = 64
PASSES = 4.0
"""How often kept outputs of a row are read at least: by the source-only run, by candidates, and here."""


@dataclass(frozen=True, slots=True)
class SideOutputs:
    """What a model makes of some rows."""

    features: Tensor
    """(rows, width) in float64: the input of the head's last linear layer."""
    logits: Tensor
    """(rows, classes) in float64."""
    labels: Tensor | None
    """(rows,): class numbers; None for rows without labels."""


def keep_trunk(site: CutSite, sides: Sequence[Rows], folder: Path) -> Trunk | None:
    """Return the frozen part's outputs for all rows of the sides, kept in the store; None where keeping does not pay.

    Raises Unsupported where the spec names a place for them and nothing can be kept.
    """
    if not may_cache(site):
        return None
    try:
        checked = checked_cut(site)
        plan = measured_plan(site, checked, folder, PASSES)
        if plan.where == "recompute":
            return None
        files = file_columns(site.spec)
        features = open_features(site, checked.cut.kept) if plan.where == "disk" else {}
        cached = tuple(CachedRows(rows, files) for rows in sides)
        trunk = Trunk(site.adapted, checked.cut, cached, features, checked.shape_only)
        fill_trunk(trunk, site, folder, lambda done, total: site.harness.emit(TrunkProgress(done, total)))
        return trunk
    except NotCut:
        return None


def load_delta(adapted: Adapted, tensors: Mapping[str, Tensor]) -> None:
    """Load a model's own values into the adapted model of the same shape."""
    apply_delta(adapted, tensors)
    adapted.eval_mode()


def compute(site: CutSite, rows: Rows, what: str) -> SideOutputs:
    """Return the model's features and logits for rows, in their order; of many, for a random part."""
    adapted = site.adapted
    chosen = np.arange(len(rows))
    if len(rows) > MOST_ROWS:
        chosen = np.sort(np.random.default_rng(0).choice(len(rows), MOST_ROWS, replace=False))
    order = chosen[np.argsort(rows.lengths[chosen], kind="stable")]
    features, logits, labels = [], [], []
    adapted.eval_mode()
    with torch.inference_mode(), site.accelerator.autocast(), _inputs_of_head(adapted) as seen:
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            batch = to_device(encoded(adapted, rows, part, train=False), site.harness.device)
            output = eval_output(adapted, batch)
            features.append(seen.pop().float().cpu())
            logits.append(output.logits.float().cpu())
            if "labels" in batch:
                labels.append(batch["labels"].cpu())
            site.harness.emit(RowsEvaluated(start + len(part), len(order), what))
    back = torch.from_numpy(np.argsort(order, kind="stable"))
    return SideOutputs(
        features=torch.cat(features)[back].double(),
        logits=torch.cat(logits)[back].double(),
        labels=torch.cat(labels)[back] if labels else None,
    )


@contextmanager
def _inputs_of_head(adapted: Adapted) -> Iterator[list[Tensor]]:
    """Record the inputs of the head's last linear layer."""
    seen: list[Tensor] = []
    layer = adapted.last_linear()
    assert layer is not None  # `last_layer` was asked before
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()


def last_layer(adapted: Adapted) -> torch.nn.Linear:
    """Return the head's last linear layer. Raises Unsupported where the head has none."""
    layer = adapted.last_linear()
    if layer is None:
        raise Unsupported(
            f"`regraft adapt` needs a head that ends in a linear layer; that of {adapted.task.key()} on this base has "
            "none: train with another task or base",
            where="task",
        )
    return layer


def head_names(adapted: Adapted) -> tuple[str, str] | None:
    """Return the names in the delta of the last layer's weight and bias; None where it is no such layer."""
    layer = adapted.last_linear()
    if layer is None or layer.bias is None:
        return None
    found = next(name for name, module in adapted.model.named_modules() if module is layer)
    bare = canonical_name(f"{found}.weight", adapted.anatomy.prefix).removesuffix(".weight")
    names = f"{bare}.weight", f"{bare}.bias"
    return names if set(names) <= set(adapted.delta_names) else None
