"""One drawing for screen and file: a figure as SVG whose colours are those of the page, light or dark, and as a PNG.

Only this module, `drawing` and `trends` import matplotlib. It takes half a second, so a search imports its report when
there is one to write.
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
    """The light colours of the page's style sheet by name; in a page each becomes the name, so that dark works too."""
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
    """An empty figure, and what its marks say when they are pointed at."""

    figure: Figure
    narrow: bool
    """Whether it is for a phone: a third as wide, with the same size of letters."""
    told: dict[str, Sequence[str]] = field(default_factory=dict)

    def tell(self, mark: str, texts: Sequence[str]) -> str:
        """Of a collection of dots, what each says; the result is the `gid` that it must be drawn with."""
        self.told[mark] = texts
        return mark


Draw = Callable[[Canvas], None]


@dataclass(frozen=True)
class Picture:
    """A picture of the page: two drawings of it within, wide and narrow, and a file beside."""

    name: str
    """Of its file, without suffix."""
    about: str
    """What it shows, for whoever cannot see it."""
    wide: Markup
    narrow: Markup
    png: bytes


def picture(name: str, about: str, draw: Draw, *, wide: tuple[float, float], narrow: tuple[float, float]) -> Picture:
    """`draw` on canvases of those sizes in inches."""
    with _styled():
        large, small = Canvas(Figure(figsize=wide), False), Canvas(Figure(figsize=narrow), True)
        for canvas in (large, small):
            draw(canvas)
        return Picture(
            name, about, _svg(large, about, f"{name}-wide"), _svg(small, about, f"{name}-narrow"), _png(large.figure)
        )


def plain(axes: Axes, title: str, *, above: float | None = None) -> None:
    """What an axis measures stands above it, at its left: there is room on a phone, and nobody tilts the head."""
    axes.set_title(title, loc="left", pad=above, fontsize=8.5, color=COLOURS["ink"], fontweight="bold")
    axes.grid(axis="x", visible=False)


@contextmanager
def _styled() -> Iterator[None]:
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)  # it says when it looks for fonts
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
    """Without what would reach beyond it: a document type, metadata, sizes, fonts, styles of its own, common ids."""
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
        _dress(element, canvas.told)
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
    return Markup(ET.tostring(root, encoding="unicode"))  # ElementTree has escaped every text within


def _dress(element: ET.Element, told: Mapping[str, Sequence[str]]) -> None:
    """Colours by name, the page's letters, and titles on marks."""
    if style := element.get("style"):
        named = re.sub(
            r"#[0-9a-f]{6}", lambda found: f"var(--{_NAMES[found[0]]})" if found[0] in _NAMES else found[0], style
        )
        element.set("style", re.sub(r"'DejaVu Sans'[^;]*", "var(--font)", named))
    if element.tag != f"{{{_SVG}}}g":
        return
    mark = element.attrib.pop("id", "")
    if texts := told.get(mark):
        dots = list(element.iter(f"{{{_SVG}}}use"))
        dots = dots or [dot for dot in element.iter(f"{{{_SVG}}}path") if "id" not in dot.attrib]
        if len(dots) == len(texts):
            for dot, text in zip(dots, texts, strict=True):
                ET.SubElement(dot, f"{{{_SVG}}}title").text = text
