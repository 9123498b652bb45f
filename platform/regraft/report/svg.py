"""Matplotlib figures as SVG in the colours of the page, light or dark, and as PNG files.

Only this module and the plots of `tuning.pages` import matplotlib. The import takes half a second, so a search imports
its report only when it writes one.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regraft.report import html

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
DPI = 200


def _palette() -> dict[str, str]:
    """Return the light colours of the style sheet by name; a page refers to them by name, so that dark works too."""
    light = str(html.style()).split("@media", 1)[0]
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", light))


COLOURS: Mapping[str, str] = _palette()
_NAMES = {value: name for name, value in COLOURS.items()}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": COLOURS["ink"],
    "axes.facecolor": "none",
    "axes.edgecolor": COLOURS["faint"],
    "axes.linewidth": 0.7,
    "axes.labelcolor": COLOURS["soft"],
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.7,
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "legend.frameon": False,
}


@dataclass
class Canvas:
    """An empty figure, and the tooltips of its marks."""

    figure: Figure
    narrow: bool
    """Whether it is for a phone: a third as wide, with letters of the same size."""
    tooltips: dict[str, Sequence[str]] = field(default_factory=dict)

    def label(self, mark: str, texts: Sequence[str]) -> str:
        """Set the tooltip of each dot of a collection, and return the `gid` to draw the collection with."""
        self.tooltips[mark] = texts
        return mark


Draw = Callable[[Canvas], None]


@dataclass(frozen=True)
class Picture:
    """A picture of a page: a wide and a narrow drawing within the page, and a PNG file beside it."""

    name: str
    """Name of its file, without suffix."""
    about: str
    """Text alternative for screen readers."""
    wide: Markup
    narrow: Markup
    png: bytes


def picture(name: str, about: str, draw: Draw, *, wide: tuple[float, float], narrow: tuple[float, float]) -> Picture:
    """Draw a picture on canvases of these sizes, in inches."""
    with _styled():
        large, small = Canvas(Figure(figsize=wide), False), Canvas(Figure(figsize=narrow), True)
        for canvas in (large, small):
            draw(canvas)
        return Picture(
            name, about, _svg(large, about, f"{name}-wide"), _svg(small, about, f"{name}-narrow"), _png(large.figure)
        )


def plain(axes: Axes, title: str, *, above: float | None = None) -> None:
    """Put the label of the y axis above it, at the left: it fits on a phone and is read without tilting the head."""
    axes.set_title(title, loc="left", pad=above, fontsize=8.5, color=COLOURS["ink"], fontweight="bold")
    axes.grid(axis="x", visible=False)


@contextmanager
def _styled() -> Iterator[None]:
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)  # it logs every search for fonts
    try:
        with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")  # the browser has it, a PNG a box
            yield
    finally:
        log.setLevel(level)


def _png(figure: Figure) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=DPI, facecolor=COLOURS["card"], metadata={"Software": None})
    return written.getvalue()


def _svg(canvas: Canvas, about: str, salt: str) -> Markup:
    """Render without anything that reaches beyond the picture: document type, metadata, sizes, fonts, styles, ids."""
    written = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        canvas.figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    root = ET.fromstring(written.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"):
                parent.remove(child)
    for element in root.iter():
        _adapt(element, canvas.tooltips)
    root.attrib.clear()
    _, _, width, height = (0, 0, *(72 * inches for inches in canvas.figure.get_size_inches()))
    root.attrib |= {
        "viewBox": f"0 0 {width:g} {height:g}",
        "class": f"drawn {'narrow' if canvas.narrow else 'wide'}",
        "role": "img",
        "aria-label": about,
        "stroke-linejoin": "round",
    }
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _LINK)
    return Markup(ET.tostring(root, encoding="unicode"))  # ElementTree has escaped every text


def _adapt(element: ET.Element, tooltips: Mapping[str, Sequence[str]]) -> None:
    """Replace colours by their names and the font by the page's, and add tooltips to marks."""
    if style := element.get("style"):
        named = re.sub(
            r"#[0-9a-f]{6}", lambda found: f"var(--{_NAMES[found[0]]})" if found[0] in _NAMES else found[0], style
        )
        element.set("style", re.sub(r"'DejaVu Sans'[^;]*", "var(--font)", named))
    if element.tag != f"{{{_SVG}}}g":
        return
    mark = element.attrib.pop("id", "")
    if texts := tooltips.get(mark):
        dots = list(element.iter(f"{{{_SVG}}}use"))
        dots = dots or [dot for dot in element.iter(f"{{{_SVG}}}path") if "id" not in dot.attrib]
        if len(dots) == len(texts):
            for dot, text in zip(dots, texts, strict=True):
                ET.SubElement(dot, f"{{{_SVG}}}title").text = text
