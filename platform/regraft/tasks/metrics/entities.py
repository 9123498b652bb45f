"""Predicted entities against true ones: scores, by type and by strictness of matching, and a confusion matrix.

An entity is a sequence of words with a type; tags are IOB2. Matching follows nervaluate, whose four schemes are those
of SemEval-2013 task 9.1 (Segura-Bedmar et al., 2013).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nervaluate import Evaluator
from nervaluate.loaders import ListLoader
from nervaluate.strategies import StrictEvaluation

from regraft.contracts.findings import Findings, Matrix, Table

OUTSIDE = "O"
_NOTHING = "no entity"
_SCHEMES = {
    "strict": "type and both ends",
    "exact": "both ends, any type",
    "ent_type": "the type, with any overlap",
    "partial": "any overlap, which counts half where an end is wrong",
}

Tags = list[str]


def entities(tags: Tags) -> list[Any]:
    """Return nervaluate's entities (label, first and last word); an I- that continues nothing begins one, as in
    conlleval."""
    found: list[Any] = ListLoader().load([tags])[0]
    return found


def counts(true: Tags, predicted: Tags) -> tuple[int, int, int]:
    """Return one row's numbers of correct (type and both ends exact), predicted and true entities."""
    found, _ = StrictEvaluation().evaluate(entities(true), entities(predicted), [])
    return found.correct, found.actual, found.possible


def scores(rows: Sequence[tuple[int, int, int]]) -> dict[str, float]:
    """Return micro-averaged precision, recall and F1 from the `counts` of rows."""
    correct, predicted, true = (sum(row[place] for row in rows) for place in range(3))
    return {
        "precision": correct / predicted if predicted else 0.0,
        "recall": correct / true if true else 0.0,
        "f1": 2 * correct / (predicted + true) if predicted + true else 0.0,
    }


def findings(pairs: Sequence[tuple[Tags, Tags]], labels: Sequence[str]) -> Findings:
    """Return the findings of the (true, predicted) tags of all rows; `labels` are the model's tags."""
    kinds = tuple(sorted({label[2:] for label in labels if label != OUTSIDE}))
    true, predicted = [list(pair[0]) for pair in pairs], [list(pair[1]) for pair in pairs]
    measured = Evaluator(true, predicted, tags=list(kinds), loader="list").evaluate()
    return Findings(
        tables=(_by_type(measured["entities"], kinds), _by_scheme(measured["overall"])),
        matrices=(_confusion(pairs, kinds),),
    )


def _by_type(measured: Mapping[str, Mapping[str, Any]], kinds: Sequence[str]) -> Table:
    rows: list[tuple[str | int | float | None, ...]] = []
    for kind in kinds:
        found = measured[kind]["strict"] if kind in measured else None
        support, predicted = (found.possible, found.actual) if found else (0, 0)
        rows.append(
            (
                kind,
                found.precision if found and predicted else None,
                found.recall if found and support else None,
                found.f1 if found and support else None,
                support,
                predicted,
            )
        )
    return Table(
        "By entity type",
        ("type", "precision", "recall", "f1", "support", "predicted"),
        tuple(rows),
        "An entity is found where its type and both ends are right; support is the number of true entities.",
    )


def _by_scheme(measured: Mapping[str, Any]) -> Table:
    rows = tuple(
        (description, measured[scheme].precision, measured[scheme].recall, measured[scheme].f1)
        for scheme, description in _SCHEMES.items()
    )
    return Table(
        "Ends and types",
        ("what must be right", "precision", "recall", "f1"),
        rows,
        "The gain from the first line to the second is lost to wrong types, that to the third to wrong ends.",
    )


def _confusion(pairs: Sequence[tuple[Tags, Tags]], kinds: Sequence[str]) -> Matrix:
    """Return counts of each true entity with the predicted one that overlaps it most, and of predictions without
    one."""
    seen: Counter[tuple[str, str]] = Counter()
    for true_tags, predicted_tags in pairs:
        true, predicted = entities(true_tags), entities(predicted_tags)
        for entity in true:
            rival = max(predicted, key=lambda other: _shared(entity, other), default=None)
            met = rival is not None and _shared(entity, rival) > 0
            seen[entity.label, rival.label if met and rival is not None else _NOTHING] += 1
        for guess in predicted:
            if not any(_shared(guess, entity) > 0 for entity in true):
                seen[_NOTHING, guess.label] += 1
    names = (*kinds, _NOTHING)
    return Matrix(
        "What entities were taken for",
        names,
        names,
        tuple(tuple(seen[truth, answer] for answer in names) for truth in names),
        "A true entity is compared with the predicted one that shares the most words with it, even if its ends differ.",
    )


def _shared(one: Any, other: Any) -> int:
    """Return the number of words in both entities."""
    return int(min(one.end, other.end) - max(one.start, other.start)) + 1
