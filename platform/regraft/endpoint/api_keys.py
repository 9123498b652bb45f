"""Bearer keys of an endpoint, kept as hashes; a key may be limited to some models.

A key is 256 random bits. So one round of SHA-256 protects it as well as a slow hash protects a password, and a check
takes microseconds. Files and the variable REGRAFT_KEYS hold YAML: `- {name: shop, sha256: ..., models: [a]}`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from dataclasses import dataclass
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
    try:
        entries = parse_yaml(text) or []
    except ValueError:
        raise RequestError("is not YAML: write - {name: ..., sha256: ...} for each key", where=where) from None
    if not isinstance(entries, list):
        raise RequestError("holds no list: write - {name: ..., sha256: ...} for each key", where=where)
    return tuple(_key(number, entry, where) for number, entry in enumerate(entries, start=1))


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


@dataclass
class _FileState:
    keys: tuple[ApiKey, ...]
    stamp: tuple[int, int] | None
    checked: float


class ApiKeys:
    """The keys of an endpoint; changes of their file apply within seconds, so that a key can be revoked."""

    def __init__(self, keys: tuple[ApiKey, ...] | None, path: Path | None = None) -> None:
        self.required = keys is not None
        self._path = path
        self._lock = threading.Lock()
        self._state = _FileState(keys or (), _stamp(path), time.monotonic())

    @classmethod
    def found(cls, path: str | None) -> Self:
        """Load the keys of a file, else of REGRAFT_KEYS; without either, no key is required."""
        if path:
            try:
                text = Path(path).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise RequestError(f"cannot be read: {error}; `regraft key` makes one", where=path) from None
            found = read(text, path)
            return cls(_not_empty(found, path), Path(path))
        if VARIABLE in os.environ:
            return cls(_not_empty(read(os.environ[VARIABLE], VARIABLE), VARIABLE))
        return cls(None)

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
            stamp = _stamp(self._path)
            keys = state.keys
            if stamp != state.stamp:
                try:
                    keys = read(self._path.read_text(encoding="utf-8"), str(self._path))
                except (OSError, UnicodeDecodeError, RequestError):
                    stamp = state.stamp  # half written: the old keys stay, and the next check reads it again
            self._state = _FileState(keys, stamp, time.monotonic())
        return keys


def _not_empty(keys: tuple[ApiKey, ...], where: str) -> tuple[ApiKey, ...]:
    if not keys:
        raise RequestError("holds no key: `regraft key` makes one", where=where)
    return keys


def _stamp(path: Path | None) -> tuple[int, int] | None:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size) if found else None
