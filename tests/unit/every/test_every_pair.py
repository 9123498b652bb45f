"""Every task with every method on every family that fits: adapted, trained, saved, loaded, queried and exported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load, save
from torch import Tensor

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted, model_inputs
from regraft.bases.delta import apply_delta, delta_tensors
from regraft.bases.load import quiet
from regraft.bases.locate import Base, processor_files
from regraft.contracts import Batch, Method, Task
from regraft.errors import Unsupported
from regraft.media.pixels.depth_maps import same_depths
from regraft.serving.export import export
from regraft.serving.export_usage import HEAD
from regraft.serving.predictor import Predictor
from regraft.store.card import model_card
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from support.paths import ROOT
from support.support_page import PAGE, page
from unit.bases.families import FAMILIES, REFUSED, shake, step
from unit.bases.test_block_discovery import OTHERS
from unit.every.rows import NOTHING_NEW, base_of, family_of, fits, labels_of, rows_of, task_of
from unit.every.test_patch_methods import WITHOUT_PLACES, patch_cases

LIBRARIES = {"embeddings": "sentence-transformers"}
"""Tasks whose exported folder is another library's as well."""
BARE = ("full", "lora")
"""Methods by which a task on the base itself, without a head, is tried on every family."""
METHODS: dict[str, Any] = {
    key: {"type": key} | ({"depth": 1} if "depth" in Method.lookup(key).model_fields else {})
    for key in Method.names()
    if not Method.lookup(key).closed_form and not Method.lookup(key).trains_features
}
"""Methods by their key: those that solve a head need one, and move the base as another method does."""
QUICK = {(key, family_of(key)) for key in Task.names()}
"""A family for each task in every run of the tests; the others are many, and slow for that alone."""
OUTPUTS = ("logits", "predicted_depth", "pred_boxes", "embeddings", "start_logits", "end_logits")
"""What models return that answers are made of."""
ENCODERS = {
    "AutoModelForCausalLM": {"bart", "bert", "bert-pooled", "marian", "roberta", "xlm-roberta"},
    "AutoModelForMaskedLM": {"bart"},
}
"""Families whose model of the Auto class exists and is not meant for it: encoders that see what they are to
foretell, and encoder-decoders that were pretrained otherwise."""


@dataclass
class Case:
    task: Task
    method: Method
    base: Base
    adapted: Adapted
    batch: Batch


def config_of(family: str) -> Any:
    return FAMILIES[family].make().config


def combinations() -> Iterator[Any]:
    configs = {family: config_of(family) for family in FAMILIES}
    for key in (key for key in Task.names() if Task.lookup(key).takes_steps):
        for family, config in configs.items():
            if fits(key, family, config):
                for name in METHODS:
                    marks = () if (key, family) in QUICK else pytest.mark.slow
                    if Method.lookup(name).has_phases():  # their models are those of full or of freeze
                        marks = pytest.mark.slow if (key, family) in QUICK else pytest.mark.long
                    elif (key, family) not in QUICK and Task.lookup(key).auto == "AutoModel" and name not in BARE:
                        marks = pytest.mark.long  # other tasks move the same base by every method
                    yield pytest.param(key, family, name, id=f"{key}-{family}-{name}", marks=marks)


every = pytest.mark.parametrize(("key", "family", "name"), list(combinations()))
SERVED_QUICK = {"full", "lora"}
"""Methods that are saved, served and exported in every run: one whose delta is the model, one whose delta is added."""
served = pytest.mark.parametrize(
    ("key", "family", "name"),
    [
        case if case.values[2] in SERVED_QUICK or case.marks else pytest.param(*case.values, marks=pytest.mark.slow)
        for case in combinations()
    ],
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Base]:
    made: dict[str, Base] = {}

    def base(family: str) -> Base:
        if family not in made:
            made[family] = base_of(family, tmp_path_factory.mktemp(family))
        return made[family]

    return base


def refused(key: str, family: str, name: str) -> bool:
    """Return whether the combination is refused; a method that trains a head alone is where there is no new layer."""
    method: Any = Method.parse(METHODS[name])
    auto = Task.lookup(key).auto
    alone = (method.serves == "head" or name == "lp-ft") and auto in NOTHING_NEW
    return alone or family in ENCODERS.get(auto, ()) or family in REFUSED.get(name, ())


def fitted(key: str, family: str, name: str, base: Base) -> Case:
    """Return an adapted model with a batch of three rows; combinations that do not fit are refused with a message."""
    task, method = task_of(key), Method.parse(METHODS.get(name, name))
    assert isinstance(method, Method)
    try:
        adapted = adapt(base, Adaptation(task=task, method=method, labels=labels_of(task), seed=5))
    except Unsupported as refusal:
        assert len(str(refusal)) > 20
        if refused(key, family, name) and refusal.where in ("base", "method"):
            pytest.skip(f"refused, as it should be: {refusal}")
        raise
    assert family not in ENCODERS.get(task.auto, ()) and family not in REFUSED.get(name, ())
    batch = collated(adapted, targets=True)
    return Case(task, method, base, adapted, batch)


def collated(adapted: Adapted, *, targets: bool) -> Batch:
    task = adapted.task
    rows: Any = rows_of(task)
    if task.packs and targets:
        rows = [{"row": 0, **row} for row in task.pack(rows, adapted.context.processor)]
    elif not targets:
        rows = [{name: value for name, value in row.items() if name not in task.target_columns()} for row in rows]
    return task.collate([task.encode(row, adapted.context, train=False) for row in rows], adapted.context)


def answers(adapted: Adapted, batch: Batch) -> list[Tensor]:
    adapted.eval_mode()
    with torch.no_grad():
        output = adapted.forward(batch)
    return [value for name in OUTPUTS if (value := getattr(output, name, None)) is not None]


@every
def test_a_step_moves_what_the_delta_holds_and_loads_to_the_same_answers(
    bases: Callable[[str], Base], key: str, family: str, name: str
) -> None:
    case = fitted(key, family, name, bases(family))
    shake(case.adapted.model)
    before = {n: tensor.detach().clone() for n, tensor in case.adapted.model.state_dict().items()}
    step(case.adapted, case.batch)
    moved = {n for n, tensor in case.adapted.model.state_dict().items() if not torch.equal(tensor, before[n])}
    held = {id(tensor) for tensor in delta_tensors(case.adapted).values()}
    names = {n for n, tensor in case.adapted.model.state_dict(keep_vars=True).items() if id(tensor) in held}
    assert moved and moved <= names, f"moved and not in the delta: {sorted(moved - names)[:5]}"
    again = adapt(case.base, Adaptation(task=case.task, method=case.method, labels=labels_of(case.task), seed=5))
    apply_delta(again, load(save(copied(case.adapted))))
    for one, two in zip(answers(case.adapted, case.batch), answers(again, case.batch), strict=True):
        assert torch.equal(one, two)


def copied(adapted: Adapted) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in delta_tensors(adapted).items()}


@served
def test_a_version_answers_alone_as_in_a_batch_and_exports_to_the_same_outputs(
    bases: Callable[[str], Base], key: str, family: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    case = fitted(key, family, name, bases(family))
    shake(case.adapted.model)
    publish(tmp_path / "store", case)
    model = Predictor.open(str(tmp_path / "store"), "tiny", device="cpu")
    wanted = model.adapted.task.target_columns()
    rows = [{n: v for n, v in row.items() if n not in wanted and n != "row"} for row in rows_of(case.task)]
    together = model.predict(rows)
    json.dumps(together)
    for row, answer in zip(rows, together, strict=True):
        (alone,) = model.predict([row])
        assert_alike(alone, answer)
    exported = export(str(tmp_path / "store"), "tiny", tmp_path / "out")
    assert exported.kind == LIBRARIES.get(key, "transformers")
    with quiet():
        found = getattr(transformers, case.task.auto).from_pretrained(exported.folder)
    if case.task.auto == "AutoModel" or (exported.folder / HEAD).exists():
        return  # states are pooled, or a head lies, outside the exported base, which the tasks' own tests compare
    batch = collated(case.adapted, targets=False)
    with torch.no_grad():
        output = found.eval()(**model_inputs(batch))
    mine = answers(case.adapted, batch)
    for one, two in zip(mine, [getattr(output, n) for n in OUTPUTS if hasattr(output, n)], strict=True):
        assert torch.allclose(one.to(two.dtype), two, rtol=1e-4, atol=1e-5)


def assert_alike(one: Any, two: Any) -> None:
    """Assert that values are equal up to rounding of numbers."""
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_alike(one[key], two[key])
    elif isinstance(one, list):
        assert len(one) == len(two)
        for left, right in zip(one, two, strict=True):
            assert_alike(left, right)
    elif isinstance(one, float):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-4)
    else:
        assert one == two or same_depths(one, two)


def publish(store: Path, case: Case) -> None:
    """Return a version of the case's model, as training registers it."""
    task, method = case.task.model_dump(mode="json"), case.method.model_dump(mode="json")
    score = case.task.score
    meta: dict[str, Any] = {
        "name": "tiny",
        "task": task,
        "method": method,
        "labels": list(labels_of(case.task)),
        "dropout": None,
        "base": {
            "reference": case.base.reference,
            "hash": case.base.hash,
            "processor_hash": case.base.processor_hash,
        },
        "metrics": {score.name: 0.5},
        "baselines": {},
        "score": {"name": score.name, "mode": score.mode},
        "seed": 5,
        "lineage": {"run": "r", "checkpoint": "c", "data": {"fingerprint": "f", "rows": {}}, "parent": None},
        "versions": {"regraft": "0.1.0"},
    }
    files: dict[str, Any] = {
        "delta.safetensors": save(copied(case.adapted)),
        "spec.yaml": b"data: {train: rows.csv, eval: 0.1}\n",
        "card.md": model_card(meta, {}).encode(),
        **{f"processor/{path.name}": path for path in processor_files(case.base)},
    }
    Registry(open_store(str(store))).publish("tiny", files, meta)


def test_every_task_has_a_family_in_every_run() -> None:
    assert {key for key, family in QUICK if fits(key, family, config_of(family))} == set(Task.names())


def support_page() -> str:
    """Return the page of what is tested with what, made of these combinations."""
    configs = {name: make().config for name, make in OTHERS.items()}
    own = {family: config_of(family) for family in FAMILIES}
    patches = [case.values for case in patch_cases()]

    def families_of(key: str) -> list[str]:
        return [family for family, config in own.items() if fits(key, family, config)]

    def is_refused(key: str, family: str, method: str) -> bool:
        return family in WITHOUT_PLACES if (key, family, method) in patches else refused(key, family, method)

    return page([*(case.values for case in every.args[1]), *patches], families_of, is_refused, configs)


def test_the_page_of_what_is_tested_is_made_of_these_combinations() -> None:
    again = "run python tests/support/support_page.py"
    assert PAGE.read_text(encoding="utf-8") == support_page(), again
    assert PAGE.name in (ROOT / "README.md").read_text(encoding="utf-8")
