"""A watch over the files of the bases in memory, which logs when they change; models answer from private copies."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from regraft.bases.locate import Base, change_on_disk

_log = logging.getLogger(__name__)


class BaseWatch:
    """Compares the bases in memory with their files in a thread; each change is logged once."""

    def __init__(self, bases: Callable[[], Sequence[Base]], every_s: float) -> None:
        self._bases, self._every_s = bases, every_s
        self.changed: tuple[str, ...] = ()
        """Hashes of the bases whose files differ now."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="regraft-bases", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()

    def compare(self) -> None:
        """Compare now, and log what has changed since the last time."""
        found = {base.hash: text for base in self._bases() if (text := change_on_disk(base))}
        for changed, text in found.items():
            if changed not in self.changed:
                _log.warning("%s", text)
        for restored in set(self.changed) - found.keys():
            _log.info("the base with hash %s is on the disk again, or not used any more", restored)
        self.changed = tuple(sorted(found))

    def _poll(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.compare()
            except Exception:
                _log.exception("the files of the bases could not be compared")
