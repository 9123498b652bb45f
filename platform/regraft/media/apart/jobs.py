"""What a decoding process does: it reads jobs from its standard input and answers on its standard output.

A job that takes too long ends the process, by a timer of its own; one that takes too much memory is answered as such.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import sys
from collections.abc import Callable

from regraft.media.pixels.freed_memory import give_back_memory

JOB = struct.Struct("<cdQQQ")
"""A job: what is asked, seconds of computing, bytes of memory, most pixels or samples, and the length of the file."""
ANSWER = struct.Struct("<cQ")
"""An answer: its kind, and the length of what follows."""
CHECK, CONVERT = b"c", b"p"
DONE, COSTLY, DAMAGED, MEMORY, UNKNOWN, OVERDUE = b"d", b"x", b"b", b"m", b"u", b"o"
NICE = 10
"""How far a process that serves requests stands back: what is answered beside it comes first."""
PATIENCE = 3
"""How many times its seconds of computing a file may take on a busy machine."""

Answerer = Callable[[bytes, bytes, int], tuple[bytes, bytes]]
"""Does one job (what is asked, the file, most pixels or samples): returns the kind of the answer, and its content."""


def serve_jobs(answer: Answerer) -> None:
    """Answer jobs until the input ends. The process's only argument is how far it stands back."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    os.nice(int(sys.argv[1]))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    while len(head := source.read(JOB.size)) == JOB.size:
        asked, seconds, memory, most, length = JOB.unpack(head)
        content = source.read(length)
        allowed = _address_space() + memory
        allowed = allowed if hard == resource.RLIM_INFINITY else min(allowed, hard)
        resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE * seconds)
        kind, reply = answer(asked, content, most)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sink.write(ANSWER.pack(kind, len(reply)))
        sink.write(reply)
        sink.flush()
        del content, reply
        give_back_memory()


def _address_space() -> int:
    """Return the bytes of this process's address space."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
