"""What `regraft auto` is asked for: the data, and what the user knows already."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from regraft.contracts import Source
from regraft.errors import RequestError
from regraft.plugins import add_folder
from regraft.serving.batch.input_blocks import source_named
from regraft.spec.column_names import Names
from regraft.spec.document import absolute

BUDGET = "10m"
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|)(?:ec(?:onds?)?|in(?:utes?)?|ours?|ays?)?")
_LONGEST_NAME = 40


@dataclass(frozen=True)
class AutoRequest:
    """A call of `regraft auto`."""

    data: str
    store: str
    task: str | None = None
    bases: tuple[str, ...] | None = None
    """Bases to choose among; None: those of the settings, of installed packages and of the hub's copies here."""
    budget: float = 600.0
    """Seconds for everything, over all attempts."""
    name: str | None = None
    """The model's name; None: the name of the data."""
    columns: Mapping[str, Names] = field(default_factory=dict)
    format: Source | None = None
    plugins: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The name that the model is registered under."""
        return self.name or name_of(self.data)

    @property
    def key(self) -> str:
        """The name of this automatic run in the store: the same call again continues it, with another budget too."""
        asked = {
            "data": absolute(self.data),
            "task": self.task,
            "bases": self.bases,
            "columns": {name: self.columns[name] for name in sorted(self.columns)},
            "format": None if self.format is None else self.format.model_dump(mode="json"),
            "plugins": self.plugins,
        }
        text = json.dumps(asked, sort_keys=True, default=str).replace(json.dumps(f"{Path.cwd()}/")[1:-1], "")
        return f"{self.model}-{hashlib.sha256(text.encode()).hexdigest()[:10]}.auto"


class AutoAsked(TypedDict, total=False):
    """What a caller may say besides the data."""

    task: str | None
    bases: Sequence[str] | None
    budget: str | float
    store: str | Path | None
    name: str | None
    columns: Mapping[str, str] | None
    format: Source | Mapping[str, Any] | str | None
    plugins: Sequence[str | Path]


def auto_request(data: str, asked: AutoAsked) -> AutoRequest:
    """Return a checked request; the store is the one that is asked for, else REGRAFT_STORE, else ./regraft-store."""
    if strange := set(asked) - set(AutoAsked.__annotations__):
        known = ", ".join(AutoAsked.__annotations__)
        raise TypeError(f"auto() has no argument {sorted(strange)[0]!r}; known are data, progress, {known}")
    plugins = tuple(map(str, asked.get("plugins") or ()))
    for folder in plugins:
        add_folder(Path(folder).expanduser())
    form, bases = asked.get("format"), asked.get("bases")
    name = asked.get("name") or name_of(data)
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        raise RequestError(f"{name!r} is written; a name has lower case letters, digits, dots and dashes", "--name")
    return AutoRequest(
        data=data,
        store=absolute(str(asked.get("store") or os.environ.get("REGRAFT_STORE") or "./regraft-store")),
        task=asked.get("task"),
        bases=None if bases is None else tuple(bases),
        budget=seconds_of(asked.get("budget", BUDGET)),
        name=name,
        columns=dict(asked.get("columns") or {}),
        format=form if form is None or isinstance(form, Source) else source_named(form),
        plugins=plugins,
    )


def name_of(data: str) -> str:
    """Return a model's name made of the name of its data: `tickets-train` for `jobs/data/tickets-train.csv`."""
    place = data.partition("#")[0].rstrip("/") if "://" in data else os.path.abspath(data.partition("#")[0])
    last = place.rpartition("/")[2]
    stem = last.partition(".")[0] or last
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:_LONGEST_NAME]
    return name or "model"


def seconds_of(written: str | float) -> float:
    """Return a budget in seconds: `10m`, `90s`, `1.5h`, or a number of seconds. Raises RequestError."""
    if isinstance(written, int | float) and not isinstance(written, bool):
        seconds = float(written)
    else:
        found = _BUDGET.fullmatch(str(written).strip().lower())
        seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds < float("inf"):
        raise RequestError(
            f"{written!r} is written; allowed is a time, such as 90s, 10m or 2h, or a number of seconds",
            where="--budget",
        )
    return seconds
