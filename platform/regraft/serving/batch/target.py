"""Who answers: a registered model, or for features any base as well?"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from regraft.bases.locate import Base, locate
from regraft.contracts import Kind, Row, Task
from regraft.errors import BaseError, NotFound, WrongBase
from regraft.serving.encoder import recipe_of
from regraft.serving.predictor import member, right_base
from regraft.serving.row_checks import inputs
from regraft.serving.version_files import fetch
from regraft.spec.document import absolute
from regraft.store.objects import open_store


@dataclass(frozen=True)
class RowSchema:
    """Columns with their kinds, and what is wrong with a row."""

    columns: dict[str, Kind]
    check: Callable[[Row], str | None]
    trained: Mapping[str, str]
    """What the columns were called in the training files."""


@dataclass(frozen=True)
class Target:
    """A version of a model, or a base: plain data, the same on every machine."""

    reference: str
    """`name@v3`, or the base as it was written."""
    id: str
    """What changes when its answers may: the hash of the version's manifest, or of the base's files."""
    store: str
    vectors: bool
    """Whether it gives features, not answers."""
    base: str | None = None
    """Set where a base itself is asked."""
    task: Mapping[str, Any] | None = None
    """The version's task as a spec writes it."""
    trained: Mapping[str, str] = field(default_factory=dict)
    """What the columns were called in the training files."""
    elsewhere: str | None = None
    """Where the version's base is, if not where the version says."""

    def row_schema(self) -> RowSchema:
        """What an answer needs of a row."""
        if self.base is not None:
            return RowSchema(recipe_of(self.located()).columns, lambda _: None, {})
        task = Task.parse(dict(self.task or {}))
        assert isinstance(task, Task)
        wanted = inputs(task)
        return RowSchema(wanted, task.check, {name: told for name, told in self.trained.items() if name in wanted})

    def located(self) -> Base:
        """The base on this machine; WrongBase when it is another than the one that the output was begun with."""
        assert self.base is not None
        found = locate(self.base)
        if _base_id(found) != self.id:
            raise WrongBase(f"{self.base} has other files here than where the command began", where=self.base)
        return found

    def document(self) -> dict[str, Any]:
        """As an unfinished output holds it."""
        return {name: value for name, value in asdict(self).items() if name in ("reference", "id", "vectors")}


def resolve_target(written: str, store: str, *, features: bool, base: str | None = None) -> Target:
    """What `written` means: a registered model of that name first, and for features else a base.

    `base` is where a version's base is, if not where the version says. Raises NotFound, with the nearest name, and
    BaseError.
    """
    store = absolute(store)
    missing: NotFound | None = None
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]*(@[\w.-]+)?", written):
        try:
            return _of_version(written, store, base, features=features)
        except NotFound as error:
            if not features:
                raise
            missing = error
    elif not features:
        raise NotFound(
            f"{written!r} is no model's name: answers come from registered models (regraft models list), features "
            "(--features) from bases too",
            where=store,
        )
    try:
        asked = locate(written)
    except BaseError as error:
        if missing is None:
            raise
        raise NotFound(f"{written!r} is neither a model ({missing.message}) nor a base ({error.message})") from None
    return Target(written, _base_id(asked), store, True, base=_everywhere(written, asked))


def _everywhere(written: str, base: Base) -> str:
    """How another process finds the very base: the hub's commit, a folder's whole path."""
    if base.revision is not None:
        return f"{written.partition('@')[0]}@{base.revision}"
    return written if re.match(r"package:|\w+://", written) else str(base.path)


def _of_version(written: str, store: str, base: str | None, *, features: bool) -> Target:
    fetched = fetch(open_store(store), written)
    right_base(fetched, base)
    member(Task, fetched.meta["task"], fetched)  # type: ignore[type-abstract]
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
    """A short name for a small document."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
