"""Folders for scratch files on this machine, deleted by a later command if the process that made them was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from regraft.store.atomic_files import writing_locally

_LOCK = "in-use"
"""A file in each folder that its process holds locked; the kernel frees it when the process ends, however it ends."""


@contextmanager
def scratch_folder(prefix: str = "regraft-") -> Iterator[Path]:
    """Yield a new folder in the temporary folder, and delete it at the end; delete abandoned ones before."""
    sweep_scratch()
    with writing_locally(Path(tempfile.gettempdir())):
        folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        with writing_locally(folder):
            lock = _locked(folder)
        with lock:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: Path) -> TextIO:
    """Return the open lock of a new folder."""
    lock = (folder / f"{_LOCK}.new").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Under its name only when it is locked: another process would take the folder for an abandoned one.
    os.replace(folder / f"{_LOCK}.new", folder / _LOCK)
    return lock


@contextmanager
def swept() -> Iterator[None]:
    """Delete abandoned scratch folders at the end: those of workers that an interrupt has killed."""
    try:
        yield
    finally:
        sweep_scratch()


def sweep_scratch() -> list[Path]:
    """Delete this user's scratch folders whose process has ended, and return them."""
    deleted = []
    for path in Path(tempfile.gettempdir()).glob(f"regraft-*/{_LOCK}"):
        with suppress(OSError):  # gone, or another user's
            if path.parent.is_symlink() or path.parent.stat().st_uid != os.getuid():
                continue
            with path.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
                deleted.append(path.parent)
    return deleted
