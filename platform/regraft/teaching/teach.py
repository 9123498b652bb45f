"""Teaching: a new class for a registered model from a few examples, as a new version of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regraft.contracts import Progress, note
from regraft.contracts.label_names import look_alikes
from regraft.data.kept_features import KeptFeatures
from regraft.errors import Damaged, NotFound, RequestError
from regraft.serving.predictor import Predictor
from regraft.store.atomic_files import writing_locally
from regraft.store.names import alias_name
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry, Version
from regraft.teaching.effect import ClassEffect, effects, metrics_after, refuse_loss
from regraft.teaching.evidence import LabelledFeatures, find_evidence
from regraft.teaching.examples import read_examples
from regraft.teaching.head_reader import HeadReader
from regraft.teaching.imprint import Imprint, imprinted
from regraft.teaching.publication import TaughtClass, publish_taught
from regraft.teaching.request import TeachRequest
from regraft.teaching.usual_rows import teach_usual, teaches_usual


@dataclass(frozen=True, slots=True)
class Taught:
    """The result of a teaching: the new version, and what the class does to those of before."""

    model: str
    version: str
    label: str
    facts: Mapping[str, Any]
    """What the version's lineage holds of it: `from`, `rows`, `bias`, `moved`, `effect` and more."""
    alias: str | None
    """The alias that means the new version now."""
    seconds: float
    store: str

    def document(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        return {
            "model": self.model,
            "version": self.version,
            "class": self.label,
            "alias": self.alias,
            **{name: value for name, value in self.facts.items() if name != "class"},
            "seconds": self.seconds,
            "store": self.store,
        }


def teach(store: ObjectStore, request: TeachRequest, progress: Progress | None = None) -> Taught:
    """Publish a version of the model that knows one class more, and let the alias of `promote` mean it.

    A detector of anomalies learns that rows of the class of good ones are usual, in place of a new class.

    Raises RequestError where a class of before would lose more recall than `max_loss` allows, for a class that the
    model has, and for rows that are none of its task; Unsupported for a model without a linear head.
    """
    started = time.monotonic()
    request.check()
    if request.promote is not None:
        alias_name(request.promote)
    predictor = Predictor.open(store, request.model, plugins=request.plugins, base=request.base, device=request.device)
    version, facts = (teach_usual if teaches_usual(predictor) else _teach_class)(predictor, request, progress)
    if request.promote is not None:
        Registry(store).promote(version.name, version.version, request.promote)
    _note_others(version, predictor.fetched.version, progress)
    return Taught(
        model=version.name,
        version=version.version,
        label=request.label,
        facts=facts,
        alias=request.promote,
        seconds=time.monotonic() - started,
        store=store.url,
    )


def _teach_class(
    predictor: Predictor, request: TeachRequest, progress: Progress | None
) -> tuple[Version, Mapping[str, Any]]:
    """Publish a version with one class more; return it with what its lineage holds of the class."""
    reader = HeadReader(predictor)
    _refuse_known(predictor, request, progress)
    with tempfile.TemporaryDirectory(prefix="regraft-teach-") as scratch, writing_locally(Path(scratch)):
        examples = reader.features(read_examples(predictor, request, Path(scratch)))
        evidence = find_evidence(reader, request, Path(scratch))
    taught = ClassCalibration(reader, request, evidence, examples).taught()
    return publish_taught(predictor.fetched, taught, reader.names), taught.facts


def _refuse_known(predictor: Predictor, request: TeachRequest, progress: Progress | None) -> None:
    labels = predictor.labels
    if request.label in labels:
        raise RequestError(
            f"{predictor.name} has the class {request.label!r} already: train it again with more rows, or "
            "teach a class of another name",
            where="class",
        )
    if doubts := look_alikes([*labels, request.label]):
        note(progress, doubts)


@dataclass(frozen=True, eq=False)
class ClassCalibration:
    """A new class beside those of a model, calibrated and measured on rows of theirs."""

    reader: HeadReader
    request: TeachRequest
    evidence: LabelledFeatures
    examples: Tensor
    """What the head reads of the examples, (rows, width)."""

    def taught(self) -> TaughtClass:
        """Return the class to publish. Raises RequestError where a class of before loses too much."""
        predictor, before, kept = self.reader.predictor, self.reader.head(), self.evidence.kept
        made = imprinted(before, kept, self.examples)
        after, labels = before.with_class(made.row, made.bias), (*predictor.labels, self.request.label)
        found = effects(before, after, kept, labels)
        refuse_loss(found, self.request.max_loss, predictor.name)
        context = replace(predictor.adapted.context, labels=labels)
        return TaughtClass(
            label=self.request.label,
            row=made.row,
            bias=made.bias,
            kept=self._kept(),
            metrics=metrics_after(predictor.adapted.task, context, after, kept),
            facts=self._facts(made, found),
        )

    def _kept(self) -> KeptFeatures:
        """Return the features of rows of before with those of the examples, so that later classes spare this one."""
        kept = self.evidence.kept
        number = torch.full((len(self.examples),), len(self.reader.predictor.labels))
        return KeptFeatures(torch.cat([kept.features, self.examples]), torch.cat([kept.classes, number])).chosen()

    def _facts(self, made: Imprint, found: Sequence[ClassEffect]) -> dict[str, Any]:
        """Return what the version's lineage holds of this class."""
        return {
            "class": self.request.label,
            "from": self.reader.predictor.fetched.version.version,
            "rows": len(self.examples),
            "bias": made.bias,
            "moved": made.moved,
            "recognised": made.recognised,
            "measured_on": {"source": self.evidence.source, "rows": len(self.evidence.kept), "of": self.evidence.rows},
            "max_loss": self.request.max_loss,
            "effect": [one.document() for one in found],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _note_others(version: Version, before: Version, progress: Progress | None) -> None:
    """Note versions that others taught meanwhile: each of them has its own new class alone."""
    known = Registry(version.store).versions(version.name)
    beside = [one for one in known if before.number < one.number < version.number and _taught_from(one, before)]
    if beside:
        others = " and ".join(f"{one} ({one.meta['lineage']['taught'][-1].get('class')})" for one in beside)
        note(
            progress,
            f"{version} was taught from {before}, as was {others}, whose class it does not have: teach one from the "
            "other to have both",
        )


def _taught_from(version: Version, before: Version) -> bool:
    try:
        taught = (version.meta.get("lineage") or {}).get("taught") or []
    except (Damaged, NotFound):
        return False
    return bool(taught) and taught[-1].get("from") == before.version
