"""Outputs of labels that the base's head has are copied, in any order and among any others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from regraft.bases.label_transfer import known_labels
from regraft.bases.load import BaseLoader, quiet
from regraft.bases.locate import locate
from unit.bases.families import FAMILIES, batch_for

THEIRS = ("background", "bicycle", "person", "tree")
KINDS = {
    "mobilenet_v2": hf.AutoModelForImageClassification,
    "bert": hf.AutoModelForTokenClassification,
    "segformer": hf.AutoModelForSemanticSegmentation,
    "deeplabv3-mobilenet_v2": hf.AutoModelForSemanticSegmentation,
    "detr": hf.AutoModelForObjectDetection,
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save complete models with a head for THEIRS."""
    return {name: headed(name, tmp_path_factory.mktemp(name)) for name in KINDS}


def headed(name: str, folder: Path) -> Path:
    torch.manual_seed(3)
    config = FAMILIES[name].make().config
    config.id2label, config.label2id = dict(enumerate(THEIRS)), {label: n for n, label in enumerate(THEIRS)}
    model = KINDS[name].from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    with quiet():
        model.save_pretrained(folder)
    return folder


def logits(model: Any, name: str) -> torch.Tensor:
    inputs = {key: value for key, value in batch_for(name).items() if key != "labels"}
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**inputs).logits
    return found if found.ndim < 4 else found.movedim(1, -1)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "ours", [("background", "person"), ("person", "background", "bicycle", "tree"), ("car", "Person", "road")]
)
def test_logits_of_known_labels_are_the_bases_own(bases: dict[str, Path], name: str, ours: tuple[str, ...]) -> None:
    kind = KINDS[name]
    with quiet():
        whole = logits(kind.from_pretrained(bases[name]), name)
    model = BaseLoader(locate(str(bases[name])))(kind.__name__, labels=ours)
    found = logits(model, name)
    pairs = [(k, THEIRS.index(label.lower())) for k, label in enumerate(ours) if label.lower() in THEIRS]
    for here, there in pairs:
        assert torch.allclose(found[..., here], whole[..., there], atol=1e-6)
    if name == "detr":  # the output after the labels means `no object`
        assert torch.allclose(found[..., len(ours)], whole[..., len(THEIRS)], atol=1e-6)
    if len(ours) == 3:
        assert not torch.allclose(found[..., 0], whole[..., 0], atol=1e-3)


def test_keeping_moves_no_draw(bases: dict[str, Path]) -> None:
    """Return the outputs of labels unknown to the base: random, from the seed alone."""

    def made(*labels: str) -> torch.Tensor:
        torch.manual_seed(0)
        model: Any = BaseLoader(locate(str(bases["bert"])))("AutoModelForTokenClassification", labels=labels)
        weight: torch.Tensor = model.classifier.weight
        return weight

    assert torch.equal(made("x", "person", "z")[[0, 2]], made("x", "y", "z")[[0, 2]])


def test_a_head_that_the_files_lack_gives_nothing(tmp_path: Path) -> None:
    """A bare encoder whose configuration has labels."""
    model = FAMILIES["bert"].make()
    model.config.id2label = dict(enumerate(THEIRS))
    with quiet():
        model.save_pretrained(tmp_path)

    def made(*labels: str) -> torch.Tensor:
        torch.manual_seed(0)
        found: Any = BaseLoader(locate(str(tmp_path)))("AutoModelForTokenClassification", labels=labels)
        weight: torch.Tensor = found.classifier.weight
        return weight

    assert torch.equal(made("person", "tree"), made("x", "y"))


@pytest.mark.parametrize(
    ("theirs", "ours", "pairs"),
    [
        (("a", "b"), ("a", "b"), {}),
        (("a", "b"), ("b", "a"), {0: 1, 1: 0}),
        (("crane", "b", "crane"), ("crane", "b"), {1: 1}),
        (("LABEL_0", "LABEL_1"), ("no", "yes"), {}),
        (("a", "b"), (), {}),
    ],
)
def test_labels_are_matched_by_name(theirs: tuple[str, ...], ours: tuple[str, ...], pairs: dict[int, int]) -> None:
    config = hf.BertConfig(id2label=dict(enumerate(theirs)))
    assert known_labels(config, ours) == pairs
