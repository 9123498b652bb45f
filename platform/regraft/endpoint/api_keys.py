"""Who may ask? Bearer keys, kept as hashes; a key may be for some models only.

A key is 256 random bits, so that one round of SHA-256 protects it as well as a slow hash protects a password, and
checking it costs microseconds. Files and the variable REGRAFT_KEYS hold YAML:
`- {name: shop, sha256: ..., models: [a]}`.
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

import yaml
from pydantic import StringConstraints, ValidationError

from regraft.endpoint.http_errors import HttpError
from regraft.errors import RequestError
from regraft.plugins import Frozen

PREFIX = "rg_"
VARIABLE = "REGRAFT_KEYS"
_LOOK_S = 2.0


class ApiKey(Frozen):
    """One key as it is kept."""

    name: str = ""
    """Whose it is; told in no answer."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """The hash of the key."""
    models: tuple[str, ...] | None = None
    """The models it is for; null: all of them."""

    def may(self, model: str) -> bool:
        """Whether it is for this model."""
        return self.models is None or model in self.models


EVERYTHING = ApiKey(name="nobody is asked", sha256="0" * 64)


def new_key() -> str:
    """A key to hand out; it is shown once and kept by nobody."""
    return PREFIX + secrets.token_urlsafe(32)


def hashed(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def append(path: Path, key: ApiKey) -> None:
    """Add a key to a file, which others of this machine may not read."""
    known = read(path.read_text(encoding="utf-8"), str(path)) if path.exists() else ()
    if key.name and any(other.name == key.name for other in known):
        raise RequestError(
            f"there is a key of {key.name} already: take its line away first, or use another name", str(path)
        )
    line = yaml.safe_dump(
        [key.model_dump(mode="json", exclude_none=True)], default_flow_style=None, width=10_000, sort_keys=False
    )
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as file:
        file.write(line)


def read(text: str, where: str) -> tuple[ApiKey, ...]:
    """Keys of YAML text; RequestError says which entry is wrong, and shows none."""
    try:
        entries = yaml.safe_load(text) or []
    except yaml.YAMLError:
        raise RequestError("is no YAML: write - {name: ..., sha256: ...} for each key", where=where) from None
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
class _State:
    keys: tuple[ApiKey, ...]
    stamp: tuple[int, int] | None
    looked: float


class ApiKeys:
    """The keys of an endpoint; a file that changes counts within seconds, so that a key can be taken back."""

    def __init__(self, keys: tuple[ApiKey, ...] | None, path: Path | None = None) -> None:
        self.asked = keys is not None
        self._path = path
        self._lock = threading.Lock()
        self._state = _State(keys or (), _stamp(path), time.monotonic())

    @classmethod
    def found(cls, path: str | None) -> Self:
        """The keys of a file, else of REGRAFT_KEYS, else none: nobody is asked."""
        if path:
            try:
                text = Path(path).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise RequestError(f"cannot be read: {error}; `regraft key` makes one", where=path) from None
            found = read(text, path)
            return cls(_some(found, path), Path(path))
        if VARIABLE in os.environ:
            return cls(_some(read(os.environ[VARIABLE], VARIABLE), VARIABLE))
        return cls(None)

    def check(self, authorization: str | None) -> ApiKey:
        """The key that a request brought. Refusal 401 when it brought none that is known."""
        if not self.asked:
            return EVERYTHING
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise HttpError(401, "NoKey", "this endpoint asks for a key: send the header Authorization: Bearer KEY")
        digest = hashed(given.strip())
        found = None
        for key in self._now():  # all of them, so that the time tells nothing
            if hmac.compare_digest(key.sha256, digest):
                found = key
        if found is None:
            raise HttpError(401, "WrongKey", "this key is not known here")
        return found

    def _now(self) -> tuple[ApiKey, ...]:
        state = self._state
        if self._path is None or time.monotonic() - state.looked < _LOOK_S:
            return state.keys
        with self._lock:
            stamp = _stamp(self._path)
            keys = state.keys
            if stamp != state.stamp:
                try:
                    keys = read(self._path.read_text(encoding="utf-8"), str(self._path))
                except (OSError, UnicodeDecodeError, RequestError):
                    stamp = state.stamp  # half written: the keys as they were, and another look soon
            self._state = _State(keys, stamp, time.monotonic())
        return keys


def _some(keys: tuple[ApiKey, ...], where: str) -> tuple[ApiKey, ...]:
    if not keys:
        raise RequestError("holds no key: `regraft key` makes one", where=where)
    return keys


def _stamp(path: Path | None) -> tuple[int, int] | None:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size) if found else None
