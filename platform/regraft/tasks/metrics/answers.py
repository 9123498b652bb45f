"""Answers against true ones, by the rules of SQuAD's own script (Rajpurkar et al., 2016 and 2018)."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from regraft.contracts import Record
from regraft.contracts.findings import Curve, Findings, Table

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_QUESTION_WORDS = ("what", "which", "who", "whose", "when", "where", "why", "how")
_MOST_POINTS = 100


def normalised(text: str) -> str:
    """Return a text in small letters, without punctuation, English articles and more than one blank."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, truths: Sequence[str]) -> float:
    """Return 1 where an answer is one of the true ones once both are normalised; no answer is an empty text."""
    return float(normalised(answer) in {normalised(truth) for truth in _or_none(truths)})


def overlap_f1(answer: str, truths: Sequence[str]) -> float:
    """Return the F1 of an answer's words, beside the true answer that it shares most with."""
    return max(_f1(normalised(answer).split(), normalised(truth).split()) for truth in _or_none(truths))


def first_word(question: str) -> str:
    """Return the word that a question asks with, or `other`."""
    words = normalised(question).split()
    return next((word for word in words if word in _QUESTION_WORDS), "other")


def answer_findings(records: Sequence[Record]) -> Findings:
    """Return scores by whether there is an answer, by question word and by windows; F1 over thresholds."""
    asked = Table(
        "By question",
        ("question", "rows", "exact match", "F1"),
        _groups(records, lambda record: "has an answer" if record["answerable"] else "has none"),
        "F1 compares words, by SQuAD's rules. A question without an answer counts 1 where none is given.",
    )
    words = Table("By question word", ("word", "rows", "exact match", "F1"), _groups(records, lambda one: one["word"]))
    windows = Table(
        "By length of the text",
        ("windows", "rows", "exact match", "F1"),
        _groups(records, lambda record: str(record["windows"]) if record["windows"] < 3 else "3 and more"),
    )
    return Findings((asked, words, windows), curves=_by_threshold(records))


def _or_none(truths: Sequence[str]) -> Sequence[str]:
    # As in SQuAD's script: a truth of articles and punctuation alone would be equal to no answer.
    return [truth for truth in truths if normalised(truth)] or [""]


def _f1(answer: Sequence[str], truth: Sequence[str]) -> float:
    if not answer or not truth:
        return float(answer == truth)
    shared = sum((Counter(answer) & Counter(truth)).values())
    return 2 * shared / (len(answer) + len(truth))


def _groups(
    records: Sequence[Record], group: Callable[[Record], str]
) -> tuple[tuple[str | int | float | None, ...], ...]:
    """Return a line for each group: rows, and the means of exact match and F1."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(group(record), []).append(record)
    return tuple(
        (
            name,
            len(rows),
            sum(row["correct"] for row in rows) / len(rows),
            sum(row["f1"] for row in rows) / len(rows),
        )
        for name, rows in sorted(found.items())
    )


def _by_threshold(records: Sequence[Record]) -> tuple[Curve, ...]:
    """Return F1 by the threshold above which no answer is given, where any question has none."""
    if all(record["answerable"] for record in records):
        return ()
    # No odds are those of a text without a piece that could be an answer.
    ordered = sorted(records, key=_odds)
    odds = np.array([_odds(record) for record in ordered])
    given, none = (np.array([record[name] for record in ordered]) for name in ("f1_given", "f1_none"))
    chosen = np.unique(np.linspace(0, len(odds) - 1, min(len(odds), _MOST_POINTS)).astype(int))
    points = []
    for threshold in map(float, np.unique(odds[chosen])):
        if not math.isfinite(threshold):
            continue
        # A row at the threshold is answered, and so is each of the same odds.
        count = int(np.searchsorted(odds, threshold, "right"))
        points.append((threshold, float((given[:count].sum() + none[count:].sum()) / len(odds))))
    note = "A threshold chosen by these rows looks better on them than it is: judge it on others."
    return (Curve("F1 by null_threshold", "null_threshold", "F1", tuple(points), note=note),)


def _odds(record: Record) -> float:
    return math.inf if record["odds"] is None else float(record["odds"])
