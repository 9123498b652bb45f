"""Embeddings: the loss of a whole step, ranks, what is refused, and answers as vectors and similarities."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import regraft
from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.locate import locate
from regraft.contracts import Task
from regraft.errors import DataError, RegraftError, Unsupported
from regraft.methods.full import Full
from regraft.spec.run import RunSpec
from regraft.tasks.embeddings import Embeddings
from regraft.tasks.metrics.retrieval import of_ranks, ranks_of
from regraft.tasks.outputs.contrastive import cosent_loss, cosine_loss, cut_to, ranking_loss, triplet_loss
from regraft.training.session import train_local
from support.image_bases import tiny_mobilenet
from support.processes import in_child, on_ranks, train_counted
from support.tiny import WORDS, tiny_bert
from unit.every.rows import base_of
from unit.training.test_equal import losses, same_losses

COLUMNS = {"pairs": ("text", "pair"), "triplets": ("text", "pair", "negative"), "graded": ("text", "pair", "score")}


def vectors(rows: int, columns: int, width: int = 12, seed: int = 0) -> torch.Tensor:
    made = torch.randn(rows, columns, width, generator=torch.Generator().manual_seed(seed))
    return F.normalize(made, dim=-1)


def keys(rows: int, columns: int) -> torch.Tensor:
    return torch.arange(rows * columns).view(rows, columns)


def sentences(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of all forms, whose pair shares words with the text."""
    draw, found = np.random.default_rng(seed), []
    for number in range(count):
        words = draw.choice(WORDS, 9).tolist()
        row = {"text": words[:4], "pair": words[2:7], "negative": draw.choice(WORDS, 5).tolist()}
        found.append({name: " ".join(cell) for name, cell in row.items()} | {"score": round(number % 7 / 6, 3)})
    return found


def spec_of(folder: Path, form: str = "pairs", store: str = "store", **changes: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "base").exists():
        tiny_bert(folder / "base")
    for side, count, seed in (("train", 43, 1), ("eval", 20, 2)):
        rows = [{name: row[name] for name in COLUMNS[form]} for row in sentences(count, seed)]
        (folder / f"{side}-{form}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"steps": 8, "batch_size": 12, "lr": 1e-3, "dropout": 0.0, "baselines": False, **changes}
    return {
        "name": "tiny",
        "base": str(folder / "base"),
        "task": {"type": "embeddings", "rows": form, "max_length": 24},
        "method": "full",
        "data": {side: str(folder / f"{side}-{form}.jsonl") for side in ("train", "eval")},
        "training": training,
        "compute": {"workers": 0, "cpus": 1},
        "store": str(folder / store),
    }


def adapted_to(folder: Path, **fields: Any) -> Adapted:
    base = locate(str(tiny_bert(folder)))
    return adapt(base, Adaptation(task=Embeddings(**fields), method=Full(), labels=(), seed=1))


def test_the_pair_is_sought_among_those_of_all_rows_and_all_negatives() -> None:
    made = vectors(5, 3)
    found = ranking_loss(made, keys(5, 3), 20.0)
    candidates = torch.cat([made[:, 1], made[:, 2]])
    wanted = F.cross_entropy(made[:, 0] @ candidates.T * 20, torch.arange(5))
    torch.testing.assert_close(found, wanted)


def test_what_equals_the_input_or_belongs_to_an_equal_one_is_no_negative() -> None:
    made, known = vectors(4, 2), keys(4, 2)
    known[1, 1] = known[0, 1]  # the same pair in two rows
    known[3, 0] = known[2, 0]  # two pairs of the same input
    scores = made[:, 0] @ made[:, 1].T * 20
    for row, column in ((0, 1), (1, 0), (2, 3), (3, 2)):
        scores[row, column] = -torch.inf
    torch.testing.assert_close(ranking_loss(made, known, 20.0), F.cross_entropy(scores, torch.arange(4)))
    one = known[:1].repeat(4, 1)
    assert ranking_loss(made, one, 20.0).item() == 0, "rows that are all alike teach nothing, and are no NaN"


def test_losses_of_triplets_and_scores_are_those_of_their_papers() -> None:
    made = vectors(6, 3, seed=2)
    near, far = (made[:, 0] * made[:, 1]).sum(1), (made[:, 0] * made[:, 2]).sum(1)
    torch.testing.assert_close(triplet_loss(made, 0.2), F.relu(far - near + 0.2).mean())
    scores = torch.tensor([0.1, 0.9, 0.4, 0.4, 1.0, 0.0])
    terms = [math.exp(20 * (near[i] - near[j])) for i in range(6) for j in range(6) if scores[i] < scores[j]]
    assert cosent_loss(made, scores, 20.0).item() == pytest.approx(math.log(1 + sum(terms)), rel=1e-5)
    assert cosent_loss(made, scores * 0, 20.0).item() == 0
    torch.testing.assert_close(cosine_loss(made, scores), (near - scores).square().mean())


def test_ranks_count_distinct_candidates_and_a_collapsed_model_ranks_in_the_middle() -> None:
    made, known = vectors(9, 2, seed=3), keys(9, 2)
    scores = made[:, 0] @ made[:, 1].T
    wanted = 1 + (scores > scores.diagonal().unsqueeze(1)).sum(1)
    assert ranks_of(made.numpy(), known.numpy()).tolist() == wanted.tolist()
    twice = torch.cat([made, made]), torch.cat([known, known])
    assert ranks_of(twice[0].numpy(), twice[1].numpy()).tolist() == [*wanted.tolist()] * 2
    flat = np.full((9, 2, 4), 0.5, np.float32)
    assert set(ranks_of(flat, known.numpy())) == {5.0}
    metrics = of_ranks(np.array([1.0, 2.0, 11.0, 6.0]))
    assert metrics["recall_at_1"] == 0.25 and metrics["recall_at_10"] == 0.75
    assert metrics["mrr_at_10"] == pytest.approx((1 + 1 / 2 + 1 / 6) / 4)
    assert metrics["ndcg_at_10"] == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(7)) / 4)


@pytest.mark.parametrize("form", ["triplets", "graded"])
def test_every_form_of_rows_trains_with_shorter_sizes(form: str, tmp_path: Path) -> None:
    written = spec_of(tmp_path, form)
    written["task"] = {**written["task"], "sizes": [8]}
    outcome = train_local(RunSpec.resolve(written))
    names = {"triplets": {"ndcg_at_10", "recall_at_1_of_8", "triplet_accuracy"}, "graded": {"spearman", "pearson_of_8"}}
    assert names[form] <= set(outcome.metrics)
    found = losses(written)
    assert all(map(math.isfinite, found)) and found[-1] < found[0]


def test_micro_batches_give_the_losses_and_weights_of_one_batch(tmp_path: Path) -> None:
    """By cached gradients; with a different number of micro-batches, one of which has no rows in the last step."""
    whole, parts = (spec_of(tmp_path, store=name, optimizer="sgd", lr=0.3) for name in ("whole", "parts"))
    parts["training"]["accumulation"] = 5
    ends = [train_local(RunSpec.resolve(written)) for written in (whole, parts)]
    same_losses(whole, parts)
    assert losses(whole)[-1] != losses(whole)[0]
    for name, value in ends[0].metrics.items():
        assert ends[1].metrics[name] == pytest.approx(value, abs=1e-4), name


@pytest.mark.parametrize(
    ("accumulation", "strategy"),
    [
        pytest.param(1, "ddp", marks=pytest.mark.slow),
        pytest.param(3, "ddp", marks=pytest.mark.slow),
        pytest.param(2, "fsdp", marks=pytest.mark.long),
    ],
)
def test_two_workers_give_the_losses_of_one(accumulation: int, strategy: str, tmp_path: Path) -> None:
    """With one batch a rank, and with several by cached gradients."""
    written = spec_of(tmp_path, "triplets")
    assert in_child(train_counted, written, str(tmp_path / "alone.journal")) == 0
    both = spec_of(tmp_path, "triplets", f"both-{accumulation}", accumulation=accumulation)
    both["compute"] = {**both["compute"], "workers": 2, "strategy": strategy}
    on_ranks(2, both, str(tmp_path / "both.journal"))
    same_losses(written, both)


def test_texts_of_a_row_are_read_as_each_alone(tmp_path: Path) -> None:
    made = adapted_to(tmp_path / "base", rows="triplets")
    rows = [{**row, "row": number} for number, row in enumerate(sentences(3, 5))]
    task, context = made.task, made.context
    batch = task.collate([task.encode(row, context, train=True) for row in rows], context)
    with torch.no_grad():
        together = made.forward(batch).embeddings
        for number, row in enumerate(rows):
            for place, name in enumerate(("text", "pair", "negative")):
                alone = task.collate([task.encode({"text": row[name]}, context, train=False)], context)
                torch.testing.assert_close(made.forward(alone).embeddings[0], together[number, place])
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(3, 3))
    torch.testing.assert_close(cut_to(together, 8), F.normalize(together[..., :8], dim=-1))


@pytest.mark.parametrize("pooling", ["mean", "cls", None])
def test_pooling_is_that_of_the_base_unless_it_is_written(pooling: str | None, tmp_path: Path) -> None:
    base = locate(str(tiny_bert(tmp_path / "base", pooling=pooling)))
    for written, wanted in (("auto", pooling or "mean"), ("cls", "cls"), ("mean", "mean")):
        task: Any = Task.parse({"type": "embeddings", "pooling": written})
        made: Any = adapt(base, Adaptation(task=task, method=Full(), labels=(), seed=1)).model
        assert made.pooling == wanted


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "cosent"}, "for rows: pairs allowed are auto, ranking"),
        ({"rows": "graded", "objective": "triplet"}, "for rows: graded allowed are auto, cosent, cosine"),
        ({"negatives": 2}, "rows: pairs have none"),
        ({"sizes": [8, 8]}, "each is written once"),
    ],
)
def test_fields_that_do_not_fit_one_another_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task.parse({"type": "embeddings", **fields})


def test_a_size_that_is_not_shorter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="this base's vectors have 32 numbers") as error:
        adapted_to(tmp_path / "base", sizes=(32,))
    assert error.value.where == "task.sizes"


BAD = {
    "empty text": ("pairs", {"text": " "}, ":3: text is empty"),
    "no pair": ("pairs", {"pair": None}, ":3: pair: is missing"),
    "empty negative": ("triplets", {"negative": ""}, ":3: negative is empty"),
    "no score": ("graded", {"score": None}, ":3: score: is missing"),
    "a score of five": ("graded", {"score": 5}, ":3: score is 5; for objective cosine"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_row_that_cannot_be_used_is_named_with_its_file_before_training(case: str, tmp_path: Path) -> None:
    form, change, message = BAD[case]
    written = spec_of(tmp_path, form)
    if form == "graded":
        written["task"]["objective"] = "cosine"
    path = Path(written["data"]["train"])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[2] |= change
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=message) as error:
        train_local(RunSpec.resolve(written))
    assert path.name in str(error.value)


def test_a_file_without_pairs_is_named(tmp_path: Path) -> None:
    written = spec_of(tmp_path)
    path = Path(written["data"]["train"])
    path.write_text("".join(json.dumps({"text": f"the {word}"}) + "\n" for word in WORDS[:20]))
    with pytest.raises(RegraftError, match="pair") as error:
        train_local(RunSpec.resolve(written))
    assert path.name in str(error.value)


def test_a_base_with_a_decoder_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="a base of type t5 has an encoder and a decoder") as error:
        adapt(base_of("t5", tmp_path), Adaptation(task=Embeddings(), method=Full(), labels=(), seed=1))
    assert error.value.where == "base"


def test_one_row_is_refused_for_there_is_nothing_to_compare_it_with(tmp_path: Path) -> None:
    written = spec_of(tmp_path)
    path = Path(written["data"]["train"])
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match="there is one training row: add rows") as error:
        train_local(RunSpec.resolve(written))
    assert path.name in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["off", "light"])
def test_pictures_of_one_colour_are_found_among_others(augment: str, tmp_path: Path) -> None:
    """Pairs are two pictures of one colour; a base of random weights learns which belong together."""
    draw, rows = np.random.default_rng(0), []
    for number in range(16):
        colour = draw.integers(0, 256, 3)
        for name in ("image", "pair"):
            pixels = (colour + draw.integers(-9, 10, (24, 24, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{name}{number}.png")
        rows.append({name: str(tmp_path / f"{name}{number}.png") for name in ("image", "pair")})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = {
        **spec_of(tmp_path, steps=12, lr=1e-2, batch_size=16),
        "base": str(tiny_mobilenet(tmp_path / "pictures")),
        "task": {"type": "image-embeddings"},
        "data": {"train": str(tmp_path / "rows.jsonl"), "eval": str(tmp_path / "rows.jsonl"), "augment": augment},
    }
    outcome = train_local(RunSpec.resolve(written))
    found = losses(written)
    assert found[-1] < found[0] and outcome.metrics["recall_at_5"] > 5 / 16
    answers = regraft.load("tiny", store=written["store"]).predict([rows[0]["image"], rows[0]["pair"]])
    assert np.linalg.norm(answers[0]["embedding"]) == pytest.approx(1, abs=1e-5)
