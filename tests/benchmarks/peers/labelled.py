"""Texts and labels of a CSV file, read alike by all peers."""

from __future__ import annotations

import csv
from typing import Any


def rows(path: str) -> list[dict[str, Any]]:
    """One mapping a row: text, and label as a number."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{"text": row["text"], "label": int(row["label"])} for row in csv.DictReader(file)]
