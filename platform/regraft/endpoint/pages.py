"""The two pages of the endpoint, each one self-contained file; a content security policy forbids all else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Page:
    """An HTML page and its headers."""

    text: str
    headers: Mapping[str, str]


def _page(name: str) -> Page:
    text = (_ASSETS / name).read_text(encoding="utf-8")
    scripts = " ".join(_hash(found) for found in re.findall(r"<script>(.*?)</script>", text, re.DOTALL))
    styles = " ".join(_hash(found) for found in re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' data: blob:; media-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(
        text,
        {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        },
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


PAGE = _page("page.html")
DOCS = _page("docs.html")
