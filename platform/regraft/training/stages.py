"""The stages of a spec: ordinary runs, trained one after another before the run itself."""

from __future__ import annotations

from collections.abc import Callable

from regraft.bases.derived_base import MODEL, find_base
from regraft.contracts import Progress, note
from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore, open_store
from regraft.store.runs import Runs
from regraft.training.budget_guard import spent_seconds
from regraft.training.prepare import base_reference, build_rows, choose_run, find_document
from regraft.training.registration import Outcome


def after_stages(spec: RunSpec, train: Callable[[RunSpec], Outcome], progress: Progress | None) -> RunSpec:
    """Train the stages of a spec, and return the spec with the model of the last one as its base.

    `train` trains a spec without stages, or returns the outcome of its finished run. A spec without stages is returned
    as it is. The rows of all runs are checked before the first one starts.
    """
    stages = spec.stage_runs()
    if not stages:
        return spec
    check_rows_ahead(spec, stages)
    base, budget, runs = stages[0].base, spec.budget, Runs(open_store(spec.store))
    for number, stage in enumerate(stages, 1):
        note(progress, f"stage {number} of {len(stages)}: task {stage.task.key()} makes {stage.name} from {base}")
        outcome = train(stage.model_copy(update={"base": base, "budget": budget}))
        budget = budget.less(spent_seconds(find_document(runs, outcome.run) or {}) or outcome.seconds)
        base = f"{MODEL}{outcome.model}@{outcome.version}"
    note(progress, f"the stages are done: {spec.name} begins with {base}")
    return spec.model_copy(update={"base": base, "budget": budget})


def check_rows_ahead(spec: RunSpec, stages: tuple[RunSpec, ...]) -> None:
    """Raise DataError for rows of a later run that cannot be used, unless the first stage is finished.

    They are read by the processor of the first base, which all runs have.
    """
    store = open_store(spec.store)
    store.begin()
    store.check()
    if is_finished(store, stages[0]):
        return
    base = find_base(store, base_reference(stages[0]))
    for later in (*stages[1:], spec):
        build_rows(store, later, base, None)


def is_finished(store: ObjectStore, spec: RunSpec) -> bool:
    """Return whether the newest run of a spec is registered."""
    runs = Runs(store)
    known = find_document(runs, choose_run(runs, spec, fresh=False))
    return known is not None and known.get("state") == "registered"
