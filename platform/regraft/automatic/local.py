"""An automatic run in this process, without Ray: its runs, its searches, and the controls of its winner."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from regraft.automatic.outcome import AutoOutcome
from regraft.automatic.request import AutoRequest
from regraft.automatic.session import AutoMeans, auto_session
from regraft.comparison.session import Comparing
from regraft.contracts import NotesOnce, Progress
from regraft.spec.budget import LEAST_S
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.scratch_folder import swept
from regraft.training.registration import Outcome
from regraft.training.session import Finish, complete, train_local
from regraft.tuning.driver.finish import SearchOutcome
from regraft.tuning.driver.local_worker import LocalPool, plain_study
from regraft.tuning.session import SearchMeans, search_by


def auto_here(request: AutoRequest, progress: Progress | None = None) -> AutoOutcome:
    """Make a model of data in this process."""
    once = NotesOnce(progress)  # every run and search reads the same rows
    train, search = partial(train_local, progress=once), partial(_searched, once)
    with swept():
        return auto_session(request, AutoMeans(train, partial(compared_within, once), search), once)


def _searched(progress: Progress, spec: RunSpec) -> SearchOutcome:
    """Search a spec's space in this process; the page of the automatic run shows its trials."""
    return search_by(spec, SearchMeans(plain_study, LocalPool, progress, time.monotonic(), progress, report=False))


def compared_within(progress: Progress, spec: RunSpec, left: Callable[[], float]) -> Outcome:
    """Train a spec and its controls, each within what is left by then, and register the model with the verdict."""

    def control(one: RunSpec, finish: Finish | None) -> Outcome:
        compute = one.compute.model_copy(update={"trunk": "auto"})  # the model's own place may not be the control's
        budget = one.budget.model_copy(update={"seconds": max(LEAST_S, left())})
        bounded = one.model_copy(update={"compute": compute, "budget": budget})
        return train_local(bounded, progress=progress, finish=finish or complete)

    def train(finish: Finish) -> Outcome:
        return train_local(spec, progress=progress, finish=finish)

    return Comparing(control, progress).run(open_store(spec.store), train)
