"""Comparisons of versions with controls: one document and one page for each, under `comparisons/<name>/`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from regraft.errors import Damaged, NotFound
from regraft.store import documents
from regraft.store.objects import ObjectStore, checked
from regraft.store.registry import Version
from regraft.store.schemas import Count, Number, Stored, StoredScore, check_types
from regraft.units import counted

log = logging.getLogger(__name__)
COMPARISON = "comparison"
"""The entry of a version's metadata, where it was compared before it was registered."""

_ROWS_TEXTS = {
    "test": ("test row", "which chose nothing"),
    "eval": ("evaluation row", "which also chose the checkpoint: data.test gives rows that choose nothing"),
}


class StoredControl(Stored):
    """A control that a version is compared with."""

    name: str = ""
    value: Number | None = None
    difference: Number | None = None
    low: Number | None = None
    high: Number | None = None
    outcome: str = ""
    knows_base: bool = False
    run: str | None = None
    method: str | None = None
    steps: Count | None = None
    seconds: Number | None = None


class StoredComparison(Stored):
    """A version beside its controls."""

    score: StoredScore = StoredScore()
    value: Number | None = None
    rows: Count = 0
    side: str = ""
    """The side of the compared rows; empty where an earlier edition compared evaluation rows."""
    resamples: Count = 0
    controls: list[StoredControl] = Field(default_factory=list)
    left_out: list[dict[str, str]] = Field(default_factory=list)
    negative_transfer: bool | None = None
    warning: str = ""
    sentence: str = ""
    adaptation: str = ""


def comparison_key(version: str, suffix: str) -> str:
    """Return the key of the document (`json`) or the page (`html`) about `name@version`."""
    name, _, number = version.rpartition("@")
    return checked(f"comparisons/{name}/{number}.{suffix}")


def write_comparison(store: ObjectStore, version: str, document: Mapping[str, Any], page: str) -> str:
    """Write the document and the page of a comparison; return the page's address."""
    key = comparison_key(version, "html")
    store.put(key, page.encode())
    store.put(comparison_key(version, "json"), documents.encode(dict(document)))
    return f"{store.url}/{key}"


def read_comparison(version: Version) -> dict[str, Any] | None:
    """Return what is known of a version beside controls; None where nothing is.

    The document of its own is newer than the entry of the metadata, which never changes.
    """
    try:
        return documents.read(version.store, comparison_key(str(version), "json"), StoredComparison)
    except NotFound:
        pass
    except Damaged as error:
        log.warning("%s", error)
    found = version.meta.get(COMPARISON)
    if not found:
        return None
    check_types(found, StoredComparison, str(version))
    return dict(found)


def with_comparison(version: Version) -> dict[str, Any]:
    """Return a version's metadata with its newest comparison."""
    found = read_comparison(version)
    return {**version.meta, COMPARISON: found} if found else version.meta


def control_name(name: str) -> str:
    """Return the name of a control as words: `random weights`."""
    return name.replace("_", " ")


def comparison_texts(comparison: Mapping[str, Any] | None) -> list[str]:
    """Return the sentences of a comparison, a warning first; none without a comparison."""
    if not comparison:
        return []
    left_out = [
        f"Not compared with {control_name(str(one.get('name')))}: {one.get('why')}."
        for one in comparison.get("left_out") or ()
    ]
    texts = [str(comparison.get(key) or "") for key in ("warning", "sentence", "adaptation")]
    return [text for text in (*texts, _rows_text(comparison), *left_out) if text]


def _rows_text(comparison: Mapping[str, Any]) -> str:
    """Return on which rows models were compared, and whether these chose; empty where the document does not say."""
    if (side := comparison.get("side")) not in _ROWS_TEXTS or not comparison.get("controls"):
        return ""
    row, chose = _ROWS_TEXTS[side]
    return f"Compared on {counted(int(comparison.get('rows') or 0), row)}, {chose}."
