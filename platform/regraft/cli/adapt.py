"""`regraft adapt`: adapt a model to another domain without its labels, or say that it should be left as it is."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from regraft.cli.dispatch import WORK, function
from regraft.cli.jobs.remote import is_job_api
from regraft.cli.screen import Reply, Screen, figure, store_of
from regraft.cli.signals import ended_by_signals
from regraft.cli.train import overrides_of
from regraft.cli.train_progress import following as following_runs
from regraft.contracts import Event, Progress, RowsEvaluated, TrunkProgress
from regraft.errors import RequestError
from regraft.spec.document import absolute
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.units import seconds_text

if TYPE_CHECKING:
    from regraft.adaptation.outcome import AdaptOutcome

_QUIET_S = 2.0
_EVERY_S = 5.0


def adapt(args: argparse.Namespace, screen: Screen) -> Reply:
    """Run the `adapt` command."""
    if is_job_api(args.address):
        raise RequestError(
            "`regraft adapt` is not submitted as a job: run it where it may train, or join a Ray there (host:6379)",
            where="--address",
        )
    spec = RunSpec.load(Path(args.spec), overrides=overrides_of(args))
    if args.create and not spec.store.startswith("s3://"):  # a prefix needs no asking
        open_store(spec.store).create()
    with ended_by_signals(), following(screen) as progress:
        outcome: AdaptOutcome = function(WORK["adapt"])(
            spec, ladder=names_of(args.ladder), check=args.check, progress=progress, address=args.address
        )
    show_result(outcome, screen)
    _show_next(outcome, screen)
    return Reply(outcome.document())


def names_of(written: str | None) -> tuple[str, ...] | None:
    """Return the names in `a,b`; None where nothing is written."""
    return None if written is None else tuple(name.strip() for name in written.split(",") if name.strip())


@contextmanager
def following(screen: Screen) -> Iterator[Progress]:
    """Yield a sink that shows the runs as training does, and between them how many rows are done."""
    with following_runs(screen) as runs:
        yield _RowsBeside(screen, runs)


class _RowsBeside:
    """Passes events on to the display of runs, and notes rows that are done, at most every five seconds."""

    def __init__(self, screen: Screen, runs: Progress) -> None:
        self._screen, self._runs = screen, runs
        self._next = time.monotonic() + _QUIET_S

    def __call__(self, event: Event) -> None:
        if not isinstance(event, RowsEvaluated | TrunkProgress):
            self._runs(event)
            return
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY_S
            what, of = (event.what, event.of) if isinstance(event, RowsEvaluated) else ("frozen part", event.total)
            self._screen.note(f"{what}: {event.rows:,} of {of:,} rows")


def show_result(outcome: AdaptOutcome, screen: Screen) -> None:
    """Show the decision, the shift that was found, the candidates, and whether the choice held."""
    screen.say()
    before = f"was decided before (`regraft runs delete {outcome.run}` lets it be decided again)"
    state = before if outcome.already else "is registered" if outcome.adapted else "stands as it is"
    screen.say(Text.assemble((f"{outcome.model}@{outcome.version}", "bold green"), f" {state}: {outcome.headline}"))
    screen.facts(
        [
            ("shift", outcome.shift),
            ("why", outcome.why),
            ("risk", outcome.risk),
            *([("check", outcome.check["sentence"])] if outcome.check else []),
            ("time", seconds_text(outcome.seconds)),
            ("adaptation", outcome.run),
            ("store", outcome.store),
            ("page", outcome.page),
        ]
    )
    columns, rows = candidate_table(outcome.candidates)
    screen.head("candidates")
    screen.table(columns, rows)


def candidate_table(candidates: list[dict[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Return the heads and rows of the table of candidates; a validator without a value is absent."""
    names = list(dict.fromkeys(name for one in candidates for name in one["validators"]))
    columns = ["  candidate", "source score", "effective classes", *names, "verdict"]
    rows: list[list[object]] = [
        [
            f"  {one['name']}",
            _number(one.get("source_score")),
            _number(one.get("effective_classes")),
            *(_number(one["validators"].get(name)) for name in names),
            one["verdict"],
        ]
        for one in candidates
    ]
    return columns, rows


def _number(value: object) -> str:
    return "absent" if value is None else figure(value)


def _show_next(outcome: AdaptOutcome, screen: Screen) -> None:
    elsewhere = absolute(store_of(None)) != outcome.store
    store = f" --store {shlex.quote(outcome.store)}" if elsewhere else ""
    screen.say("next")
    screen.say(f"  regraft models show {outcome.model}@{outcome.version}{store}")
    if not outcome.check:
        screen.say("  the same command with --check ROWS says from labelled rows of the target whether the choice held")
