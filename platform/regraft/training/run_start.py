"""The plan of a run as it begins: what is refused, what is recorded, and what guards its budget."""

from __future__ import annotations

from regraft.bases.adapted import Adapted
from regraft.bases.base_header import folder_header
from regraft.data.snapshot import Snapshot
from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import open_existing
from regraft.training.budget_guard import BudgetGuard
from regraft.training.harness import Harness
from regraft.training.job import Job
from regraft.training.memory_check import check_steps_fit
from regraft.training.memory_parts import site_of
from regraft.training.planner import Planner, RunPlan, WorkerFacts, plan_of, process_bytes, processor_bytes
from regraft.training.resume import newest_state
from regraft.training.smaller_runs import space_refusal

SMALL = 2_000_000
"""Parameters below which a model takes less memory than the libraries do: its activations are not counted."""


class RunStart:
    """Plans a run on this rank, refuses what cannot fit, and watches its budget."""

    def __init__(self, spec: RunSpec, job: Job, harness: Harness) -> None:
        self.spec, self.job, self.harness = spec, job, harness
        self._libraries = process_bytes()
        self.guard = BudgetGuard(spec, job, harness) if spec.budget.limits else None

    def plan(self, adapted: Adapted, snapshot: Snapshot) -> RunPlan:
        """Return the run's plan. Raises RequestError on every rank where the run cannot fit."""
        spec, harness = self.spec, self.harness
        beside = {"libraries": self._libraries, "processor": processor_bytes(adapted.base.path)}
        planner, passes = None, None
        if harness.first and (self.guard is not None or _is_large(adapted)):
            header = folder_header(adapted.base.path, adapted.base.reference)
            planner = Planner(header, snapshot, adapted.context.processor, site_of(spec, harness))
            passes = planner.passes_of(spec)
        check_steps_fit(spec, adapted, harness, passes)
        plan = plan_of(spec, adapted, snapshot, WorkerFacts(site_of(spec, harness), passes, beside))
        if self.guard is not None:
            if harness.first:
                self.guard.done = newest_state(Checkpoints(open_existing(spec.store), self.job.run))
            self.guard.check_start(adapted, snapshot, plan, planner)
        return plan


def check_trial(spec: RunSpec, adapted: Adapted, snapshot: Snapshot, harness: Harness) -> None:
    """Raise RequestError where a trial of a search does not fit into this machine, or into its budget of memory."""
    if spec.budget.memory is None:
        check_steps_fit(spec, adapted, harness)
        return
    header = folder_header(adapted.base.path, adapted.base.reference)
    planner = Planner(header, snapshot, adapted.context.processor, site_of(spec, harness))
    plan = planner.plan(spec, {"libraries": process_bytes()})
    alone = spec.model_copy(update={"budget": spec.budget.model_copy(update={"store_gb": None})})
    if problem := space_refusal(alone, plan, planner):
        raise RequestError(problem, where="budget")


def _is_large(adapted: Adapted) -> bool:
    return sum(one.numel() for one in adapted.model.parameters()) > SMALL
