"""`regraft teach`: a new class for a registered model from a few examples, without training."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.text import Text

from regraft.cli.dispatch import WORK, function
from regraft.cli.evaluate import columns_of
from regraft.cli.models import chosen, effect_table, registry_of
from regraft.cli.predict import parse_format
from regraft.cli.screen import Reply, Screen
from regraft.cli.train_progress import following
from regraft.store.card import taught_sentence
from regraft.teaching.request import TeachRequest
from regraft.units import seconds_text

if TYPE_CHECKING:
    from regraft.teaching.teach import Taught


def teach(args: argparse.Namespace, screen: Screen) -> Reply:
    """Run the `teach` command."""
    registry = registry_of(args)
    request = TeachRequest(
        model=str(chosen(registry, args.model)),
        label=args.label,
        rows=args.rows,
        evaluation=args.eval,
        max_loss=args.max_loss,
        promote=args.promote,
        columns=columns_of(args.columns),
        format=parse_format(None if args.format == "auto" else args.format),
        plugins=args.plugins,
        base=args.base,
        device=args.device,
    )
    request.check()
    with following(screen) as progress:
        taught: Taught = function(WORK["teach"])(registry.store, request, progress)
    _summary(taught, screen)
    return Reply(taught.document())


def _summary(taught: Taught, screen: Screen) -> None:
    version = f"{taught.model}@{taught.version}"
    screen.say(Text.assemble((version, "bold green"), f" knows {taught.label}"))
    screen.say(f"  {taught_sentence(taught.facts, taught.model)}")
    screen.table(*effect_table(taught.facts))
    screen.facts([("time", seconds_text(taught.seconds))])
    if taught.alias is None:
        screen.say(f"`regraft models promote {version} production` lets an alias mean it")
    else:
        undo = f"`regraft models rollback {taught.model} {taught.alias}` goes back"
        screen.say(f"{taught.model}@{taught.alias} is now {taught.version}; {undo}")
