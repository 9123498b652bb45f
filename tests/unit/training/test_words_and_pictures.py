"""Token and image classification end to end: from files to a version that predicts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.spec.run import RunSpec
from regraft.training.session import train_local
from support.image_bases import COLOURS, coloured, tiny_resnet
from support.tiny import WORDS, tiny_bert

THINGS = {"lamp": "B-thing", "bulb": "B-thing", "cloud": "B-place", "app": "B-place"}


def sentences(path: Path, count: int, seed: int) -> Path:
    """CoNLL columns in which the word alone decides the tag, but for `red`, which begins the entity of what follows."""
    draw = random.Random(seed)
    with path.open("w") as file:
        for _ in range(count):
            words = draw.choices([*WORDS[16:26], *THINGS], k=draw.randint(2, 8))
            for word in words:
                tag = THINGS.get(word, "O")
                if tag != "O" and draw.random() < 0.3:
                    file.write(f"red {tag}\n{word} I-{tag[2:]}\n")
                else:
                    file.write(f"{word} {tag}\n")
            file.write("\n")
    return path


def document(folder: Path, base: Path, task: str, method: Any, **training: Any) -> dict[str, Any]:
    return {
        "name": "learner",
        "base": str(base),
        "task": task,
        "method": method,
        "training": {"epochs": 2, "batch_size": 8, "lr": 3e-3, **training},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(folder / "store"),
    }


def test_two_epochs_tag_words_and_the_version_says_where_entities_stand(tmp_path: Path) -> None:
    data = {
        side: str(sentences(tmp_path / f"{side}.conll", count, count)) for side, count in (("train", 240), ("eval", 30))
    }
    written = document(tmp_path, tiny_bert(tmp_path / "base"), "token-classification", "full")
    outcome = train_local(RunSpec.resolve({**written, "data": data}))
    assert outcome.metrics["f1"] > 0.5
    model = regraft.load("learner", store=outcome.store)
    assert model.labels == ("O", "B-place", "B-thing", "I-place", "I-thing")
    text = "please  lamp my cloud"
    asked = [text, text.split(), {"tokens": text.split()}, ["help", "me"]]
    found = model.predict([asked[0], {"tokens": asked[1]}, asked[2], {"tokens": asked[3]}])
    for entity in found[0]["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["word"]
    assert found[1] == found[2]
    assert [(e["entity_group"], e["word"]) for e in found[0]["entities"]] == [("thing", "lamp"), ("place", "cloud")]


@pytest.mark.parametrize("method", ["full", "lora", "prototypes"])
def test_pictures_in_folders_become_a_model_that_tells_them_apart(tmp_path: Path, method: str) -> None:
    data = {side: str(coloured(tmp_path / side, each=each, seed=each)) for side, each in (("train", 12), ("eval", 4))}
    base = tiny_resnet(tmp_path / "base")
    written = document(tmp_path, base, "image-classification", method, class_weights="balanced", label_smoothing=0.1)
    outcome = train_local(RunSpec.resolve({**written, "data": data}))
    assert set(outcome.metrics) == {"accuracy", "f1", "balanced_accuracy", "loss"}
    if method == "prototypes":
        assert outcome.metrics["accuracy"] > 0.9
    else:
        assert set(outcome.baselines) == {"majority", "nearest_centroid"}
        assert outcome.baselines["nearest_centroid"]["accuracy"] > 0.9
    model = regraft.load("learner", store=outcome.store)
    picture = tmp_path / "eval/red/000.png"
    answers = model.predict([str(picture), {"image": picture.read_bytes()}])
    assert answers[0] == answers[1] and sorted(item["label"] for item in answers[0]["scores"]) == list(COLOURS)


@pytest.mark.parametrize("covariance", ["none", "shared"])
def test_one_picture_a_class_is_a_model_and_a_covariance_that_it_cannot_give_is_said(
    tmp_path: Path, covariance: str
) -> None:
    data = {side: str(coloured(tmp_path / side, each=each, seed=each)) for side, each in (("train", 1), ("eval", 4))}
    method = {"type": "prototypes", "covariance": covariance}
    written = document(tmp_path, tiny_resnet(tmp_path / "base"), "image-classification", method)
    events: list[Any] = []
    outcome = train_local(RunSpec.resolve({**written, "data": data}), progress=lambda e: events.append(e.document()))
    assert outcome.metrics["accuracy"] > 0.9
    said = [event["message"] for event in events if "no class has two different rows" in event.get("message", "")]
    assert len(said) == (covariance == "shared")
