"""The outputs that a run of the first choice reads, computed for all of its rows (`regraft select --warm`)."""

from __future__ import annotations

from dataclasses import replace

from regraft.bases.adapt import narrow
from regraft.bases.locate import Base
from regraft.errors import Unsupported
from regraft.selection.measured_base import SelectWork, base_site
from regraft.spec.run import RunSpec
from regraft.training.cut_check import checked_cut, may_keep
from regraft.training.phases import trained_names
from regraft.training.trunk_cache import filled_trunk, measured_plan
from regraft.trunk.cut import NotCut


def check_warm(spec: RunSpec) -> None:
    """Raise Unsupported where a run of the spec finds nothing in the store, whatever its base."""
    method, trunk = spec.method, spec.compute.trunk
    if trunk not in ("auto", "disk"):
        raise Unsupported(
            f"compute.trunk: {trunk} keeps nothing in the store: write auto or disk, or leave out --warm",
            where="--warm",
        )
    if not method.by_depth or method.has_phases() or method.closed_form or not may_keep(spec):
        raise Unsupported(
            f"a run of method {method.key()} here keeps no outputs of a frozen part: write a method that freezes one, "
            "or leave out --warm",
            where="--warm",
        )


def compute_others(work: SelectWork, base: Base) -> None:
    """Compute what the spec's own run keeps of a base, for all rows that lack it; their labels are not read.

    Raises Unsupported where the model cannot be cut, and where the outputs do not fit `compute.trunk_gb` or the disk.
    """
    site = base_site(work, base, work.spec)
    compute = work.spec.compute.model_copy(update={"trunk": "disk"})
    site = replace(site, spec=work.spec.model_copy(update={"task": site.spec.task, "compute": compute}))
    narrow(site.adapted, trained_names(site.adapted), work.spec.method)
    try:
        checked = checked_cut(site)
        plan = measured_plan(site, checked, work.folder, passes=1.0)
        if plan.where == "disk":
            filled_trunk(site, checked, plan, work.folder)
    except NotCut as error:
        raise Unsupported(f"outputs of {base.reference} cannot be kept: {error}", where="--warm") from error
    if plan.where != "disk":
        raise Unsupported(f"outputs of {base.reference} are not kept: {plan.why}", where="--warm")
