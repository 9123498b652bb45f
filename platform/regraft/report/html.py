"""What every page of regraft stands on: one style in light and dark, and templates that escape all they are given."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from regraft.report import charts, numbers

_TEMPLATES = Path(__file__).parent / "templates"


def environment(*folders: Path) -> Environment:
    """Templates of these folders, and those that all pages share: `frame.html.j2` to extend, `findings.html.j2`."""
    made = Environment(
        loader=FileSystemLoader([*folders, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "figure": numbers.figure,
        "probability": numbers.probability,
        "span": numbers.span,
        "count": lambda number: f"{number:,}",
        "words": lambda name: str(name).replace("_", " "),
        "moment": moment,
    }
    made.globals |= {"width": charts.WIDTH, "height": charts.HEIGHT}
    return made


def style(*more: Path) -> Markup:
    """The style sheet, then those of `more`: our own files, never the user's, so they are not escaped."""
    return Markup("\n".join(path.read_text(encoding="utf-8") for path in (_TEMPLATES / "frame.css", *more)))


def moment(text: str) -> str:
    """A time in ISO 8601 as people write it: `3 May 2026, 14:05 UTC`."""
    return f"{datetime.fromisoformat(text):%-d %B %Y, %H:%M} UTC"


def put(path: Path, content: str | bytes) -> None:
    """All of it or nothing: a reader never meets half a page."""
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)
