"""`regraft select`: rank bases for a task's rows before any fine-tuning."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from regraft.cli.adapt import following
from regraft.cli.dispatch import WORK, function
from regraft.cli.screen import Reply, Screen, figure
from regraft.cli.signals import ended_by_signals
from regraft.cli.train import overrides_of
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.units import seconds_text

if TYPE_CHECKING:
    from regraft.selection.outcome import SelectOutcome

__all__ = ["following", "select", "show_result"]


def select(args: argparse.Namespace, screen: Screen) -> Reply:
    """Run the `select` command."""
    spec = RunSpec.load(Path(args.spec), overrides=overrides_of(args))
    if args.create and not spec.store.startswith("s3://"):  # a prefix needs no asking
        open_store(spec.store).create()
    more = {} if args.sample is None else {"sample": args.sample}
    with ended_by_signals(), following(screen) as progress:
        outcome: SelectOutcome = function(WORK["select"])(
            spec,
            args.bases,
            fresh=args.fresh,
            warm=args.warm,
            skip_bad=args.skip_bad,
            curve=args.curve,
            progress=progress,
            **more,
        )
    show_result(outcome, screen)
    screen.say("next")
    screen.say(f"  {next_command(args, outcome.base)}")
    return Reply(outcome.document())


def next_command(args: argparse.Namespace, base: str) -> str:
    """Return the command that trains the first choice on the same rows, into the same store."""
    settings = [one for one in args.set if one.partition("=")[0].strip() != "base"]
    words = ["regraft", "train", args.spec]
    words += [word for one in (*settings, f"base={base}") for word in ("--set", one)]
    return shlex.join([*words, *(["--store", args.store] if args.store else [])])


def show_result(outcome: SelectOutcome, screen: Screen) -> None:
    """Show the verdict, the bases in order, and the controls."""
    screen.say()
    state = " (decided before; --fresh decides again)" if outcome.already else ""
    screen.say(Text.assemble((outcome.headline, "bold green"), state))
    screen.facts(
        [
            *([("warning", outcome.warning)] if outcome.warning else []),
            ("depth", outcome.depth["sentence"]),
            ("rows", f"{outcome.rows['sample']:,} of {outcome.rows['train']:,} training rows; no others chose"),
            ("time", seconds_text(outcome.seconds)),
            ("selection", outcome.name),
            ("store", outcome.store),
            ("page", outcome.page),
        ]
    )
    names = list(dict.fromkeys(name for one in outcome.bases for name in one["scores"]))
    screen.head("bases")
    screen.table(
        ["  base", "mean rank", *names, "behind", "parameters", "trained for", "depth"],
        [_row(one, names) for one in outcome.bases],
    )
    screen.head("controls")
    screen.table(
        ["  control", "linear probe", "behind the first"],
        [[f"  {one['name']}", figure(one["score"]), _interval(one["ahead"])] for one in outcome.baselines],
    )
    if outcome.curve:
        show_curve(outcome.curve, screen)


def show_curve(curve: Mapping[str, Any], screen: Screen) -> None:
    """Show the data curve: a line a share, then what it says."""
    screen.head("data curve")
    screen.table(
        ["  share of the labels", "rows", "linear head", "random weights"],
        [
            [f"  {point['share']:.0%}", round(point["rows"]), figure(point["adapted"]), _random(point)]
            for point in curve["points"]
        ],
    )
    for sentence in curve["sentences"]:
        screen.say(f"  {sentence}")


def _random(point: Mapping[str, float]) -> str:
    return figure(point["random"]) if "random" in point else "absent"


def _row(one: Mapping[str, Any], names: list[str]) -> list[object]:
    scores = [figure(one["scores"][name]) if name in one["scores"] else "absent" for name in names]
    behind = "first" if one["behind"] is None else f"{_interval(one['behind'])}{' (tied)' if one['tied'] else ''}"
    size = f"{one['parameters']:,}"
    return [f"  {one['base']}", figure(one["rank"]), *scores, behind, size, one["trained_for"], one["depth"]]


def _interval(found: Mapping[str, float]) -> str:
    return f"{figure(found['value'])} ({figure(found['low'])} to {figure(found['high'])})"
