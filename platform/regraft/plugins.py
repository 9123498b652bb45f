"""Open families: a member is one file, and the file's name is its key in the spec.

`tasks/text_classification.py` is `task: text-classification`. Members are found by listing the family's folder and
the user's folders (`plugins:` in the spec; they hold `tasks/`, `methods/`, `losses/`, `sources/`, `columns/`,
`media/`), so joining a family needs no list to be edited. A plugin *is* its configuration: frozen, typed, serialised as
`{type: key, ...}`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from regraft.errors import RequestError, UnknownPlugin, new_name

PACKAGES = {
    "tasks": "regraft.tasks",
    "methods": "regraft.methods",
    "losses": "regraft.losses",
    "sources": "regraft.data.sources",
    "columns": "regraft.columns",
    "media": "regraft.media",
}
SINGULAR = {
    "tasks": "task",
    "methods": "method",
    "losses": "loss",
    "sources": "source",
    "columns": "kind of column",
    "media": "medium",
}
_folders: list[Path] = []


class Frozen(BaseModel):
    """A part of a spec: immutable and typed, without unknown keys; attribute docstrings are its manual."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Plugin(Frozen):
    """A member of an open family; the family's root sets `family`, and a member's key is its file name."""

    family: ClassVar[str]
    """Name of the family: that of its folder."""
    synonyms: ClassVar[frozenset[str]] = frozenset()
    """What other tools call the member, with dashes: the message for such a name gives the member's."""
    later: ClassVar[frozenset[str]] = frozenset()
    """Fields that are newer than 0.1.0: left out of documents at their defaults, so older runs keep their names."""

    @classmethod
    def key(cls) -> str:
        """Return the member's name in a spec: its file's name with dashes."""
        return cls.__module__.rsplit(".", 1)[-1].replace("_", "-")

    @classmethod
    def names(cls) -> list[str]:
        """Return the keys of all members, the platform's and the user's, sorted."""
        return sorted(_members(cls.family))

    @classmethod
    def lookup(cls, name: str) -> type[Self]:
        """Return the member class of that key.

        Raises UnknownPlugin, which names the nearest and all known keys, and RequestError for a user's file that cannot
        be loaded.
        """
        members = _members(cls.family)
        if name not in members:
            raise UnknownPlugin(unknown(SINGULAR[cls.family], name, sorted(members), cls._meant(name)))
        file = members[name]
        member = _only_member(_load(file, cls.family, name), cls)
        if file is not None:
            _refuse_old_hooks(member, file)
        return member

    @classmethod
    def parse(cls, written: object) -> object:
        """Return the member that a spec writes as `lora` or `{type: lora, rank: 8}`. Raises ValueError for other
        values."""
        if isinstance(written, str):
            written = {"type": written}
        if isinstance(written, cls):
            return written
        if not isinstance(written, dict) or "type" not in written:
            what = SINGULAR[cls.family]
            raise ValueError(
                f"{written!r} is written; a {what} is a name, or {{type: name, ...}}: {', '.join(cls.names())}"
            )
        fields = {key: value for key, value in written.items() if key != "type"}
        try:
            member = cls.lookup(str(written["type"]))
        except UnknownPlugin as error:
            raise ValueError(str(error)) from None
        return member.model_validate(fields)

    @classmethod
    def _meant(cls, name: str) -> str:
        """Return the platform's member that other tools call `name`; empty if none or several do."""
        word = name.strip().lower().replace("_", "-").replace(" ", "-")
        own = (key for key, file in _members(cls.family).items() if file is None)
        found = [
            key for key in own if word in vars(_only_member(_load(None, cls.family, key), cls)).get("synonyms", ())
        ]
        return found[0] if len(found) == 1 else ""

    @model_serializer(mode="wrap")
    def _with_type(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        usual = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {"type": self.key(), **{name: value for name, value in document.items() if name not in usual}}


P = TypeVar("P", bound=Plugin)


def unknown(what: str, written: str, known: list[str], meant: str = "") -> str:
    """Return the message for an unknown name: what was written, what is meant or the nearest, what is allowed."""
    near = meant or next(iter(get_close_matches(written, known, n=1)), "")
    hint = f" Did you mean {near!r}?" if near else ""
    return f"Unknown {what} {written!r}.{hint} Known: {', '.join(known) or 'none'}."


def classes_in(folder: ModuleType, root: type) -> list[Any]:
    """Return the subclass of `root` that each file of a package defines, in the order of the files' names.

    For families of the platform that no spec names: they need no keys and no plugin folder.
    """
    found = []
    for module in sorted(pkgutil.iter_modules(folder.__path__), key=lambda item: item.name):
        loaded = importlib.import_module(f"{folder.__name__}.{module.name}")
        found += [
            item
            for item in vars(loaded).values()
            if inspect.isclass(item) and issubclass(item, root) and item.__module__ == loaded.__name__
        ]
    return found


def add_folder(folder: Path) -> None:
    """Add a user's plugin folder, which has sub-folders named after families. Raises RequestError where it has none."""
    folder = folder.resolve()
    if not any((folder / family).is_dir() for family in PACKAGES):
        wanted = " or ".join(f"{family}/" for family in PACKAGES)
        raise RequestError(f"{folder} is not a plugin folder: one holds a folder {wanted}", where="plugins")
    if folder not in _folders:
        _folders.append(folder)


def _members(family: str) -> dict[str, Path | None]:
    """Return the file of each key; None for the platform's own members, which are imported as modules."""
    package = importlib.import_module(PACKAGES[family])
    own = {name: None for folder in package.__path__ for name in _keys(Path(folder))}
    members: dict[str, Path | None] = dict(own)
    for folder in _folders:
        for name, path in _keys(folder / family).items():
            if members.get(name, path) != path:
                other = members[name] or f"the platform's own {name}"
                raise RequestError(f"{path} and {other} have the same name: rename the file", where="plugins")
            members[name] = path
    return members


def _keys(folder: Path) -> dict[str, Path]:
    files = folder.glob("*.py") if folder.is_dir() else ()
    return {path.stem.replace("_", "-"): path for path in files if re.fullmatch(r"[a-z][a-z0-9_]*", path.stem)}


def _load(path: Path | None, family: str, key: str) -> ModuleType:
    stem = key.replace("-", "_")
    if path is None:
        return importlib.import_module(f"{PACKAGES[family]}.{stem}")
    where = hashlib.sha256(str(path.parent).encode()).hexdigest()[:8]
    name = f"regraft_plugins.{where}.{stem}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise RequestError(f"{path} cannot be loaded as Python", where="plugins")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise RequestError(f"loading {path} failed: {_explained(error)}", where="plugins") from error
    return module


def _explained(error: Exception) -> str:
    """Return the error in a line; for an import of a renamed module or class, its old and new names."""
    if isinstance(error, ImportError):
        frames = traceback.extract_tb(error.__traceback__)
        files = {Path(frame.filename) for frame in frames} - {Path(__file__)}
        used = {error.name or "", *(name for file in files if file.is_file() for name in _imported(file))}
        if renamed := [f"{old} is now {new}" for old in sorted(used) if (new := new_name(old))]:
            return f"{'; '.join(renamed)}: change the import"
    return f"{type(error).__name__}: {error}"


def _imported(file: Path) -> Iterator[str]:
    """Yield every dotted name that a Python file imports: modules, and names of modules."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _refuse_old_hooks(member: type[Plugin], file: Path) -> None:
    """Raise RequestError if a user's class defines a hook by its former name, which the platform would never use.

    A former name may be that of another hook now (`targets`); a method with as many parameters as that hook is valid.
    """
    platform = [base for base in member.__mro__ if base.__module__.startswith("regraft.")]
    for owner in member.__mro__:
        if owner in platform:
            continue
        for name, value in vars(owner).items():
            base, new = next(((base, new) for base in platform if (new := new_name(_hook(base, name)))), (member, ""))
            kind = "method" if inspect.isfunction(value) else "attribute"
            if not new or inspect.isfunction(value) != inspect.isfunction(vars(base).get(new.rpartition(".")[2])):
                continue
            current = next((vars(base)[name] for base in platform if name in vars(base)), None)
            if current is None or len(_parameters(current)) != len(_parameters(value)):
                raise RequestError(
                    f"{file}: {owner.__name__}.{name} overrides a hook that is now {new}: rename the {kind}",
                    where="plugins",
                )


def _hook(owner: type, name: str) -> str:
    return f"{owner.__module__}.{owner.__qualname__}.{name}"


def _parameters(method: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(method).parameters


def _only_member(module: ModuleType, root: type[P]) -> type[P]:
    own = [
        item
        for item in vars(module).values()
        if inspect.isclass(item) and issubclass(item, root) and item.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise TypeError(f"{module.__name__} must define exactly one {root.__name__}, found {len(own)}")
    return own[0]
