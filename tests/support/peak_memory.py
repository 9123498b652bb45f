"""The peak memory of this process."""

from __future__ import annotations

import resource
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak() -> int:
    """Return the peak resident memory of this process so far in bytes.

    Where the kernel tells it, not `ru_maxrss`: in that counts what the parent held when it started this process, so
    that under a large parent nothing that a child does would ever be seen.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
