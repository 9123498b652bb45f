"""Image classification by texts: the logits of transformers' pipeline, heads that start from them, and prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from pydantic import ValidationError
from torch.nn import functional as F

import regraft
from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.delta import delta_tensors
from regraft.bases.load import quiet
from regraft.bases.locate import Base, locate
from regraft.contracts import Context, Method, Task
from regraft.errors import RegraftError, RequestError, SpecError, Unsupported
from regraft.serving.export import export
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.tasks.zero_shot_image_classification import ZeroShotImageClassification
from regraft.training.session import train_local
from support.image_bases import COLOURS, coloured, tiny_resnet
from support.image_text import tiny_clip, tiny_siglip

TASK = ZeroShotImageClassification()
TINY: dict[str, Callable[[Path], Path]] = {"clip": tiny_clip, "siglip": tiny_siglip}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    return {name: locate(str(make(tmp_path_factory.mktemp(name)))) for name, make in TINY.items()}


def adapted(base: Base, task: ZeroShotImageClassification = TASK, method: str = "feature-extraction") -> Adapted:
    how = Method.parse(method)
    assert isinstance(how, Method)
    return adapt(base, Adaptation(task=task, method=how, labels=COLOURS, seed=3))


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 36, 3), dtype=np.uint8))


def answered(made: Adapted, folder: Path, numbers: range) -> tuple[Any, torch.Tensor]:
    """Return the answers and the logits for some pictures."""
    rows = []
    for number in numbers:
        picture(number).save(folder / f"{number}.png")
        rows.append({"row": number, "image": str(folder / f"{number}.png")})
    batch = made.task.collate([made.task.encode(row, made.context, train=False) for row in rows], made.context)
    with torch.no_grad():
        output = made.forward(batch)
    return made.task.answers(output, batch, made.context), output.logits


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("template", ["This is a photo of {}.", "a bad picture of the colour {} ."])
def test_logits_and_scores_are_those_of_the_pipeline(
    name: str, template: str, bases: dict[str, Base], tmp_path: Path
) -> None:
    made = adapted(bases[name], ZeroShotImageClassification(templates=(template,)))
    answers, logits = answered(made, tmp_path, range(3))
    with quiet():
        ask = hf.pipeline("zero-shot-image-classification", str(bases[name].path))
    for number, answer in enumerate(answers):
        wanted = ask(picture(number), candidate_labels=list(COLOURS), hypothesis_template=template)
        found = {item["label"]: item["score"] for item in answer["scores"]}
        assert found == pytest.approx({item["label"]: item["score"] for item in wanted}, abs=1e-5)
        inputs = ask.preprocess(picture(number), list(COLOURS), hypothesis_template=template)
        with torch.no_grad():
            theirs = ask._forward(dict(inputs))["logits"][0]
        assert torch.allclose(logits[number], theirs, rtol=1e-4, atol=1e-4)
    sums = [sum(item["score"] for item in answer["scores"]) for answer in answers]
    assert (name == "clip") == all(total == pytest.approx(1) for total in sums), "SigLIP's sigmoids sum to anything"


@pytest.mark.parametrize("name", TINY)
def test_several_prompts_are_averaged_on_the_sphere(name: str, bases: dict[str, Base]) -> None:
    templates = ("This is a photo of {}.", "a bad picture of {}")
    both = adapted(bases[name], ZeroShotImageClassification(templates=templates)).linear_head()
    single = [adapted(bases[name], ZeroShotImageClassification(templates=(one,))).linear_head() for one in templates]
    mean = sum(F.normalize(head.weight, dim=1) for head in single) / 2
    assert torch.allclose(F.normalize(both.weight, dim=1), F.normalize(mean, dim=1), atol=1e-6)
    assert torch.allclose(both.weight.norm(dim=1), single[0].weight.norm(dim=1), rtol=1e-5)


def test_the_text_of_a_label_stands_in_its_prompts(bases: dict[str, Base]) -> None:
    task = ZeroShotImageClassification(texts={"red": "dark red"})
    assert task.prompts("red") == ["This is a photo of dark red."]
    assert task.prompts("blue") == ["This is a photo of blue."]
    weights = [adapted(bases["clip"], one).linear_head().weight for one in (TASK, task)]
    changed = (weights[0] != weights[1]).any(dim=1).tolist()
    assert changed == [label == "red" for label in COLOURS]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"templates": ["a photo"]}, r"'a photo' is written, which has no place for the label: write \{\} where"),
        ({"templates": ["a {}", "a {label}"]}, r"'a \{label\}' is written, which has no place"),
        ({"templates": []}, "at least 1 item"),
        ({"texts": {"red": " "}}, "gives 'red' no text"),
    ],
)
def test_prompts_without_the_word_for_the_label_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ZeroShotImageClassification(**fields)


def test_a_spec_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    written = {"name": "n", "base": "b", "method": "full", "data": {"train": "x"}}
    with pytest.raises(SpecError, match="no place for the label"):
        RunSpec.resolve({**written, "task": {"type": TASK.key(), "templates": ["a photo"]}})
    texts = {**written, "method": {"type": "prototypes", "of": "prompts"}}
    with pytest.raises(SpecError, match="does not start from prompts"):
        RunSpec.resolve({**texts, "task": "image-classification"})
    assert RunSpec.resolve({**texts, "task": TASK.key()}).method.key() == "prototypes"


def test_what_does_not_fit_the_base_is_refused_in_words(bases: dict[str, Base], tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="texts names 'rde', and the labels of the rows are blue, green, red"):
        adapted(bases["clip"], ZeroShotImageClassification(texts={"rde": "red"}))
    with pytest.raises(Unsupported, match="has 66 tokens, and the base reads 64"):
        adapted(bases["clip"], ZeroShotImageClassification(templates=("a " * 63 + "{}",)))
    with pytest.raises(RegraftError, match="AutoModelForZeroShotImageClassification"):
        adapted(locate(str(tiny_resnet(tmp_path / "resnet"))))


@pytest.mark.parametrize("key", ["image-classification", "image-regression", "image-embeddings"])
@pytest.mark.parametrize("name", TINY)
def test_tasks_of_images_alone_refuse_a_base_of_two_towers(key: str, name: str, bases: dict[str, Base]) -> None:
    task, how = Task.parse(key), Method.parse("full")
    assert isinstance(task, Task) and isinstance(how, Method)
    with pytest.raises(RegraftError) as refused:
        adapt(bases[name], Adaptation(task=task, method=how, labels=COLOURS, seed=3))
    assert len(refused.value.message) > 20


@pytest.mark.parametrize("name", TINY)
def test_a_head_that_is_trained_moves_alone_and_the_texts_are_no_part_of_the_delta(
    name: str, bases: dict[str, Base]
) -> None:
    head = delta_tensors(adapted(bases[name]))
    assert set(head) == {"classifier.weight", "classifier.bias"}
    everything = delta_tensors(adapted(bases[name], method="full"))
    assert any(key.startswith("vision_model.") for key in everything)
    assert not any(key.startswith(("text_model.", "text_projection", "logit_")) for key in everything)


def test_sigmoids_have_the_loss_of_every_pair_and_softmax_that_of_torch(bases: dict[str, Base]) -> None:
    logits, labels = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]]), torch.tensor([0, 2])
    output, batch = hf.utils.ModelOutput(logits=logits), {"labels": labels}
    losses = {}
    for name in TINY:
        total, weight = TASK.loss(output, batch, adapted(bases[name]).context)
        losses[name] = (total / weight).item()
    assert losses["clip"] == pytest.approx(F.cross_entropy(logits, labels).item())
    signs = F.one_hot(labels, 3) * 2 - 1
    assert losses["siglip"] == pytest.approx(-F.logsigmoid(signs * logits).sum(1).mean().item(), rel=1e-5)


def test_recall_at_k_counts_the_likeliest_labels(bases: dict[str, Base]) -> None:
    task = ZeroShotImageClassification(k=2)
    context = Context(None, COLOURS, adapted(bases["clip"]).context.config)
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    batch = {"labels": torch.tensor([0, 1, 2, 2])}
    found = task.metrics(task.records(hf.utils.ModelOutput(logits=logits), batch, context), context)
    assert found["accuracy"] == 0.5 and found["recall_at_2"] == 0.75


def test_candidates_of_a_request_are_labels_of_the_model() -> None:
    form = TASK.api_form()
    scores = [{"label": label, "score": score} for label, score in (("red", 0.5), ("blue", 0.3), ("green", 0.2))]
    found = form.render({"scores": scores}, {"candidate_labels": ["blue", "green"]})
    assert {item["label"]: item["score"] for item in found} == pytest.approx({"blue": 0.6, "green": 0.4})
    assert form.render({"scores": scores}, {}) == scores
    with pytest.raises(RequestError, match="names 'cat'; this model has the labels blue, green, red"):
        form.render({"scores": scores}, {"candidate_labels": ["cat", "blue"]})
    sigmoids = [{**item, "score": item["score"] / 2} for item in scores]
    assert form.render({"scores": sigmoids}, {"candidate_labels": ["red"]}) == sigmoids[:1]


def document(folder: Path, base: Callable[[Path], Path], **more: Any) -> dict[str, Any]:
    return {
        "name": "seer",
        "base": str(base(folder / "base")),
        "task": TASK.key(),
        "method": "feature-extraction",
        "data": {side: str(coloured(folder / side, each=6, seed=len(side))) for side in ("train", "eval")},
        "training": {"steps": 30, "batch_size": 6, "lr": 0.1, "baselines": False, "eval_steps": 30},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(folder / "store"),
        **more,
    }


@pytest.mark.parametrize("name", ["clip", pytest.param("siglip", marks=pytest.mark.slow)])
def test_prototypes_of_texts_are_zero_shot_and_a_few_steps_lead_on_from_them(name: str, tmp_path: Path) -> None:
    written = document(tmp_path, TINY[name])
    zero = train_local(RunSpec.resolve({**written, "name": "zero", "method": {"type": "prototypes", "of": "prompts"}}))
    assert set(zero.metrics) == {"accuracy", "f1", "balanced_accuracy", "loss", "recall_at_5"}
    path = tmp_path / "eval/red/000.png"
    with quiet():
        ask = hf.pipeline("zero-shot-image-classification", written["base"])
    wanted = {item["label"]: item["score"] for item in ask(str(path), candidate_labels=list(COLOURS))}
    (answer,) = regraft.load("zero", store=zero.store).predict([str(path)])
    assert {item["label"]: item["score"] for item in answer["scores"]} == pytest.approx(wanted, abs=1e-5)
    no_rate = {**written["training"], "steps": 1, "lr": 1e-12}
    start = train_local(RunSpec.resolve({**written, "name": "start", "training": no_rate}))
    assert start.metrics["loss"] == pytest.approx(zero.metrics["loss"], rel=1e-5), "step 0 is zero-shot"
    few = train_local(RunSpec.resolve(written))
    assert few.metrics["loss"] < zero.metrics["loss"]
    assert few.metrics["accuracy"] >= max(0.9, zero.metrics["accuracy"])


def test_an_export_has_both_towers_and_the_head_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = train_local(RunSpec.resolve(document(tmp_path, tiny_clip)))
    exported = export(outcome.store, "seer@latest", tmp_path / "out")
    assert exported.kind == "transformers"
    with quiet():
        there = hf.AutoModelForZeroShotImageClassification.from_pretrained(tmp_path / "out").eval()
        made = hf.AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    code = re.split(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), maxsplit=1, flags=re.S)[1]
    path = tmp_path / "eval/red/000.png"
    code = code.replace('Image.new("RGB", (640, 480))', f"Image.open({str(path)!r}).convert('RGB')")
    printed: list[Any] = []
    monkeypatch.chdir(tmp_path / "out")
    with quiet():
        exec(compile(code, "README.md", "exec"), {"print": printed.append})
    (answer,) = regraft.load("seer", store=outcome.store).predict([str(path)])
    assert printed[0] == pytest.approx({item["label"]: item["score"] for item in answer["scores"]}, abs=1e-5)
    assert there.config.model_type == "clip" and made is not None
    assert json.loads((tmp_path / "out/head.json").read_text())["input"] == "image_embeds"


def test_a_frozen_tower_is_computed_once_a_row_and_found_by_the_next_run(tmp_path: Path) -> None:
    written = document(tmp_path, tiny_clip)
    stored = {**written, "compute": {"workers": 0, "cpus": 1, "trunk": "disk"}}
    computed = []
    for number, name in enumerate(("one", "two")):
        notes: list[str] = []
        seen: list[Any] = []

        def progress(event: Any, notes: list[str] = notes, seen: list[Any] = seen) -> None:
            notes.append(getattr(event, "message", ""))
            if type(event).__name__ == "TrunkProgress":
                seen.append(event.total)

        texts = {"templates": ["a bad picture of {}"]} if number else {}
        spec = RunSpec.resolve({**stored, "name": name, "task": {"type": TASK.key(), **texts}})
        train_local(spec, progress=progress)
        computed.append(seen[-1] if seen else 0)
        assert any("computed once a row" in note for note in notes)
        assert Runs(open_store(spec.store)).read(spec.run, "metrics.jsonl")
    assert computed == [36, 0], "other prompts change the head alone"
