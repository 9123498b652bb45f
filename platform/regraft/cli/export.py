"""`regraft models export`: a whole model, base and delta merged, that transformers loads without regraft."""

from __future__ import annotations

import argparse
from pathlib import Path

from regraft.cli.dispatch import WORK, function
from regraft.cli.models import chosen, registry_of
from regraft.cli.screen import Reply, Screen, size
from regraft.errors import AskedWrong


def export(args: argparse.Namespace, screen: Screen) -> Reply:
    """Write the model into a folder that is new or empty: what stands there is never overwritten."""
    registry = registry_of(args)
    version = chosen(registry, args.model)
    folder = Path(args.folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AskedWrong("the folder is there and not empty: name a new one", where=str(folder))
    function(WORK["export"])(registry.store, str(version), folder)
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    total = sum(path.stat().st_size for path in written)
    screen.say(f"{version} is in {folder}: {len(written)} files, {size(total)}")
    return Reply({"model": str(version), "folder": str(folder.resolve()), "bytes": total})
