"""`regraft models export`: write a complete model, base and delta merged, that transformers loads without regraft."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.cli.dispatch import WORK, function
from regraft.cli.models import chosen, registry_of
from regraft.cli.screen import Reply, Screen
from regraft.units import bytes_text

if TYPE_CHECKING:
    from regraft.serving.export import Exported


def export(args: argparse.Namespace, screen: Screen) -> Reply:
    """Write the model into a new or empty folder, and print which library reads it."""
    registry = registry_of(args)
    version = chosen(registry, args.model)
    exported: Exported = function(WORK["export"])(
        registry.store, str(version), Path(args.folder), plugins=args.plugins, base=args.base
    )
    sizes = [path.stat().st_size for path in exported.folder.rglob("*") if path.is_file()]
    screen.say(f"{version} is in {exported.folder} for {exported.kind}: {len(sizes)} files, {bytes_text(sum(sizes))}")
    screen.say(exported.note)
    document = {"folder": str(exported.folder), "library": exported.kind, "note": exported.note, "bytes": sum(sizes)}
    return Reply({"model": str(version), **document})
