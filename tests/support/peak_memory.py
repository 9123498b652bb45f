"""The peak memory of this process."""

from __future__ import annotations

import resource
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak() -> int:
    """Return the peak resident memory of this process so far in bytes.

    From /proc if it exists: `ru_maxrss` includes the memory of the parent when it started this process, so a large
    parent would hide the memory of its child.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
