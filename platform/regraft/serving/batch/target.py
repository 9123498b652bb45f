"""The target of a batch prediction: a registered model, or for features any base as well."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from regraft.bases.derived_base import find_base
from regraft.bases.locate import Base
from regraft.contracts import Kind, Row, Task, columns_of
from regraft.data.observations import remarks
from regraft.errors import BaseError, NotFound, WrongBase
from regraft.serving.encoder import recipe_of
from regraft.serving.predictor import parse_member, version_base
from regraft.serving.row_checks import prediction_columns
from regraft.serving.version_files import fetch
from regraft.spec.column_names import Names
from regraft.spec.document import absolute
from regraft.store.objects import open_store


@dataclass(frozen=True)
class RowSchema:
    """The columns that an answer needs, and the check of a row."""

    columns: dict[str, Kind]
    check: Callable[[Row], str | None]
    """Returns the problem of a row, or None."""
    trained: Mapping[str, Names]
    """The columns' names in the training files."""
    remarks: Callable[[Row], Sequence[str]] = lambda row: ()
    """Returns what is to be said about a usable row."""


@dataclass(frozen=True)
class Target:
    """A version of a model, or a base, as plain data that is valid on every machine."""

    reference: str
    """`name@v3`, or the base's reference as the user wrote it."""
    id: str
    """Hash of the version's manifest, or of the base's files: it changes whenever answers may."""
    store: str
    vectors: bool
    """Whether it returns features instead of answers."""
    base: str | None = None
    """Reference of the base whose features are computed; None for a version."""
    task: Mapping[str, Any] | None = None
    """The version's task, in the form of a spec."""
    trained: Mapping[str, Names] = field(default_factory=dict)
    """The columns' names in the training files."""
    elsewhere: str | None = None
    """Reference of the version's base, if it is not at the version's own."""

    def row_schema(self) -> RowSchema:
        """Return the columns and the check of its rows."""
        if self.base is not None:
            return RowSchema(recipe_of(self.located()).columns, lambda _: None, {})
        task = Task.parse(dict(self.task or {}))
        assert isinstance(task, Task)
        wanted = prediction_columns(task)
        return RowSchema(
            wanted,
            task.check,
            {name: written for name, written in self.trained.items() if name in wanted},
            lambda row: remarks(task, row, columns_of(wanted)),
        )

    def located(self) -> Base:
        """Locate the base on this machine. Raises WrongBase when its files have changed since the start."""
        assert self.base is not None
        found = find_base(open_store(self.store), self.base)
        if _base_id(found) != self.id:
            raise WrongBase(f"{self.base} has other files here than where the command began", where=self.base)
        return found

    def document(self) -> dict[str, Any]:
        """Return the fields that the document of an unfinished output contains."""
        return {name: value for name, value in asdict(self).items() if name in ("reference", "id", "vectors")}


def resolve_target(written: str, store: str, *, features: bool, base: str | None = None) -> Target:
    """Resolve a reference: to a registered model of that name, or for features else to a base.

    `base` is where a version's base is, if not at the version's own reference. Raises NotFound, with the nearest name,
    and BaseError.
    """
    store = absolute(store)
    missing: NotFound | None = None
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]*(@[\w.-]+)?", written):
        try:
            return _version_target(written, store, base, features=features)
        except NotFound as error:
            if not features:
                raise
            missing = error
    elif not features:
        raise NotFound(
            f"{written!r} is not a model's name: answers come from registered models (regraft models list), features "
            "(--features) from bases too",
            where=store,
        )
    try:
        located = find_base(open_store(store), written)
    except BaseError as error:
        if missing is None:
            raise
        raise NotFound(f"{written!r} is neither a model ({missing.message}) nor a base ({error.message})") from None
    return Target(written, _base_id(located), store, True, base=_portable(written, located))


def _portable(written: str, base: Base) -> str:
    """Return a reference that names the same base in any process: with the hub's commit, or an absolute path."""
    if base.revision is not None:
        return f"{written.partition('@')[0]}@{base.revision}"
    if re.match(r"model:|random:", base.reference):
        return base.reference
    return written if re.match(r"package:|\w+://", written) else str(base.found_at)


def _version_target(written: str, store: str, base: str | None, *, features: bool) -> Target:
    fetched = fetch(open_store(store), written)
    version_base(fetched, base)
    parse_member(Task, fetched.meta["task"], fetched)  # type: ignore[type-abstract]
    return Target(
        reference=str(fetched.version),
        id=fetched.version.id,
        store=store,
        vectors=features,
        task=dict(fetched.meta["task"]),
        trained=(fetched.spec.get("data") or {}).get("columns") or {},
        elsewhere=base,
    )


def _base_id(base: Base) -> str:
    return f"{base.hash[:32]}-{base.processor_hash[:16]}-{hash_of(recipe_of(base).document())}"


def hash_of(document: Mapping[str, Any]) -> str:
    """Return a short hash of a small document."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
