"""The user's screen: results, progress and warnings, without the output of libraries."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from regraft.errors import RequestError
from regraft.units import finite

_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns about a change to come, on every start
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_TRAIN_ENABLE_PRINT_REDIRECT": "0",
    "TOKENIZERS_PARALLELISM": "false",  # else every fork after the first tokenized row warns
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",  # for the processes that Ray starts
}
"""Variables that are set unless the user has set them; the libraries read them when they are imported."""

_CHATTY = ("ray", "transformers", "urllib3", "botocore", "huggingface_hub", "accelerate", "torch", "peft")
"""Loggers of libraries that write more than users want to see; other loggers inherit the root's level."""


@dataclass(frozen=True)
class Reply:
    """The result of a command: the object for --json, and the exit code."""

    document: Mapping[str, Any] = field(default_factory=dict)
    code: int = 0


class Screen:
    """The output of a command: results on stdout; with --json everything on stderr."""

    def __init__(self, *, as_json: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.verbose = verbose
        self.stream: TextIO = sys.stderr if as_json else sys.stdout
        self.terminal = self.stream.isatty()
        # A pipe has no width: folded at 80 columns, a line could not be found with grep.
        width = None if self.terminal else 1000
        # Never as HTML: in a notebook each line would be an output of its own.
        self.console = Console(file=self.stream, highlight=False, soft_wrap=True, width=width, force_jupyter=False)

    def say(self, text: str | Text = "") -> None:
        """Write a line of the result; with --json nothing, since the object holds it."""
        if not self.as_json:
            self.note(text)

    def note(self, text: str | Text) -> None:
        """Write a line of progress, with --json too."""
        self.console.print(text if isinstance(text, Text) else harmless(text), markup=False)

    def facts(self, pairs: Sequence[tuple[str, object]], *, indent: int = 2) -> None:
        """Write names and values, one pair a line, values aligned."""
        if self.as_json:
            return
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in pairs:
            grid.add_row(" " * indent + name, Text(harmless(str(value))))
        self._draw(grid)

    def head(self, text: str) -> None:
        """Write a heading."""
        self.say(Text(text, style="bold"))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Write rows under headings; on a pipe no cell is cut."""
        if self.as_json:
            return
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for number, column in enumerate(columns):
            table.add_column(column, overflow="fold", no_wrap=number == 0)  # a folded name cannot be copied
        for row in rows:
            table.add_row(*(Text("" if cell is None else harmless(str(cell))) for cell in row))
        self._draw(table)

    def _draw(self, table: Table) -> None:
        if self.terminal:
            self.console.print(table)
            return
        with self.console.capture() as drawn:
            self.console.print(table)
        for line in drawn.get().splitlines():  # a pipe gets no trailing blanks
            self.say(line.rstrip())


def harmless(text: str) -> str:
    """Replace control characters: labels, names and metadata come from files that others wrote."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)


def emit(document: Mapping[str, Any], stream: TextIO) -> None:
    """Write the one JSON object of --json."""
    stream.write(json.dumps(finite(document), ensure_ascii=False, default=str, allow_nan=False) + "\n")
    stream.flush()


@contextlib.contextmanager
def only_json(active: bool) -> Iterator[TextIO]:
    """Yield the real stdout, and redirect all other writes to stdout (Python, native code, children) to stderr."""
    real = sys.stdout
    if not active:
        yield real
        return
    with contextlib.ExitStack() as stack:
        number = _descriptor(real)
        kept = os.dup(1)
        stack.callback(os.close, kept)
        stack.callback(os.dup2, kept, 1)
        # A library may have kept the stream itself: its buffer belongs on stderr too.
        stack.callback(real.flush)
        real.flush()
        os.dup2(2, 1)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield stack.enter_context(open(os.dup(kept), "w", encoding="utf-8")) if number == 1 else real


def _descriptor(stream: TextIO) -> int | None:
    """Return the stream's descriptor; None for one without a file, such as a notebook's."""
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def quiet(*, verbose: bool) -> None:
    """Keep the output of libraries off the screen unless -v; call it once, before they are imported."""
    level = logging.DEBUG if verbose else logging.WARNING
    handler = _OnStderr()
    handler.setFormatter(_Short() if not verbose else logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers = [item for item in root.handlers if not isinstance(item, _OnStderr)] + [handler]
    root.setLevel(logging.INFO if verbose else logging.ERROR)
    logging.getLogger("regraft").setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET if verbose else logging.ERROR)
    if not verbose:
        warnings.simplefilter("ignore")
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)


class _OnStderr(logging.Handler):
    """Writes to the current sys.stderr: a live progress bar replaces it so that lines do not mix."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


class _Short(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"


def figure(value: object) -> str:
    """Return a metric as text: four places, or three digits if it is small; other values as they are."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if value == 0 or 0.01 <= abs(value) < 1e4 else f"{value:.3g}"


def confirmed(question: str) -> bool:
    """Ask on the terminal whether to delete something. Raises RequestError where there is none."""
    if not sys.stdin.isatty():
        raise RequestError("there is no terminal to ask on; write --yes to delete without a question", where="delete")
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def store_of(written: str | None) -> str:
    """Return the store of a command without a spec."""
    return written or os.environ.get("REGRAFT_STORE") or "./regraft-store"
