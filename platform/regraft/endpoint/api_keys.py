"""Bearer keys of an endpoint, kept as hashes; a key may be limited to some models.

A key is 256 random bits. So one round of SHA-256 protects it as well as a slow hash protects a password, and a check
takes microseconds. Files and the variable REGRAFT_KEYS hold YAML: `- {name: shop, sha256: ..., models: [a]}`.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import StringConstraints, ValidationError

from regraft.endpoint.http_errors import HttpError
from regraft.errors import RequestError
from regraft.plugins import Frozen
from regraft.spec.yaml_words import parse_yaml
from regraft.store.bounded_yaml import dump_yaml

PREFIX = "rg_"
VARIABLE = "REGRAFT_KEYS"
_RECHECK_S = 2.0
"""How often a file is checked for changes."""
_SETTLED_S = 4.0
"""Age at which a file is taken to be written to its end; a younger one with mistakes gets a second look."""
GONE_SECONDS = 60.0
"""How long the keys of a file that is gone stay in force, unless the spec says otherwise."""
MAX_FILE_BYTES = 4 << 20


class ApiKey(Frozen):
    """One key as it is stored."""

    name: str = ""
    """The owner's name; no answer contains it."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """The hash of the key."""
    models: tuple[str, ...] | None = None
    """The models that it allows; null: all of them."""

    def may(self, model: str) -> bool:
        """Return whether the key allows this model."""
        return self.models is None or model in self.models


_log = logging.getLogger(__name__)

EVERYTHING = ApiKey(name="no key is required", sha256="0" * 64)


def new_key() -> str:
    """Return a new key; only its hash is stored."""
    return PREFIX + secrets.token_urlsafe(32)


def hashed(key: str) -> str:
    """Return the hash of a key that is stored."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def append(path: Path, key: ApiKey) -> None:
    """Add a key to a file that only its owner may read. Raises RequestError when the key's name is taken."""
    known = read(path.read_text(encoding="utf-8"), str(path)) if path.exists() else ()
    if key.name and any(other.name == key.name for other in known):
        raise RequestError(f"there is a key of {key.name} already: remove its line, or use another name", str(path))
    line = dump_yaml([key.model_dump(mode="json", exclude_none=True)], default_flow_style=None, width=10_000)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as file:
        file.write(line)


def read(text: str, where: str) -> tuple[ApiKey, ...]:
    """Parse the keys of YAML text. Raises RequestError, which names the wrong entry but quotes none."""
    return tuple(_key(number, entry, where) for number, entry in enumerate(_entries(text, where), start=1))


def _entries(text: str, where: str) -> list[Any]:
    try:
        entries = parse_yaml(text) or []
    except (ValueError, RecursionError):
        raise RequestError("is not YAML: write - {name: ..., sha256: ...} for each key", where=where) from None
    if not isinstance(entries, list):
        raise RequestError("holds no list: write - {name: ..., sha256: ...} for each key", where=where)
    return entries


def _key(number: int, entry: Any, where: str) -> ApiKey:
    try:
        return ApiKey.model_validate(entry)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, item["loc"])) or "entry" for item in error.errors())
        raise RequestError(
            f"key {number} is wrong at {fields}; it is {{name, sha256 (64 hex digits), models (a list, or none)}}: "
            "`regraft key` makes one",
            where=where,
        ) from None


def read_valid(text: str, where: str) -> tuple[tuple[ApiKey, ...], tuple[str, ...]]:
    """Return the entries that are right, and what is wrong with the others.

    A file that is no YAML is read line by line. So a mistake in one entry neither removes nor keeps another one.
    """
    try:
        entries, troubles = _entries(text, where), []
    except RequestError as error:
        entries, troubles = [], [error.message]
        for line in text.splitlines():
            with contextlib.suppress(RequestError):
                entries += _entries(line, where)
    keys = []
    for number, entry in enumerate(entries, start=1):
        try:
            keys.append(_key(number, entry, where))
        except RequestError as error:
            troubles.append(error.message)
    return tuple(keys), tuple(troubles)


@dataclass(frozen=True)
class _FileState:
    keys: tuple[ApiKey, ...]
    stamp: tuple[int, ...] | None
    checked: float
    readable: float
    """When the file could last be read, by the monotonic clock."""
    trouble: str = ""
    suspect: tuple[int, ...] | None = None
    """The stamp at which something was wrong with the file."""


class ApiKeys:
    """The keys of an endpoint; changes of their file apply within seconds, so that a key can be revoked."""

    def __init__(
        self, keys: tuple[ApiKey, ...] | None, path: Path | None = None, *, gone_seconds: float = GONE_SECONDS
    ) -> None:
        """`gone_seconds` is how long keys stay in force once their file cannot be read."""
        self.required = keys is not None
        self._path, self._gone_seconds = path, gone_seconds
        self._lock = threading.Lock()
        now = time.monotonic()
        self._state = _FileState(keys or (), _stamp(path), now, now)

    @classmethod
    def found(cls, path: str | None, *, gone_seconds: float = GONE_SECONDS) -> Self:
        """Load the keys of a file, else of REGRAFT_KEYS; without either, no key is required."""
        if path:
            try:
                text = _text(Path(path))
            except (OSError, ValueError) as error:
                raise RequestError(f"cannot be read: {error}; `regraft key` makes one", where=path) from None
            return cls(_not_empty(read(text, path), path), Path(path), gone_seconds=gone_seconds)
        if VARIABLE in os.environ:
            return cls(_not_empty(read(os.environ[VARIABLE], VARIABLE), VARIABLE))
        return cls(None)

    def trouble(self) -> str:
        """Return what is wrong with the file of keys, without any of its content; empty if nothing is."""
        self._current()
        return self._state.trouble

    def check(self, authorization: str | None) -> ApiKey:
        """Return the key of a request's Authorization header. Raises HttpError 401 without a known key."""
        if not self.required:
            return EVERYTHING
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise HttpError(401, "NoKey", "this endpoint requires a key: send the header Authorization: Bearer KEY")
        digest = hashed(given.strip())
        found = None
        for key in self._current():  # all of them, so that the time taken discloses nothing
            if hmac.compare_digest(key.sha256, digest):
                found = key
        if found is None:
            raise HttpError(401, "WrongKey", "this key is not known here")
        return found

    def _current(self) -> tuple[ApiKey, ...]:
        state = self._state
        if self._path is None or time.monotonic() - state.checked < _RECHECK_S:
            return state.keys
        with self._lock:
            if time.monotonic() - self._state.checked >= _RECHECK_S:
                self._state = self._checked(self._path, self._state)
                if self._state.trouble and self._state.trouble != state.trouble:
                    _log.warning("%s: %s", self._path, self._state.trouble)
            return self._state.keys

    def _checked(self, path: Path, state: _FileState) -> _FileState:
        """Return the state after a look at the file; entries that are right count, whatever is beside them."""
        now, stamp = time.monotonic(), _stamp(path)
        if stamp is not None and stamp == state.stamp:
            return replace(state, checked=now, readable=now)
        try:
            keys, troubles = read_valid(_text(path), str(path))
        except (OSError, ValueError) as error:
            return self._unreadable(state, f"the file of keys cannot be read ({type(error).__name__})", now)
        if troubles and state.suspect != stamp and not _is_settled(stamp):
            return replace(state, checked=now, suspect=stamp)  # it may be half written: the next look decides
        if troubles and not keys:
            return self._unreadable(replace(state, suspect=stamp), f"the file of keys: {troubles[0]}", now)
        trouble = "; ".join(troubles[:3]) + (f"; and {len(troubles) - 3} more" if len(troubles) > 3 else "")
        return _FileState(keys, stamp, now, now, trouble, stamp)

    def _unreadable(self, state: _FileState, what: str, now: float) -> _FileState:
        """Return the state for a file without any readable key; its old keys end after a while."""
        expired = now - state.readable >= self._gone_seconds
        rest = "no key is accepted" if expired else f"the old keys stay in force for {self._gone_seconds:g} seconds"
        keys = () if expired else state.keys
        return replace(state, keys=keys, stamp=None, checked=now, trouble=f"{what}; {rest}")


def _not_empty(keys: tuple[ApiKey, ...], where: str) -> tuple[ApiKey, ...]:
    if not keys:
        raise RequestError("holds no key: `regraft key` makes one", where=where)
    return keys


def _text(path: Path) -> str:
    """Return a file's text. Raises OSError or ValueError for one that is too large or not UTF-8."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES:,} bytes")
    return data.decode("utf-8")


def _is_settled(stamp: tuple[int, ...] | None) -> bool:
    """Return whether a file was last changed some time ago; without requests, nobody has looked at it since."""
    return stamp is not None and time.time() - max(stamp[:2]) / 1e9 >= _SETTLED_S


def _stamp(path: Path | None) -> tuple[int, ...] | None:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size) if found else None
