"""Pages in a real browser: visible elements, contrasts, console errors and requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Seen:
    """An open page."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """Requested addresses other than the file itself and embedded data."""

    def visible(self, selector: str) -> int:
        """Return the number of such elements with a visible size."""
        return sum(item.is_visible() for item in self.page.query_selector_all(selector))

    def cut(self) -> list[str]:
        """Return what a reader cannot see or reach: parts beyond the screen, cut texts, scrollers without a hint."""
        found: list[str] = self.page.evaluate(_CUT)
        return found

    def scrolling(self) -> list[str]:
        """Return the names of the elements that can be scrolled to the side."""
        found: list[str] = self.page.evaluate(_SCROLLING)
        return found

    def contrasts(self, selectors: Sequence[str]) -> dict[str, float]:
        """Return for each selector on the page the lowest contrast of its texts with the background (WCAG 2.2)."""
        found: dict[str, float] = self.page.evaluate(_CONTRAST, list(selectors))
        return found


class Look:
    """Opens pages, at a width and in a colour scheme."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser

    @contextmanager
    def __call__(self, path: Path, *, width: int = 1180, scheme: str = "light") -> Iterator[Seen]:
        context = self._browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        seen = Seen(context.new_page())
        seen.page.on("console", lambda message: seen.complaints.append(message.text))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.on("dialog", lambda dialog: (seen.complaints.append("a dialog"), dialog.dismiss()))
        own = path.absolute().as_uri()

        def asked(request: Any) -> None:
            if request.url != own and not request.url.startswith("data:"):
                seen.requests.append(request.url)

        seen.page.on("request", asked)
        try:
            seen.page.goto(own)
            yield seen
        finally:
            context.close()


_SCROLLING = """() => [...document.querySelectorAll('.scroll')]
  .filter(box => box.checkVisibility() && box.scrollWidth > box.clientWidth + 1)
  .map(box => box.getAttribute('aria-label'))"""
_CUT = """async () => {
  for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
  const found = [], edge = document.documentElement.clientWidth;
  const name = element => `${element.tagName} ${element.className?.baseVal ?? element.className}: `
    + element.textContent.trim().slice(0, 40);
  const scrolls = element => ['auto', 'scroll'].includes(getComputedStyle(element).overflowX);
  const inside = element => {
    for (let at = element.parentElement; at; at = at.parentElement) if (scrolls(at)) return true;
  };
  if (document.scrollingElement.scrollWidth > innerWidth)
    found.push(`the page is ${document.scrollingElement.scrollWidth} wide`);
  for (const element of document.body.querySelectorAll('*')) {
    if (!element.checkVisibility() || element.closest('svg')) continue;
    const box = element.getBoundingClientRect();
    const over = element.scrollWidth > element.clientWidth + 1;
    if ((box.right > edge + 1 || box.left < -1) && !inside(element)) found.push(`beyond the screen, ${name(element)}`);
    if (over && getComputedStyle(element).overflowX === 'hidden') found.push(`cut, ${name(element)}`);
    if (over && scrolls(element) && !(element.querySelector('.further')?.offsetHeight > 4))
      found.push(`scrolls without a hint, ${name(element)}`);
  }
  return found;
}"""
_CONTRAST = """names => {
  const light = value => { const c = value / 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4 };
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const rgb = (colour, below) => {
    canvas.fillStyle = below; canvas.fillRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const behind = element => {
    const chain = [];
    for (let at = element; at; at = at.parentElement) chain.push(getComputedStyle(at).backgroundColor);
    return chain.reverse().reduce((below, colour) => `rgb(${rgb(colour, below).join()})`, 'white');
  };
  const found = {};
  for (const name of names) for (const element of document.querySelectorAll(name)) {
    const shown = getComputedStyle(element), below = behind(element);
    const own = rgb(element instanceof SVGElement ? shown.fill : shown.color, below);
    const [one, two] = [luminance(own), luminance(rgb(below, 'white'))].sort((a, b) => b - a);
    found[name] = Math.min(found[name] ?? 99, (one + 0.05) / (two + 0.05));
  }
  return found;
}"""
