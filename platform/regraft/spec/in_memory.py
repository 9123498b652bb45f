"""A spec in any form that a Python caller gives; rows in memory are refused with the way to train on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from regraft.units import with_article

_TABLES = ("to_csv", "to_pandas", "column_names", "write_csv")
"""Attributes of tables: of pandas, Arrow, datasets, Polars."""

_PLACES = frozenset(["spec", *(f"data.{side}" for side in ("train", "eval", "test", "target", "target_labels"))])
"""What may be given as rows by mistake."""


def refuse_rows(place: str, value: object) -> None:
    """Raise RequestError if a value of a spec, or what is given as the spec, is a table, an array or a list of rows."""
    table = any(hasattr(value, name) for name in _TABLES)
    array = bool(getattr(value, "shape", ()))
    rows = place in _PLACES and isinstance(value, list | tuple)
    if not (table or array or rows):
        return
    name = f"{type(value).__module__.partition('.')[0]} {type(value).__name__}".removeprefix("builtins ")
    writes = "its to_csv('rows.csv', index=False) writes" if hasattr(value, "to_csv") else "write"
    what = "a spec, which names files" if place == "spec" else "the path of a file, a folder or a glob"
    raise RequestError(
        f"{with_article(name)} is given; allowed is {what}. Rows in memory cannot be trained on yet: {writes} them to "
        "a file (CSV, Parquet, JSON lines), and name it as data.train",
        where=place,
    )


def leaves(document: Mapping[str, Any], path: str = "") -> list[tuple[str, object]]:
    """Return the values of a nested mapping by their dotted keys."""
    found: list[tuple[str, object]] = []
    for key, value in document.items():
        found += leaves(value, f"{path}{key}.") if isinstance(value, Mapping) else [(f"{path}{key}", value)]
    return found


def resolved(
    spec: RunSpec | Mapping[str, Any] | str | Path, overrides: Mapping[str, object] | None, store: str | Path | None
) -> RunSpec:
    """Return a spec from any of its forms, with the overrides; `store` is one of them."""
    overrides = dict(overrides or {})
    if store is not None:
        if str(overrides.get("store", store)) != str(store):
            raise RequestError("it is given by store= and, differently, by overrides: keep one", where="store")
        overrides["store"] = str(store)
    if isinstance(spec, str | Path):
        return RunSpec.load(Path(spec), overrides=overrides)
    if isinstance(spec, RunSpec):
        return spec.override(overrides) if overrides else spec
    if not isinstance(spec, Mapping):
        refuse_rows("spec", spec)
        allowed = "a spec is a mapping, a RunSpec, or the path of a YAML file"
        raise RequestError(f"{with_article(type(spec).__name__)} is given; {allowed}")
    for place, value in (*leaves(spec), *overrides.items()):
        refuse_rows(place, value)
    return RunSpec.resolve(spec, overrides=overrides)
