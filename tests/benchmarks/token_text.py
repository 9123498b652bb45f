"""F1 of entities asked with plain texts beside the same sentences as words, in five styles of punctuation.

python tests/benchmarks/token_text.py --epochs 1 --part dev --part test

Trains MiniLM on WNUT17 (specs/wnut17-full.yaml), or takes the model of `--store` where it holds one. How texts are cut
into words is learned from the training rows; what is mended is mended by `dev`, and `test` is judged once.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import record
import trained
from text_styles import STYLES, Written

import regraft
from regraft.data.sources.conll import Conll
from regraft.serving.predictor import Predictor
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.tasks.inputs.word_cut import WordRule
from regraft.tasks.metrics.entities import entities, scores
from regraft.tasks.token_classification import TokenClassification, words_in_text
from regraft.training.session import train_local

MODEL = "wnut17-full"
FILES = {"dev": "emerging.dev.conll", "test": "emerging.test.annotated"}
LEAST = -0.01
"""The lowest allowed difference of F1, text less words."""

Entity = tuple[int, int, str]


def main() -> int:
    """Train, measure each style of each part, and record; return 1 if a text loses more than a point."""
    options = arguments()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory(prefix="regraft-benchmark-") as scratch:
        store = options.store or scratch
        if not known(store):
            settings = {"training.epochs": options.epochs, "compute.cpus": 1, "training.baselines": False}
            train_local(trained.resolved(MODEL, settings, store), progress=trained.show)
        model = regraft.load(MODEL, store=store)
    parts = {part: measured(model, rows(FILES[part])[:: options.every]) for part in options.part}
    worst = {part: min(style["difference"] for style in styles.values()) for part, styles in parts.items()}
    task = model.adapted.task
    assert isinstance(task, TokenClassification) and task.words is not None
    figures = {
        "goal": {"difference": LEAST},
        "reached": all(difference >= LEAST for difference in worst.values()),
        "epochs": options.epochs,
        "every": options.every,
        "worst": worst,
        "words": task.words.model_dump(),
        "parts": parts,
    }
    record.write("token_text", figures, options.results)
    print(f"lowest difference of F1: {worst}, goal {LEAST}, reached: {figures['reached']}")
    return 0 if figures["reached"] else 1


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--part", action="append", choices=tuple(FILES), help="rows to measure (default: dev)")
    parser.add_argument("--every", type=int, default=1, help="measure every so many sentences (default: all)")
    parser.add_argument("--store", help="store that keeps the model; default: none is kept")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the JSON files")
    options = parser.parse_args()
    options.part = options.part or ["dev"]
    return options


def known(store: str) -> bool:
    """Return whether a store holds the model."""
    return Path(store, "regraft.json").exists() and MODEL in Registry(open_store(store)).models()


def rows(file: str) -> list[tuple[list[str], list[str]]]:
    """Return the words and tags of each sentence."""
    read = Conll().read(trained.SHARED / "data" / "wnut17" / file)
    return [(raw.values["tokens"], raw.values["tags"]) for raw in read if raw.values]


def measured(model: Predictor, sentences: Sequence[tuple[list[str], list[str]]]) -> dict[str, dict[str, Any]]:
    """Return F1 as words and as plain text, by style."""
    rule = model.adapted.task.words or WordRule()  # type: ignore[attr-defined]
    found = {}
    asked: dict[str, list[Any]] = {}
    for name, style in STYLES.items():
        written = [style(words, tags) for words, tags in sentences]
        words = answers(model, [list(item.words) for item in written], asked)
        texts = answers(model, [item.text for item in written], asked)
        as_words = f1(words, [expected(item, text=False) for item in written])
        as_text = f1(texts, [expected(item, text=True) for item in written])
        kept, total = ends_kept(rule, written)
        found[name] = {
            "f1_words": round(as_words, 4),
            "f1_text": round(as_text, 4),
            "difference": round(as_text - as_words, 4),
            "entities_whose_ends_are_ends_of_words": round(kept / total, 4),
        }
        print(name, found[name], flush=True)
    return found


def expected(written: Written, *, text: bool) -> set[Entity]:
    """Return the true entities by characters of the text, or of the words joined by blanks."""
    places = written.places if text else words_in_text(written.words)[1]
    return {(places[item.start][0], places[item.end][1], item.label) for item in entities(list(written.tags))}


def answers(model: Predictor, inputs: Sequence[Any], asked: dict[str, list[Any]]) -> list[list[Any]]:
    """Return the entities of texts, or of lists of words; what was asked before is not asked again."""
    new = {repr(tokens): tokens for tokens in inputs if repr(tokens) not in asked}
    for key, answer in zip(new, model.predict([{"tokens": tokens} for tokens in new.values()]), strict=True):
        asked[key] = answer["entities"]
    return [asked[repr(tokens)] for tokens in inputs]


def f1(answered: Sequence[list[Any]], truths: Sequence[set[Entity]]) -> float:
    """Return F1 over all entities."""
    counted = []
    for truth, entities_found in zip(truths, answered, strict=True):
        found = {(item["start"], item["end"], item["entity_group"]) for item in entities_found}
        counted.append((len(truth & found), len(found), len(truth)))
    return scores(counted)["f1"]


def ends_kept(rule: WordRule, written: Sequence[Written]) -> tuple[int, int]:
    """Return of how many entities both ends are ends of words that the text is cut into, and the number of all."""
    kept, total = 0, 0
    for item in written:
        spans = rule.spans(item.text)
        starts, ends = {start for start, _ in spans}, {end for _, end in spans}
        for start, end, _ in expected(item, text=True):
            kept += start in starts and end in ends
            total += 1
    return kept, total


if __name__ == "__main__":
    sys.exit(main())
