"""Embeddings agree with sentence-transformers: every loss on the same batch, and the exported folder's vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from torch import nn
from transformers import AutoModel

import regraft
from regraft.bases.load import quiet
from regraft.serving.export import export
from regraft.spec.run import RunSpec
from regraft.training.session import train_local
from regraft.training.whole_step import whole_step_loss
from unit.every.rows import base_of
from unit.serving.tiny import publish
from unit.tasks.test_embeddings import adapted_to, sentences, spec_of

Loss = Callable[[SentenceTransformer], nn.Module]


def by_cosine(model: SentenceTransformer) -> nn.Module:
    made: nn.Module = losses.TripletLoss(model, distance_metric=losses.TripletDistanceMetric.COSINE, triplet_margin=0.2)
    return made


CASES: dict[str, tuple[dict[str, Any], Loss]] = {
    "pairs": ({}, losses.MultipleNegativesRankingLoss),
    "hard negatives": ({"rows": "triplets"}, losses.MultipleNegativesRankingLoss),
    "triplets": ({"rows": "triplets", "objective": "triplet"}, by_cosine),
    "scores": ({"rows": "graded"}, losses.CoSENTLoss),
    "cosines": ({"rows": "graded", "objective": "cosine"}, losses.CosineSimilarityLoss),
    "shorter sizes": (
        {"sizes": [16, 8]},
        lambda model: losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), [32, 16, 8]),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_loss_of_a_batch_and_its_gradient_are_those_of_sentence_transformers(case: str, tmp_path: Path) -> None:
    fields, make = CASES[case]
    made = adapted_to(tmp_path / "base", **fields)
    task: Any = made.task
    with quiet():
        theirs = SentenceTransformer(str(tmp_path / "base"), device="cpu")
    rows = [{**row, "row": number} for number, row in enumerate(sentences(11, 4))]
    batch = task.collate([task.encode(row, made.context, train=True) for row in rows], made.context)
    total, weight = whole_step_loss(task, task.step_values(made.forward(batch)), batch["labels"], made.context)
    (total / weight).backward()  # type: ignore[no-untyped-call]
    features = [theirs.preprocess([row[name] for row in rows]) for name in task.compared()]
    wanted = make(theirs).eval()(features, torch.tensor([row["score"] for row in rows]))
    wanted.backward()
    assert (total / weight).item() == pytest.approx(wanted.item(), rel=1e-5)
    name = "encoder.layer.1.output.dense.weight"
    mine: Any = dict(made.model.named_parameters())[f"base.{name}"].grad
    its: Any = next(value.grad for key, value in theirs.named_parameters() if key.endswith(name))
    torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ["mobilenet_v2", "vit"])
def test_an_exported_base_of_pictures_gives_the_same_vectors_by_its_readme(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    publish(tmp_path / "store", base_of(family, tmp_path / "base").path, {"type": "image-embeddings"}, "full")
    out = export(str(tmp_path / "store"), "tiny", tmp_path / "out")
    code = (out.folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    made: dict[str, Any] = {}
    monkeypatch.chdir(out.folder)
    with quiet():
        exec(code, made)
    (answer,) = regraft.load("tiny", store=tmp_path / "store").predict([made["picture"]])
    np.testing.assert_allclose(made["vector"][0].numpy(), answer["embedding"], atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_exported_folder_gives_the_same_vectors_in_sentence_transformers(
    pooling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    written = spec_of(tmp_path, steps=2)
    written["task"] |= {"pooling": pooling, "sizes": [8]}
    train_local(RunSpec.resolve(written))
    model = regraft.load("tiny", store=written["store"])
    texts = [row["text"] for row in sentences(5, 9)]
    wanted = np.array([answer["embedding"] for answer in model.predict(texts)])
    out = export(written["store"], "tiny", tmp_path / "out")
    with quiet():
        theirs = SentenceTransformer(str(out.folder), device="cpu")
        short = SentenceTransformer(str(out.folder), device="cpu", truncate_dim=8)
        AutoModel.from_pretrained(out.folder)
    np.testing.assert_allclose(theirs.encode(texts), wanted, atol=1e-5)
    assert short.encode(texts).shape == (5, 8)
    assert theirs.max_seq_length == 24
