"""The frame of every HTML page: one style sheet for light and dark, and templates with autoescaping."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from regraft.report import charts, numbers
from regraft.units import seconds_text

_TEMPLATES = Path(__file__).parent / "templates"


def environment(*folders: Path) -> Environment:
    """Return the templates of these folders and the shared ones, `frame.html.j2` and `findings.html.j2`."""
    made = Environment(
        loader=FileSystemLoader([*folders, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "number": numbers.format_number,
        "signed": numbers.signed,
        "probability": numbers.probability,
        "span": seconds_text,
        "count": lambda number: f"{number:,}",
        "words": lambda name: str(name).replace("_", " "),
        "moment": moment,
    }
    made.globals |= {"width": charts.WIDTH, "height": charts.HEIGHT}
    return made


def style(*more: Path) -> Markup:
    """Return the common style sheet followed by `more`, unescaped: these are our own files, never the user's."""
    return Markup("\n".join(path.read_text(encoding="utf-8") for path in (_TEMPLATES / "frame.css", *more)))


def moment(text: str) -> str:
    """Return a time in ISO 8601 as readable text: `3 May 2026, 14:05 UTC`."""
    return f"{datetime.fromisoformat(text):%-d %B %Y, %H:%M} UTC"


def put(path: Path, content: str | bytes) -> None:
    """Write a file atomically, so that a reader never sees half a page."""
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)
