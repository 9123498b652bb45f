"""`regraft search`: search a space, with a live table and a summary."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from regraft.cli.dispatch import WORK, function
from regraft.cli.jobs.remote import is_job_api, run_as_job
from regraft.cli.metric_table import gained, on_test, values_of
from regraft.cli.screen import Reply, Screen, figure, store_of
from regraft.cli.search_progress import following, overrides_text
from regraft.cli.signals import ended_by_signals
from regraft.cli.train import overrides_of, refuse_compared_job
from regraft.spec.document import absolute
from regraft.spec.run import RunSpec
from regraft.spec.search_bases import short_bases
from regraft.store.comparisons import comparison_texts
from regraft.store.objects import open_store
from regraft.units import bytes_text, finite_number, seconds_text

if TYPE_CHECKING:
    from regraft.tuning.driver.finish import SearchOutcome

_SHOWN = 8
"""Trials in the summary; the report and --json have all."""


def search(args: argparse.Namespace, screen: Screen) -> Reply:
    """Run the `search` command."""
    overrides = overrides_of(args)
    if args.register is not None:
        overrides["search.register"] = args.register
    spec = RunSpec.load(Path(args.spec), overrides=overrides)
    if args.create and not spec.store.startswith("s3://"):  # a prefix needs no asking
        open_store(spec.store).create()
    if is_job_api(args.address):
        refuse_compared_job(args)
        pack = partial(function(WORK["pack search"]), spec=spec, fresh=args.fresh, same=args.same)
        return run_as_job(args.address, screen, pack, follow_running=not args.fresh, shown=following)
    with ended_by_signals(), following(screen) as progress:
        outcome: SearchOutcome = function(WORK["search"])(
            spec, fresh=args.fresh, same=args.same, compare=args.compare, progress=progress, address=args.address
        )
    summary(outcome, screen)
    return Reply(outcome.document())


def summary(outcome: SearchOutcome, screen: Screen) -> None:
    """Show the result beside the baselines, and what to do next."""
    show_result(outcome, screen)
    shown = outcome.added[-1].reference if outcome.added else f"{outcome.model}@{outcome.version}"
    if outcome.added or outcome.version is not None:
        elsewhere = absolute(store_of(None)) != outcome.store
        store = f" --store {shlex.quote(outcome.store)}" if elsewhere else ""
        screen.say("next")
        screen.say(f"  regraft models show {shown}{store}")


def show_result(outcome: SearchOutcome, screen: Screen) -> None:
    """Show what was registered, the winner beside the baselines, and the best trials."""
    screen.say()
    for line in _registered(outcome):
        screen.say(line)
    score, gain = outcome.score, gained(outcome.gain)
    screen.facts(
        [
            ("winner", f"{outcome.winner}  {overrides_text(outcome.overrides)}{_stopped(outcome, outcome.winner)}"),
            (score, f"{figure(outcome.metrics.get(score))}{f'  ({gain})' if gain else ''}"),
            *on_test(outcome.test, score),
            *_baselines(outcome),
            ("trials", _counted(outcome)),
            *_sharing(outcome.shared),
            ("time", seconds_text(outcome.seconds)),
            ("search", outcome.run),
            ("store", outcome.store),
            *([("report", outcome.report)] if outcome.report else []),
        ]
    )
    _bases(outcome, screen)
    _table(outcome, screen)
    screen.say("  `--register N` registers the N best of them, `--register t0011` that trial")
    for text in (outcome.verdicts, outcome.advice, *comparison_texts(outcome.comparison)):
        if text:
            screen.say(text)


def _registered(outcome: SearchOutcome) -> Iterator[Text | str]:
    """Yield a line for each trial that was registered, in the order of the versions."""
    for one in outcome.added:
        score = f", {outcome.score} {figure(one.value)}" if one.value is not None else ""
        trial = f"trial {one.trial}{score}{_stopped(outcome, one.trial)}"
        yield Text.assemble((one.reference, "bold green"), f" is registered: {trial}")
        if one.note:
            yield f"  {one.note}"
    if outcome.added:
        return
    if outcome.version is None:
        yield f"the best is trial {outcome.winner}; nothing is registered"
    else:
        state = "was found before; --fresh starts another search" if outcome.already else "is registered"
        yield Text.assemble((f"{outcome.model}@{outcome.version}", "bold green"), f" {state}")
    if outcome.registered:
        yield f"registered before: {', '.join(f'{trial} as {one}' for trial, one in outcome.registered.items())}"


def _baselines(outcome: SearchOutcome) -> list[tuple[str, object]]:
    return [
        (name.replace("_", " "), figure(value))
        for name, baseline in outcome.baselines.items()
        if (value := values_of(baseline, outcome.score).get(outcome.score)) is not None
    ]


def _counted(outcome: SearchOutcome) -> str:
    states = [trial["status"] for trial in outcome.trials]
    parts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    return f"{len(states)}: {', '.join(parts)}"


def _sharing(shared: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return what sharing the frozen part's outputs saved, as a row; no row if nothing was shared."""
    if not shared.get("rows"):
        return []
    text = f"{shared.get('computed', 0):,} rows computed once, {shared.get('reused', 0):,} found"
    if shared.get("bytes"):
        text += f", {bytes_text(shared['bytes'])} in {shared.get('where', 'the store')}"
    saved = shared.get("saved_s")
    if isinstance(saved, int | float) and saved > 0:
        text += f"; saved {seconds_text(saved)} of computing"
    return [("frozen part", text)]


def _bases(outcome: SearchOutcome, screen: Screen) -> None:
    """Show the best trial of each base, where there are several."""
    names = short_bases([row["base"] for row in outcome.bases])
    rows = [
        (
            f"  {names[row['base']]}",
            figure(row["metrics"].get(outcome.score)),
            row["best"] or "",
            str(row["trials"]),
            f"{row['depth']} of {row['blocks']}" if row["depth"] is not None and row["blocks"] else "",
            row["remark"],
        )
        for row in outcome.bases
    ]
    if rows:
        screen.head("bases, the best first")
        screen.table(("  base", outcome.score, "best trial", "trials", "frozen blocks", ""), rows)


def _table(outcome: SearchOutcome, screen: Screen) -> None:
    """Show the best trials, the deciding metric first: those that ran to their end, then those stopped early."""
    score = outcome.score
    scored = [trial for trial in outcome.trials if finite_number(trial["metrics"].get(score)) is not None]
    winner = next((trial for trial in scored if trial["id"] == outcome.winner), None)
    falls = winner is not None and any(trial["metrics"][score] > winner["metrics"][score] for trial in scored)
    scored.sort(key=lambda trial: (trial["status"] != "finished", trial["metrics"][score] * (1 if falls else -1)))
    rows = [
        (f"  {trial['id']}", figure(trial["metrics"][score]), _status(trial), overrides_text(trial["overrides"]))
        for trial in scored[:_SHOWN]
    ]
    more = f" ({_SHOWN} of {len(scored)})" if len(scored) > _SHOWN else ""
    screen.head(f"trials, the best first{more}")
    screen.table(("  trial", score, "status", "what it varies"), rows)
    if {"finished", "stopped"} <= {trial["status"] for trial in scored}:
        screen.say(
            "  a trial that was stopped early trained less than the others: its score is no verdict on its values"
        )


def _stopped(outcome: SearchOutcome, trial: str) -> str:
    """Return `, stopped after 1 epoch` for a trial that was stopped early; else nothing."""
    found = next((one for one in outcome.trials if one["id"] == trial), {"status": ""})
    return f", {_status(found)}" if found["status"] == "stopped" else ""


def _status(trial: Mapping[str, Any]) -> str:
    """Return a trial's status; of one that was stopped early, how far it came."""
    if trial["status"] != "stopped":
        return str(trial["status"])
    epochs = trial.get("epochs")
    return f"stopped after {epochs:.3g} epoch{'' if epochs == 1 else 's'}" if epochs else "stopped early"
