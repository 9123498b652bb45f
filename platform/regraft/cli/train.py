"""`regraft train`: train a spec, with progress on the screen and a summary."""

from __future__ import annotations

import argparse
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from regraft.cli.dispatch import WORK, function
from regraft.cli.jobs.remote import is_job_api, run_as_job
from regraft.cli.metric_table import gained, on_test, values_of
from regraft.cli.screen import Reply, Screen, figure, store_of
from regraft.cli.train_progress import following
from regraft.contracts import columns_of
from regraft.errors import RequestError
from regraft.spec.document import absolute, parse_set
from regraft.spec.run import RunSpec
from regraft.store.comparisons import comparison_texts
from regraft.store.objects import open_store
from regraft.units import bytes_text, seconds_text

if TYPE_CHECKING:
    from regraft.training.registration import Outcome


def train(args: argparse.Namespace, screen: Screen) -> Reply:
    """Run the `train` command."""
    spec = RunSpec.load(Path(args.spec), overrides=overrides_of(args))
    if args.create and not spec.store.startswith("s3://"):  # a prefix needs no asking
        open_store(spec.store).create()
    if is_job_api(args.address):
        refuse_compared_job(args)
        pack = partial(function(WORK["pack train"]), spec=spec, fresh=args.fresh, same=args.same)
        return run_as_job(args.address, screen, pack, follow_running=not args.fresh)
    with following(screen) as progress:
        outcome: Outcome = function(WORK["train"])(
            spec, fresh=args.fresh, same=args.same, compare=args.compare, progress=progress, address=args.address
        )
    summary(spec, outcome, screen)
    return Reply(outcome.document())


def refuse_compared_job(args: argparse.Namespace) -> None:
    """Raise RequestError for a comparison that is to be submitted as a job."""
    if args.compare:
        raise RequestError(
            "--compare is not submitted as a job: run the command where it may train, join a Ray there (host:6379), or "
            "compare models with `regraft evaluate MODEL MODEL... DATA`",
            where="--address",
        )


def overrides_of(args: argparse.Namespace) -> dict[str, object]:
    """Return the overrides of --set and --store. Raises RequestError if the two name different stores."""
    overrides = parse_set(args.set)
    if args.store:
        if overrides.get("store", args.store) != args.store:
            raise RequestError("it is named by --store and, differently, by --set store=...: keep one", where="store")
        overrides["store"] = args.store
    return overrides


def summary(spec: RunSpec, outcome: Outcome, screen: Screen) -> None:
    """Show the result beside the baselines, and what to do next."""
    show_result(outcome, screen)
    screen.say("next")
    for command in commands(spec, outcome):
        screen.say(f"  {command}")


def show_result(outcome: Outcome, screen: Screen) -> None:
    """Show the result beside the baselines, and what follows where it is worse than one or than an earlier version."""
    reference = f"{outcome.model}@{outcome.version}"
    state = "was finished before; --fresh starts another run" if outcome.already else "is registered"
    screen.say()
    screen.say(Text.assemble((reference, "bold green"), f" {state}"))
    score, gain = outcome.score, gained(outcome.gain)
    unmeasured = "not measured: there are no evaluation rows"
    result = figure(outcome.metrics[score]) if outcome.metrics else unmeasured
    rows: list[tuple[str, object]] = [(score, f"{result}{f'  ({gain})' if gain else ''}")]
    rows += [
        (name.replace("_", " "), figure(value))
        for name, baseline in outcome.baselines.items()
        if (value := values_of(baseline, score).get(score)) is not None
    ]
    rows += on_test(outcome.test, score)
    rows += [
        ("delta", _delta(outcome)),
        ("time", seconds_text(outcome.seconds)),
        ("run", outcome.run),
        ("store", outcome.store),
    ]
    screen.facts(rows)
    for text in (outcome.verdicts, outcome.note, outcome.advice, *comparison_texts(outcome.comparison)):
        if text:
            screen.say(text)


def _delta(outcome: Outcome) -> str:
    delta, base = outcome.delta_bytes, outcome.base_bytes
    return f"{bytes_text(delta)}, {delta / base:.1%} of the base's {bytes_text(base)}" if base else bytes_text(delta)


def commands(spec: RunSpec, outcome: Outcome) -> tuple[str, str]:
    """Return two commands that work when pasted where the spec was run."""
    reference = f"{outcome.model}@{outcome.version}"
    elsewhere = absolute(store_of(None)) != outcome.store
    store = f" --store {shlex.quote(outcome.store)}" if elsewhere else ""
    targets = spec.task.target_columns()
    columns = columns_of(spec.task.input_columns())
    row = {name: column.placeholder() for name, column in columns.items() if name not in targets}
    options = f", store={outcome.store!r}" if elsewhere else ""
    options += f", plugins={list(spec.plugins)!r}" if spec.plugins else ""
    code = f"import regraft; print(regraft.load({reference!r}{options}).predict([{row!r}]))"
    return f"regraft models show {reference}{store}", f"python -c {_quoted(code)}"


def _quoted(code: str) -> str:
    """Quote code with double quotes, which reads better than what shlex makes of it; by shlex if that is unsafe."""
    return shlex.quote(code) if any(letter in code for letter in '"$`\\!') else f'"{code}"'
