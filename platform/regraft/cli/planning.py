"""`regraft plan`: what a spec moves, needs, writes and takes, before anything starts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from regraft.cli.dispatch import WORK, function
from regraft.cli.screen import Reply, Screen
from regraft.cli.train import overrides_of
from regraft.cli.train_progress import following
from regraft.spec.run import RunSpec
from regraft.units import counted

if TYPE_CHECKING:
    from regraft.planning.outcome import PlanOutcome


def plan(args: argparse.Namespace, screen: Screen) -> Reply:
    """Run the `plan` command."""
    spec = RunSpec.load(Path(args.spec), overrides=overrides_of(args))
    with following(screen) as progress:
        found: PlanOutcome = function(WORK["plan"])(spec, measure=args.measure, progress=progress)
    show_plan(found, screen)
    return Reply(found.document())


def show_plan(found: PlanOutcome, screen: Screen) -> None:
    """Show a plan: what moves, what it takes, and the memory of a worker by part."""
    screen.say(Text.assemble((found.spec.run, "bold green"), f" with {counted(found.plan.workers, 'worker')}: planned"))
    screen.facts(found.facts())
    screen.head("memory of a worker at its peak")
    screen.table(
        ("  part", "bytes", "where"), [(f"  {name}", size, where) for name, size, where in found.memory_rows()]
    )
    for text in found.accuracy():
        screen.say(text)
