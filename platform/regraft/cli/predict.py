"""`regraft predict`: answer a file of rows into a file of answers, or of vectors."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.text import Text

from regraft.cli.dispatch import WORK, function
from regraft.cli.evaluate import columns_of
from regraft.cli.jobs.remote import is_job_api, run_as_job
from regraft.cli.screen import Reply, Screen, store_of
from regraft.cli.train_progress import following
from regraft.errors import RequestError
from regraft.spec.document import STANDARD_INPUT
from regraft.spec.yaml_words import parse_yaml
from regraft.units import counted, seconds_text

if TYPE_CHECKING:
    from regraft.serving.batch.session import BatchResult


def predict(args: argparse.Namespace, screen: Screen) -> Reply:
    """Run the `predict` command."""
    if args.input == STANDARD_INPUT:
        _check_standard_input(args, screen)
    if is_job_api(args.address):
        return run_as_job(
            args.address, screen, partial(function(WORK["pack predict"]), args=args, store=store_of(args.store))
        )
    with following(screen) as progress:
        written: BatchResult = function(WORK["predict"])(
            args.model,
            args.input,
            args.output,
            store=store_of(args.store),
            features=args.features,
            columns=columns_of(args.columns),
            format=parse_format(args.format),
            bad_rows=args.bad_rows,
            dtype=args.dtype,
            plugins=args.plugins,
            base=args.base,
            workers=args.workers,
            address=args.address,
            fresh=args.fresh,
            budget=budget_of(args),
            progress=progress,
        )
    _summary(written, screen, vectors=args.features)
    return Reply(written.document())


def budget_of(args: argparse.Namespace) -> dict[str, float]:
    """Return the limits that the command line names, as a spec's section `budget` has them."""
    written = {
        "seconds": args.budget_seconds,
        "memory_gb": args.budget_memory,
        "store_gb": args.budget_store,
    }
    return {name: value for name, value in written.items() if value is not None}


def _check_standard_input(args: argparse.Namespace, screen: Screen) -> None:
    """Raise RequestError where `-` cannot be read: without --format, or by a job on a cluster."""
    if is_job_api(args.address):
        raise RequestError("- is standard input, which a submitted job does not have: name a file", where="INPUT")
    if args.format is None:
        raise RequestError(
            "- is standard input, which has no name to tell its form by: add --format jsonl, or csv", "-"
        )
    if sys.stdin.isatty():
        screen.note("reading rows from the keyboard; Ctrl-D ends them")


def parse_format(written: str | None) -> Any:
    """Parse the name of a source, or its fields as YAML: `{type: csv, delimiter: ;}`."""
    try:
        return None if written is None else parse_yaml(written)
    except ValueError as error:
        raise RequestError(f"{written!r} is not a YAML value: {error}", where="--format") from None


def _summary(written: BatchResult, screen: Screen, *, vectors: bool) -> None:
    what = "vectors" if vectors else "answers"
    screen.say()
    screen.say(Text.assemble((written.out, "bold green"), f" holds the {what} to {counted(written.rows, 'row')}"))
    rows: list[tuple[str, object]] = [("time", seconds_text(written.seconds))]
    if written.failed:
        rows.insert(0, ("errors", f"{written.failed:,}, each explained in its row"))
    screen.facts(rows)
