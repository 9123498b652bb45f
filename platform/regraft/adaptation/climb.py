"""The candidates of an adaptation, tried from cheap to dear on one source-only model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from regraft.adaptation import runs
from regraft.adaptation.choice import AdaptCandidate, Evidence
from regraft.adaptation.domains import Domains, trained_candidate
from regraft.adaptation.forward import compute, head_names, load_delta
from regraft.adaptation.ladder import LABELLED, Ladder, LossRung
from regraft.adaptation.members import corrections
from regraft.adaptation.shift import Shift, ShiftKind
from regraft.adaptation.sides import LinearHead
from regraft.adaptation.trained import TrainedModel, Trainer, site_of, train_candidate
from regraft.adaptation.validator import Outputs
from regraft.bases.derived_base import MODEL, find_base
from regraft.contracts import Phase, Progress, note
from regraft.data.ingest import TARGET_WEIGHT
from regraft.data.sampler import batches_per_epoch
from regraft.data.snapshot import Snapshot
from regraft.errors import Diverged, Unsupported
from regraft.spec.auto import resolve_auto
from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore
from regraft.training.cut_check import CutSite
from regraft.training.run_steps import steps_of

Heads = Mapping[str, Callable[[LinearHead], LinearHead]]
"""Other heads to try, by name, each made of the source-only model's: for experiments in Python."""


@dataclass(frozen=True, eq=False)
class Tried:
    """A candidate that was tried, and what its registration needs: a head, or a trained model."""

    name: str
    candidate: AdaptCandidate | None
    """None where it was not tried, or failed."""
    head: LinearHead | None = None
    model: TrainedModel | None = None
    why_not: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Climb:
    """What the candidates are made of."""

    store: ObjectStore
    spec: RunSpec
    source: TrainedModel
    site: CutSite
    """The source-only model with its delta loaded, and the kept outputs of its frozen part."""
    snapshot: Snapshot
    domains: Domains
    shift: Shift
    train: Trainer
    progress: Progress | None
    heads: Heads = field(default_factory=dict)

    def tried(self, ladder: Ladder) -> Iterator[Tried]:
        """Yield each candidate of the ladder once it is known."""
        for name in ladder.corrections:
            yield self._timed(name, partial(self._corrected, name))
        for name, make in self.heads.items():
            yield self._timed(name, partial(self._with_head, name, make))
        for rung in ladder.losses:
            if why_not := self._no_run(rung):
                yield Tried(rung.name, None, why_not=why_not)
            else:
                yield self._timed(rung.name, partial(self._with_loss, rung))
        if ladder.labelled:
            yield self._timed(LABELLED, self._with_labels)

    def _timed(self, name: str, make: Callable[[], Tried]) -> Tried:
        """Return what `make` makes with its seconds; a candidate that diverges or cannot be ends alone.

        Other errors are the machines', and end the adaptation: it goes on by the same command.
        """
        started = time.monotonic()
        try:
            found = make()
        except (Diverged, Unsupported) as error:
            note(self.progress, f"candidate {name} is left out: {error}")
            found = Tried(name, None, why_not=f"It failed: {error}")
        return replace(found, seconds=time.monotonic() - started)

    def _corrected(self, name: str) -> Tried:
        if not self._holds_corrections:
            return Tried(name, None, why_not="The head is not linear in its features, so that it holds no correction.")
        head, candidate = self.domains.corrected(corrections()[name])
        return Tried(name, candidate, head)

    def _with_head(self, name: str, make: Callable[[LinearHead], LinearHead]) -> Tried:
        head = make(self.domains.head)
        return Tried(name, self.domains.with_head(name, head), head)

    @property
    def _holds_corrections(self) -> bool:
        return self.domains.linear and head_names(self.site.adapted) is not None

    def probe(self) -> Outputs | None:
        """Return the outputs of the correction that shows whether validators are listened to, in the ladder or not."""
        found = next((member for member in corrections().values() if member.probe), None)
        if found is None or not self._holds_corrections or self.shift.kind is not ShiftKind.COVARIATE:
            return None
        return self.domains.corrected(found)[1].outputs

    def _no_run(self, rung: LossRung) -> str:
        """Return why no model is trained with a loss; empty if one is."""
        if self.shift.kind is ShiftKind.UNKNOWN:
            return "There are too few rows to see a shift, so no model was trained."
        if self.shift.kind is ShiftKind.NONE:
            return "Nothing moved, so no model was trained."
        if self.shift.kind is ShiftKind.LABEL:
            return "Only the classes' shares moved, so no model was trained."
        target, size = self.snapshot.target, self.spec.training.batch_size
        if target is not None and len(target) < size:
            return f"data.target has {len(target)} rows, fewer than training.batch_size: {size}."
        if any(phase.patience is not None for phase in self._phases()):
            return "Phases of its method end by scores of source rows, which choose no step of a candidate."
        return ""

    def _phases(self) -> Sequence[Phase]:
        adapted, rows = self.site.adapted, len(self.snapshot.train)
        training = resolve_auto(runs.source_only(self.spec), rows).training
        per_epoch = batches_per_epoch(rows, training.batch_size)
        return adapted.method.phases(steps_of(training, rows), per_epoch, adapted.anatomy)

    def _with_loss(self, rung: LossRung) -> Tried:
        """Train with a loss: a head alone begins again on the same kept outputs, more weights go on from the source."""
        begins = None if runs.begins_again(self.spec) else self._as_base()
        written = runs.with_loss(self.spec, rung.loss, begins, len(self.snapshot.train))
        note(self.progress, f"candidate {rung.name}: a run with this loss")
        model = train_candidate(self.store, written, self.train)
        again = begins is None
        site = self.site if again else site_of(self.store, model, self.snapshot, self.site.harness)
        return Tried(rung.name, self._candidate(rung.name, model, site), model=model)

    def _as_base(self) -> str | None:
        """Return the source-only model as a base; None where it can be none, so that a run begins as it did."""
        reference = f"{MODEL}{self.source.version}"
        try:
            find_base(self.store, reference)
        except Unsupported as error:
            note(self.progress, f"{error.message}: candidates begin as the source-only run did")
            return None
        return reference

    def _with_labels(self) -> Tried:
        """Train on the source and on the labelled target rows."""
        note(self.progress, f"candidate {LABELLED}: a run with the rows of data.target_labels")
        model = train_candidate(self.store, runs.with_target_labels(self.spec), self.train)
        counted = int(model.meta["lineage"]["data"]["rows"]["train"]) - len(self.snapshot.train)
        found = self._candidate(LABELLED, model, self.site, evidence=Evidence.LABELS, labelled=counted // TARGET_WEIGHT)
        return Tried(LABELLED, found, model=model)

    def _candidate(
        self,
        name: str,
        model: TrainedModel,
        site: CutSite,
        *,
        evidence: Evidence = Evidence.VALIDATORS,
        labelled: int = 0,
    ) -> AdaptCandidate:
        """Return the candidate of a trained model, computed in the place of the model at the site."""
        load_delta(site.adapted, model.tensors)
        assert self.snapshot.target is not None
        what = f"outputs of {name}"
        source, target = (compute(site, rows, what) for rows in (self.snapshot.eval, self.snapshot.target))
        return trained_candidate(name, source, target, evidence, labelled=labelled)
