"""One base of a selection on this machine: its model, its features and their scores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.bases.locate import Base
from regraft.contracts import Method, Progress
from regraft.data.row_sample import fit_to_data
from regraft.data.snapshot import Snapshot
from regraft.selection.choice import BaseScores, DepthScores, deciding, proposed_depth, score_depth, shown_scores
from regraft.selection.depth_cuts import DepthCut
from regraft.selection.features import BaseFeatures, base_features
from regraft.selection.score import FeatureTarget
from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore
from regraft.training.cut_check import CutSite
from regraft.training.distribute import make_accelerator
from regraft.training.harness import LocalHarness
from regraft.training.memory_check import check_weights_fit
from regraft.training.run import build_model


@dataclass(frozen=True)
class SelectWork:
    """What all bases of one selection share."""

    store: ObjectStore
    spec: RunSpec
    snapshot: Snapshot
    chosen: NDArray[np.int64]
    progress: Progress
    folder: Path


@dataclass(eq=False)
class MeasuredBase:
    """A base that was read."""

    base: Base
    features: BaseFeatures
    scores: BaseScores
    seconds: float


def base_site(work: SelectWork, base: Base, spec: RunSpec) -> CutSite:
    """Return a base with the task's head, every weight of which may move, on this machine."""
    harness = LocalHarness(progress=work.progress)
    check_weights_fit(base, harness)
    task = fit_to_data(spec.task, work.snapshot.train)
    data = spec.data.model_copy(update={"augment": "off"})  # features are those of rows as they are
    plain = spec.model_copy(update={"task": task, "data": data, "method": _moving_all(), "losses": (), "search": None})
    adapted = build_model(plain, work.snapshot, harness, base)
    adapted.model.to(harness.device)
    return CutSite(plain, work.snapshot, adapted, harness, make_accelerator(plain.compute, harness), work.store)


def _moving_all() -> Method:
    """Return a method that moves every weight from the first step."""
    members = map(Method.lookup, Method.names())
    plain = (one for one in members if one.moves_all and not one.trains_features and not one.has_phases())
    return next(plain)()


def measure_base(
    work: SelectWork, site: CutSite, target: FeatureTarget, *, cuts: Sequence[DepthCut] | None = None
) -> MeasuredBase:
    """Return the features of a base and their scores at every depth; `cuts` as `base_features` has them."""
    started = time.monotonic()
    features = base_features(site, work.spec, work.chosen, work.folder, cuts=cuts)
    names = deciding(target)
    depths = [DepthScores(one.name, one.depth, score_depth(one.features, target, names)) for one in features.depths]
    scores = BaseScores(
        site.adapted.base.reference, depths, features.operations, features.parameters, groups=target.groups
    )
    place = next(number for number, one in enumerate(depths) if one is proposed_depth(scores))
    if cuts is None:
        scores.others = shown_scores(features.depths[place].features, target)
    return MeasuredBase(site.adapted.base, features, scores, time.monotonic() - started)
