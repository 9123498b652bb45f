"""Registered models that loss terms learn from: their logits for the training rows, computed once and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.bases.derived_base import MODEL, load_version
from regraft.contracts import Note, TeacherLoss, TrunkProgress
from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from regraft.store.names import parse
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry, Version
from regraft.training.cut_check import CutSite
from regraft.training.evaluate import encoded, to_device
from regraft.training.trunk_cache import file_columns, fill_trunk, on_all_ranks, open_features
from regraft.trunk.boundary import Boundary
from regraft.trunk.cache import CachedRows, Trunk
from regraft.trunk.cut import NotCut, capture, capture_only
from regraft.trunk.feature_store import Features
from regraft.trunk.shapes import ROWS, Dim, Sizes


@dataclass(frozen=True)
class TeacherLogits:
    """A teacher's logits for the training rows, in the store."""

    side: CachedRows
    features: Features
    boundary: Boundary
    order: tuple[int, ...]
    """For each class of the run, the teacher's output for it."""

    def of(self, indices: Sequence[int]) -> Tensor:
        """Return the logits of rows, (rows, classes)."""
        places = self.side.places[self.boundary.key]
        read = [self.features.read(places[index], self.boundary.dtype) for index in indices]
        return torch.stack(read)[:, list(self.order)]


def teachers_of(spec: RunSpec) -> tuple[str, ...]:
    """Return the references of the models that loss terms of a spec learn from."""
    named = (loss.teacher for loss in spec.losses if isinstance(loss, TeacherLoss) and loss.weight)
    return tuple(dict.fromkeys(named))


def check_teachers(store: ObjectStore, spec: RunSpec, labels: Sequence[str]) -> None:
    """Raise RequestError where a teacher has another task or other classes than the run, and NotFound without it."""
    for reference in teachers_of(spec):
        version = _version(store, reference)
        task = str(version.meta["task"].get("type", ""))
        if task != spec.task.key():
            raise RequestError(
                f"teacher {version} is of task {task}, and this run of {spec.task.key()}: name one of the same task",
                where="losses",
            )
        class_order(version, labels)


def _version(store: ObjectStore, reference: str) -> Version:
    return Registry(store).version(*parse(reference.removeprefix(MODEL)))


def class_order(version: Version, labels: Sequence[str]) -> tuple[int, ...]:
    """Return where each class stands among the teacher's. Raises RequestError where they are not the same."""
    known = list(version.meta["labels"])
    if sorted(known) == sorted(labels):
        return tuple(known.index(label) for label in labels)
    lacking = [label for label in labels if label not in known]
    surplus = [label for label in known if label not in labels]
    differences = [
        f"{what} {', '.join(map(repr, some[:3]))}{' and more' if len(some) > 3 else ''}"
        for what, some in (("lacks", lacking), ("also knows", surplus))
        if some
    ]
    raise RequestError(
        f"teacher {version} {' and '.join(differences)}: a teacher has the classes of the rows; write them in "
        "data.labels where the rows lack some, or name another model",
        where="losses",
    )


def load_teachers(site: CutSite, folder: Path) -> Mapping[str, TeacherLogits]:
    """Return the logits of all teachers for the training rows, by reference; what is missing is computed and stored.

    `site` is the run's, `folder` is scratch space. Raises RequestError where they cannot be kept.
    """
    return {reference: _kept_logits(site, reference, folder) for reference in teachers_of(site.spec)}


def _kept_logits(site: CutSite, reference: str, folder: Path) -> TeacherLogits:
    harness, version = site.harness, _version(site.store, reference)
    teacher = load_version(site.store, reference)
    teacher.model.to(harness.device)
    own = replace(site, spec=site.spec.model_copy(update={"task": teacher.task}), adapted=teacher)
    try:
        boundary = on_all_ranks(harness, lambda: _logits_boundary(own))
        features = on_all_ranks(
            harness,
            lambda: open_features(own, [boundary], delta=version.meta["delta_sha256"], method=repr(teacher.method)),
        )
        side = CachedRows(site.snapshot.train, file_columns(site.spec))
        trunk = Trunk(teacher, capture_only([boundary], Sizes()), (side,), features)
        count = fill_trunk(trunk, own, folder, lambda done, total: harness.emit(TrunkProgress(done, total)))
    except NotCut as reason:
        raise RequestError(f"the logits of teacher {version} cannot be kept: {reason}", where="losses") from reason
    how = f"computed once for {count:,} rows" if count else "found in the store"
    harness.emit(Note(f"the logits of teacher {version} are {how}"))
    return TeacherLogits(side, features[boundary.key], boundary, class_order(version, site.adapted.context.labels))


def _logits_boundary(site: CutSite) -> Boundary:
    """Return the output of the teacher's last layer, one vector a row. Raises NotCut where it answers otherwise."""
    adapted = site.adapted
    name = _last_layer(adapted)
    rows = site.snapshot.train
    batch = to_device(encoded(adapted, rows, rows.lengths.argsort(kind="stable")[:2], train=False), site.harness.device)
    classes = len(adapted.context.labels)
    boundary = Boundary(name, 0, "kept", None, (Dim(ROWS, 1), Dim(None, classes)), torch.float32, order=(0, 1))
    with site.accelerator.autocast(), torch.no_grad():
        adapted.eval_mode()
        found = capture(adapted, batch, [boundary])[boundary.key]
        answered = adapted.forward(batch).logits
    if found.shape != answered.shape or found.shape[1:] != (classes,) or not torch.equal(found, answered):
        raise NotCut(f"{name} does not give one number for each class")
    return replace(boundary, dtype=found.dtype)


def _last_layer(adapted: Adapted) -> str:
    """Return the name of the head's last linear layer. Raises NotCut where there is none."""
    linear = adapted.last_linear()
    names = [name for name, module in adapted.model.named_modules() if module is linear]
    if linear is None or not names:
        raise NotCut("its head has no linear layer")
    return str(names[0])
