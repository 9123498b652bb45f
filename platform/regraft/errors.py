"""The hierarchy of errors. A message states the value written, the values allowed, and what to do.

RegraftError                     exit code 1
├── RequestError                 exit code 2: the request is wrong, nothing was started
│   ├── SpecError                one or more problems of a spec, all at once
│   ├── UnknownPlugin            a task, method, loss or source that does not exist
│   ├── DataError                rows that cannot be read or do not fit the task
│   ├── BaseError                a base that is missing, not safetensors, or holds code
│   │   └── WrongBase            a delta that belongs to another base
│   ├── NotFound                 a model, version, alias or run that does not exist
│   └── Unsupported              a combination that no implementation covers
├── StoreError                   the store cannot be reached, read or written
│   ├── PermissionDenied         wrong or missing credentials, or no permission
│   ├── Conflict                 a compare-and-swap or put-if-absent that another writer won
│   ├── Damaged                  stored bytes that do not match their manifest
│   ├── StoreGone                the store that was opened is not there any more: a lost mount
│   └── LeaseHeld                another driver holds the run
├── RunError                     training began and could not go on
│   ├── Diverged                 the loss is not a number
│   ├── Stopped                  a stop was requested; the same command continues it
│   │   └── Interrupted          Ctrl-C requested it
│   └── ClusterError             Ray could not start, or lost its workers
└── NotNow                       a server could not answer this time
    ├── Overloaded               too many requests: retry after `retry_after` seconds
    └── DeadlineExceeded         the time for the answer is over

Every error crosses process boundaries: arguments go to `super().__init__(*args)` unchanged and the text is made in
`__str__`, so that pickling rebuilds the same error.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Never


class RegraftError(Exception):
    """The base class of all errors: `RegraftError(message, where="")`."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message, where)
        self.message = message
        self.where = where

    @property
    def kind(self) -> str:
        """The name of the class, as `--json` prints it."""
        return type(self).__name__

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class RequestError(RegraftError):
    """The request is wrong; nothing was started."""

    exit_code = 2


class SpecError(RequestError):
    """All problems of a spec at once: `SpecError(("training.lr: ...", "method: ..."), where)`."""

    def __init__(self, problems: tuple[str, ...], where: str = "") -> None:
        Exception.__init__(self, problems, where)
        self.problems = problems
        self.message = "\n".join(problems)
        self.where = where

    def __str__(self) -> str:
        head = f"{self.where}: " if self.where else ""
        if len(self.problems) == 1:
            return f"{head}{self.problems[0]}"
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        return f"{head}{len(self.problems)} problems:{lines}"


class UnknownPlugin(RequestError):
    """A task, method, loss or source that does not exist."""


class DataError(RequestError):
    """Rows that cannot be read or do not fit the task; `where` is file:row."""


class BaseError(RequestError):
    """A base that is missing, is not safetensors, or would run code."""


class WrongBase(BaseError):
    """A delta that was made on another base than the one given."""


class NotFound(RequestError):
    """A model, version, alias or run that does not exist."""


class Unsupported(RequestError):
    """A combination that no implementation covers."""


class StoreError(RegraftError):
    """The store cannot be reached, read or written."""


class PermissionDenied(StoreError):
    """Wrong or missing credentials, or no permission."""


class Conflict(StoreError):
    """Another writer was first: a put-if-absent or compare-and-swap that did not apply."""


class Damaged(StoreError):
    """Stored bytes that do not match their manifest; they are reported and never used."""


class StoreGone(StoreError):
    """The store that was opened is not at its place any more, as after a lost mount; it is not an empty store."""


class LeaseHeld(StoreError):
    """Another driver holds the run."""


class RunError(RegraftError):
    """Training began and could not go on."""


class Diverged(RunError):
    """The loss is not a finite number."""


class Stopped(RunError):
    """The run was asked to stop (`regraft runs stop`, SIGTERM) and did, with a checkpoint."""


class Interrupted(Stopped):
    """The run was stopped by Ctrl-C, with a checkpoint."""

    exit_code = 130


class ClusterError(RunError):
    """Ray could not start, or lost its workers."""


class NotNow(RegraftError):
    """A server could not answer this time; the same request may be answered later."""


class Overloaded(NotNow):
    """Too many requests to answer; `retry_after` is the number of seconds after which a retry should succeed."""

    def __init__(self, message: str, where: str = "", retry_after: float = 1.0) -> None:
        Exception.__init__(self, message, where, retry_after)
        self.message = message
        self.where = where
        self.retry_after = retry_after


class DeadlineExceeded(NotNow):
    """The time for the answer is over; the answer was not computed."""


def new_name(old: str) -> str | None:
    """Return the dotted name that replaced `old`, a name of the previous edition; None if `old` is not one.

    `old` is a module (`regraft.augment`) or a name in a module (`regraft.spec.RunSpec`). It may also be a method that
    plugins override, named with the class that defines it (`regraft.contracts.task.Task.settle`).
    """
    return _new_names().get(old)


@cache
def _new_names() -> dict[str, str]:
    """The table `old_names.tsv`: an old and a new name per line."""
    lines = Path(__file__).with_name("old_names.tsv").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("\t") for line in lines if not line.startswith("#"))
    return {old: new for old, new in pairs}


if not TYPE_CHECKING:  # for type checkers, a module with `__getattr__` has every attribute

    def __getattr__(name: str) -> Never:
        """Raise ImportError with the new name of a renamed error class, and AttributeError for any other name.

        The message of an AttributeError would be lost: `from regraft.errors import name` replaces it by an ImportError.
        """
        old = f"{__name__}.{name}"
        if new := new_name(old):
            raise ImportError(f"{old} is now {new}", name=old)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
