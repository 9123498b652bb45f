"""The data curve of one base on a spec's training rows, beside random weights of its architecture."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from regraft.bases.derived_base import RANDOM, find_base
from regraft.bases.locate import Base
from regraft.errors import RegraftError
from regraft.selection.choice import RANDOM as SEED
from regraft.selection.choice import score_depth
from regraft.selection.curve_findings import curve_findings
from regraft.selection.features import DepthFeatures, base_features
from regraft.selection.learning_curve import MeasuredCurve, measure_curve
from regraft.selection.measured_base import SelectWork, base_site
from regraft.selection.sampled_rows import sampled
from regraft.selection.score import FeatureTarget
from regraft.selection.targets import target_of
from regraft.training.harness import LocalHarness
from regraft.training.memory_release import free_memory

MOST_ROWS = 2000
"""Training rows that the curve is measured on, at most: of more, its shares are those of a sample."""
JUDGED_DEPTHS_BY = "linear_probe"
"""The score that chooses a depth: the curve's heads are linear too."""


def data_curve(work: SelectWork, base: Base) -> dict[str, Any]:
    """Return the findings of a base's data curve, with its depth and the training rows it rests on.

    Heads in closed form are fitted on features at the depth where a linear probe is best. Four fifths of the rows are
    the whole; the others judge. Evaluation rows are not read. Raises RequestError for too few rows.
    """
    work = replace(work, chosen=sampled(work.spec.task, work.snapshot.train, MOST_ROWS, SEED))
    depth, adapted = _curve(work, base)
    free_memory(LocalHarness())  # one model at a time
    random: MeasuredCurve | None = None
    with suppress(RegraftError):  # weights of some architectures cannot be drawn
        compute = work.spec.compute.model_copy(update={"trunk": "memory"})
        drawn = find_base(work.store, f"{RANDOM}{SEED}:{base.reference}")
        _, random = _curve(replace(work, spec=work.spec.model_copy(update={"compute": compute})), drawn)
    return {**curve_findings(adapted, random, seed=SEED), "depth": depth, "rows": len(work.chosen)}


def _curve(work: SelectWork, base: Base) -> tuple[str, MeasuredCurve]:
    site = base_site(work, base, work.spec)
    target = target_of(site.adapted, work.snapshot.train, work.chosen, work.snapshot.groups)
    found = base_features(site, work.spec, work.chosen, work.folder)
    best = max(found.depths, key=lambda one: _probe(one, target))
    return best.name, measure_curve(best.features, target, np.random.default_rng(SEED), progress=work.progress)


def _probe(one: DepthFeatures, target: FeatureTarget) -> float:
    """Return the linear probe of features at a depth; the worst where it has no meaning."""
    found = score_depth(one.features, target, (JUDGED_DEPTHS_BY,))
    return found[JUDGED_DEPTHS_BY].value if found else float("-inf")
