"""What a reader of a page sees: opened in a real browser, with everything that it complains of or asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Seen:
    """A page that is open."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """Addresses that were asked for besides the file itself and what lies within it."""

    def visible(self, selector: str) -> int:
        """How many such elements take up room."""
        return sum(item.is_visible() for item in self.page.query_selector_all(selector))


class Look:
    """Opens pages; what a phone or a dark screen shows differs."""

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
