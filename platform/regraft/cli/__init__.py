"""The command line: parse the arguments, import the one module that is needed, and return an exit code.

Exit codes: 0 done, 1 failed, 2 wrong request, 130 interrupted. Errors are one line on stderr; with --json stdout holds
exactly one JSON object, the result or the error. Tracebacks are shown only with -v.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from gc import freeze, get_threshold, set_threshold
from typing import TYPE_CHECKING, NoReturn, TextIO

from regraft.cli.dispatch import TABLE, function
from regraft.cli.jobs import job_log
from regraft.cli.parser import build
from regraft.cluster.sudden_end import reported_by
from regraft.errors import RegraftError
from regraft.training.interrupts import interrupts_kept

if TYPE_CHECKING:
    import argparse

__all__ = ["console", "failed", "main"]


_INTERRUPTED = 130
_COLLECT_AFTER = 10_000
"""Threshold of the youngest generation of garbage collection; Python's own 700 suits small programs."""
_AFTER_INTERRUPT = {
    "train": "; the same command continues the run from its last checkpoint",
    "search": "; the same command continues the search: its finished trials are kept",
    "adapt": "; the same command continues the adaptation: its finished runs are kept",
    "auto": "; the same command goes on: trials that ended are kept",
    "select": "; the same command finds the features that were computed",
    "predict": "; the same command continues the output where it stopped",
    "serve": "; the endpoint is down, and the same command brings it up again",
}
"""Hint after an interrupt: how to continue the command."""


def console(argv: Sequence[str] | None = None) -> int:
    """Run the command that this process was started for and return its exit code.

    Libraries make a million objects that live to the end. Collecting garbage among them during the imports, and again
    when the process ends, takes a sixth of a short command's time.
    """
    set_threshold(_COLLECT_AFTER, *get_threshold()[1:])
    atexit.register(_end_interrupted, codes := list[int]())  # before any library: it is the last to be called
    try:
        with interrupts_kept():
            code = main(argv)
    except KeyboardInterrupt:  # before the command began, or when it had ended
        sys.stderr.write("interrupted\n")
        code = _INTERRUPTED
    codes.append(code)
    _end_on_interrupt(code)
    freeze()
    threads = sys.modules.get("regraft.tuning.driver.work_thread")
    if threads is not None and threads.left_behind():
        # A trial that hangs: the end of the interpreter would wait for what it holds, or crash under it.
        _end_at_once(code)
    return code


def _end_interrupted(codes: Sequence[int]) -> None:
    """End an interrupted process with its exit code.

    Python would end it by SIGINT instead where the interrupt came while an extension module ran Python code.
    """
    if _INTERRUPTED in codes:
        _end_at_once(_INTERRUPTED)


def _end_on_interrupt(code: int) -> None:
    """Let Ctrl-C end the process at once, with its exit code: all that is left is the end of the libraries."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda *_: _end_at_once(code))


def _end_at_once(code: int) -> NoReturn:
    """End the process without the end of the interpreter."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, RuntimeError):  # a closed pipe, or an interrupt within a write
            stream.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    as_json, verbose = "--json" in argv, bool({"-v", "--verbose"} & set(argv))
    try:
        args = build().parse_args(argv)
    except RegraftError as error:
        return _failed(error, sys.stdout if as_json else None, verbose=verbose)
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    return _run(args, as_json=as_json, verbose=verbose)


def _run(args: argparse.Namespace, *, as_json: bool, verbose: bool) -> int:
    from regraft.cli.screen import Screen, emit, only_json, quiet

    with only_json(as_json) as out, reported_by(partial(_failed, out=out if as_json else None, verbose=verbose)):
        try:
            quiet(verbose=verbose)
            command = function(TABLE[args.command])
            reply = command(args, Screen(as_json=as_json, verbose=verbose))
            if as_json:
                emit(reply.document, out)
            if job_log.enabled():
                job_log.write("reply", reply.document)
            sys.stdout.flush()
            return int(reply.code)
        except KeyboardInterrupt:
            sys.stderr.write(f"interrupted{_AFTER_INTERRUPT.get(args.command, '')}\n")
            return _INTERRUPTED
        except BrokenPipeError:
            # `regraft models list | head`: without this Python would report the closed pipe again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            return _failed(error, out if as_json else None, verbose=verbose)


def failed(error: Exception) -> int:
    """Print an error that occurred before a command began, and return the exit code."""
    return _failed(error, None, verbose=False)


def _failed(error: Exception, out: TextIO | None, *, verbose: bool) -> int:
    """Print an error on stderr, or as the one JSON object of `out` if that is given; return the exit code."""
    known = isinstance(error, RegraftError)
    kind, where = type(error).__name__, error.where if isinstance(error, RegraftError) else ""
    message = error.message if isinstance(error, RegraftError) else str(error) or "(no message)"
    if verbose:
        traceback.print_exception(error, file=sys.stderr)
    if job_log.enabled():
        job_log.write("error", {"kind": kind, "message": message, "where": where})
    elif out is not None:
        from regraft.cli.screen import emit

        emit({"error": {"kind": kind, "message": message, "where": where}}, out)
    else:
        red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else ("", "")
        text = str(error) if known else f"{kind}: {message}".splitlines()[0]
        sys.stderr.write(f"{red}error:{plain} {text}\n")
    if not known and not verbose and not job_log.enabled():
        sys.stderr.write("run again with -v for the traceback\n")
    return error.exit_code if isinstance(error, RegraftError) else 1
