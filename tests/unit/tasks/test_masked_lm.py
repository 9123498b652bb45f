"""Masked language modelling: which tokens are hidden, what counts, and what a mask is filled with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.locate import Base, locate
from regraft.contracts import Method
from regraft.errors import RegraftError, Unsupported
from regraft.methods.full import Full
from regraft.spec.run import RunSpec
from regraft.tasks.inputs.masking import hide, vocabulary_of
from regraft.tasks.masked_lm import MaskedLm
from regraft.training.session import train_local
from support.language_models import tiny_language
from support.processes import in_child, on_ranks, train_counted
from support.tiny import SPECIAL, WORDS, document, tiny_bert, tokenizer_of
from unit.training.test_equal import losses, same_losses
from unit.training.test_resume import delta

MASK = SPECIAL.index("[MASK]")
TOKENS = tokenizer_of(SPECIAL + WORDS)
IDS = [2, *range(5, 45), 3]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return locate(str(tiny_bert(tmp_path_factory.mktemp("bert"))))


@pytest.fixture(scope="module")
def adapted(base: Base) -> Adapted:
    return adapt(base, Adaptation(task=MaskedLm(), method=Full(), labels=(), seed=1))


def test_shares_are_those_of_the_paper_and_special_tokens_are_never_hidden() -> None:
    vocabulary = vocabulary_of(TOKENS)
    ids = [2, 1, 4, *range(5, 45), 3, 0, 0]  # unknown, mask and padding among them
    chosen, masks, kept, drawn = 0, 0, 0, set[int]()
    for key in range(3000):
        read, places = hide(ids, vocabulary, 0.15, key=key)
        assert all(ids[place] not in vocabulary.special for place in places) and places == sorted(set(places))
        assert all(read[place] == ids[place] for place in range(len(ids)) if place not in places)
        chosen += len(places)
        masks += sum(read[place] == MASK for place in places)
        kept += sum(read[place] == ids[place] for place in places)
        drawn |= {read[place] for place in places} - {MASK}
    assert chosen / (3000 * 40) == pytest.approx(0.15, abs=0.002)
    assert masks / chosen == pytest.approx(0.8, abs=0.015)
    assert kept / chosen == pytest.approx(0.1 + 0.1 / len(WORDS), abs=0.012)
    assert drawn == set(range(5, 5 + len(WORDS))), "random tokens are drawn from all ordinary ones"


def test_masks_are_a_function_of_their_key_alone_and_each_text_has_one() -> None:
    vocabulary = vocabulary_of(TOKENS)
    assert hide(IDS, vocabulary, 0.15, key=3) == hide(IDS, vocabulary, 0.15, key=3)
    assert hide(IDS, vocabulary, 0.15, key=3)[1] == [2, 7, 14, 27, 32, 35], "under every version of NumPy"
    assert len({tuple(hide(IDS, vocabulary, 0.15, key=key)[1]) for key in range(50)}) > 40
    assert all(len(hide([2, 9, 3], vocabulary, 0.15, key=key)[1]) == 1 for key in range(20))
    assert all(max(hide(IDS, vocabulary.within(20), 0.9, key=key)[0]) < 45 for key in range(20))


PIECES = ["the", "lamp", "##s", "##hade", "is", "on", "off", "##line", "now", "##adays"]
SPLIT = tokenizer_of([*SPECIAL, *PIECES])
SPLIT_IDS = [2, 5, 6, 7, 8, 9, 10, 5, 11, 12, 13, 14, 3]
"""the lamp ##s ##hade is on the off ##line now ##adays"""


def test_whole_words_are_hidden_with_all_of_their_tokens_and_nearly_the_same_share() -> None:
    vocabulary = vocabulary_of(SPLIT)
    assert vocabulary.continues.tolist() == [False] * 5 + [piece.startswith("##") for piece in PIECES]
    words = [{1}, {2, 3, 4}, {5}, {6}, {7}, {8, 9}, {10, 11}]
    counts = []
    for key in range(400):
        _, places = hide(SPLIT_IDS, vocabulary, 0.4, key=key, whole_words=True)
        assert places == sorted(set(places)) and places
        assert all(word <= set(places) or not word & set(places) for word in words)
        counts.append(len(places))
    assert max(counts) <= 5 and np.mean(counts) / 11 == pytest.approx(0.4, abs=0.03)
    lonely = [hide([2, 6, 7, 8, 3], vocabulary, 0.1, key=key, whole_words=True)[1] for key in range(9)]
    assert all(places == [1] for places in lonely), "of a word that is longer than the share, a part"
    assert hide(IDS, vocabulary_of(TOKENS), 0.15, key=3, whole_words=True) == hide(
        IDS, vocabulary_of(TOKENS), 0.15, key=3
    )


@pytest.mark.parametrize(
    ("tokens", "continuing"),
    [(["\u2581the", "\u2581lamp", "shade", ","], "shade"), (["\u0120the", "\u0120lamp", "shade", "."], "shade")],
)
def test_words_are_found_by_the_marks_of_other_tokenizers(tokens: list[str], continuing: str) -> None:
    vocabulary = vocabulary_of(tokenizer_of([*SPECIAL, *tokens]))
    assert [token for token, on in zip([*SPECIAL, *tokens], vocabulary.continues, strict=True) if on] == [continuing]


@pytest.mark.parametrize(
    ("tokens", "continuing"),
    [
        (["the", "##s", "##\u0e01\u0e32", "##\u4e2d"], ["##s"]),
        (["\u2581the", "shade", "\u4e2d\u56fd", "\u30b3\u30f3", "\u0e01\u0e32", "\u044f"], ["shade", "\u044f"]),
        # Byte-level: \u4e2d, its first two bytes, its last byte, \u0e01, \u00e9, a line break.
        (
            [
                "\u0120the",
                "shade",
                "\u00e4\u00b8\u0143",
                "\u00e4\u00b8",
                "\u0143",
                "\u00e0\u00b8\u0123",
                "\u00c3\u00a9",
                "\u010a",
            ],
            ["shade", "\u0143", "\u00c3\u00a9"],
        ),
    ],
)
def test_pieces_of_scripts_without_spaces_go_on_with_no_word(tokens: list[str], continuing: list[str]) -> None:
    vocabulary = vocabulary_of(tokenizer_of([*SPECIAL, *tokens]))
    assert [token for token, on in zip([*SPECIAL, *tokens], vocabulary.continues, strict=True) if on] == continuing


def test_packed_pieces_are_full_and_hold_every_token_once() -> None:
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, size=length)) for length in draw.integers(1, 30, 200)]
    rows = [{"text": text} for text in [*texts, "xyzzy"]]
    pieces = [row["ids"] for row in MaskedLm(max_length=32, packing=True).pack(rows, TOKENS)]
    assert all(ids[0] == 2 and len(ids) <= 32 for ids in pieces)
    alone = [row["ids"] for row in MaskedLm(max_length=32).pack(rows, TOKENS)]
    assert sorted(token for ids in pieces for token in ids[1:]) == sorted(token for ids in alone for token in ids[1:])
    assert sum(map(len, pieces)) / (32 * len(pieces)) > 0.9 > 0.8 > sum(map(len, alone)) / (32 * len(alone))
    ends = [ids[1:].count(3) for ids in pieces]
    assert sum(ends) == len(texts), "each text ends with the token that ends a text"


def test_a_piece_of_ends_alone_is_left_out_and_a_row_without_targets_has_a_finite_error(adapted: Adapted) -> None:
    task = MaskedLm(max_length=8, packing=True)
    pieces = list(task.pack([{"text": " ".join(WORDS[:7])}], TOKENS))
    assert [row["ids"] for row in pieces] == [[2, *range(5, 12)]]
    examples = [task.encode({"row": 0, "ids": ids}, adapted.context, train=False) for ids in ([2, 3], [2, 9, 3])]
    batch = task.collate(examples, adapted.context)
    with torch.no_grad():
        records = task.records(adapted.forward(batch), batch, adapted.context)
    assert [record["tokens"] for record in records] == [0, 1]
    assert all(math.isfinite(record["error"]) for record in records)
    assert all(math.isfinite(value) for value in task.metrics(records[:1], adapted.context).values())


def test_fields_that_are_newer_leave_names_of_runs_as_they_were() -> None:
    assert {"whole_words", "packing"}.isdisjoint(MaskedLm().model_dump(mode="json"))
    assert MaskedLm(packing=True).model_dump(mode="json")["packing"] is True


def test_masks_differ_between_epochs_and_are_fixed_in_evaluations(adapted: Adapted) -> None:
    def read(**row: Any) -> Any:
        train = "draw" in row
        return adapted.task.encode({"row": 0, "ids": IDS, **row}, adapted.context, train=train)["input_ids"]

    assert read(draw=1) != read(draw=2) and read(draw=1) == read(draw=1)
    assert read() == read()


def test_a_base_without_an_output_layer_gets_one_that_is_tied_to_its_embeddings(adapted: Adapted) -> None:
    model: Any = adapted.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert sum(name.endswith("word_embeddings.weight") for name in adapted.delta_names) == 1
    assert not any("decoder.weight" in name for name in adapted.delta_names)


def test_the_loss_is_the_cross_entropy_of_hidden_tokens_and_the_layer_is_computed_at_them_alone(
    adapted: Adapted,
) -> None:
    task, context = adapted.task, adapted.context
    rows = [{"row": number, "ids": ids} for number, ids in enumerate(([2, 9, 3], IDS, [2, 7, 8, 9, 3]))]
    examples = [task.encode(row, context, train=False) for row in rows]
    batch = task.collate(examples, context)
    adapted.eval_mode()
    with torch.no_grad():
        output = adapted.forward(batch)
        whole = adapted.forward({name: batch[name] for name in ("input_ids", "attention_mask")}).logits
    hidden = int(batch["masked"].sum())
    assert output.logits.shape[:2] == (1, hidden)
    torch.testing.assert_close(output.logits[0], whole[batch["masked"]])
    original = torch.tensor([row["ids"][place] for row, mask in zip(rows, batch["masked"], strict=True)
                             for place in mask.nonzero()[:, 0].tolist()])  # fmt: skip
    wanted = F.cross_entropy(whole[batch["masked"]], original, reduction="sum")
    total, weight = task.loss(output, batch, context)
    assert total.item() == pytest.approx(wanted.item(), rel=1e-5) and weight.item() == hidden
    metrics = task.metrics(task.records(output, batch, context), context)
    assert metrics["pseudo_perplexity"] == pytest.approx(math.exp(wanted.item() / hidden), rel=1e-5)
    right = (whole[batch["masked"]].argmax(-1) == original).float().mean().item()
    assert metrics["masked_accuracy"] == pytest.approx(right) and metrics["tokens"] == hidden


def test_long_texts_are_read_to_their_end_and_texts_of_unknown_words_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = MaskedLm(max_length=8)
    text = " ".join(WORDS[:20])
    pieces = [row["ids"] for row in task.pack([{"text": text}, {"text": "xyzzy plugh"}, {"text": "lamp"}], TOKENS)]
    assert all(len(ids) <= 8 and ids[0] == 2 and ids[-1] == 3 for ids in pieces)
    assert [token for ids in pieces for token in ids[1:-1]] == [*range(5, 25), 5]
    assert "1 of 3 texts" in caplog.text


def test_masks_are_filled_in_the_form_of_the_inference_api(adapted: Adapted) -> None:
    task, context = adapted.task, adapted.context
    texts = ["the [MASK] is on", "my [MASK] and [MASK]", "no mask"]
    rows = [task.encode({"row": 0, "text": text}, context, train=False) for text in texts]
    batch = task.collate(rows, context)
    adapted.eval_mode()
    with torch.no_grad():
        answers = task.answers(adapted.forward(batch), batch, context)
    one, two, none = (task.api_form().render(answer, {"top_k": 2}) for answer in answers)
    assert [set(item) for item in one] == [{"score", "token", "token_str", "sequence"}] * 2
    assert one[0]["score"] >= one[1]["score"] and one[0]["sequence"] == f"the {one[0]['token_str']} is on"
    assert len(two) == 2 and all(len(mask) == 2 for mask in two) and none == []
    assert len(task.api_form().render(answers[0], {})) == task.model_fields["top_k"].default


@pytest.mark.parametrize("mask", [None, "[MASK]"])
def test_a_base_that_cannot_fill_masks_is_refused_in_words(tmp_path: Path, mask: str | None) -> None:
    folder = tiny_bert(tmp_path / "base")
    tokens = tokenizer_of(SPECIAL + WORDS)
    tokens.mask_token = mask
    if mask:
        tokens.add_special_tokens({"mask_token": "[HIDDEN]"})  # beyond the table of embeddings
    tokens.save_pretrained(folder)
    with pytest.raises(Unsupported, match="mask") as caught:
        adapt(locate(str(folder)), Adaptation(task=MaskedLm(), method=Full(), labels=(), seed=1))
    assert caught.value.where == "base"


def test_a_decoder_is_refused_in_words(tmp_path: Path) -> None:
    tiny_language(tmp_path, "llama")
    with pytest.raises(RegraftError, match=r"AutoModelForMaskedLM|MaskedLM"):
        adapt(locate(str(tmp_path)), Adaptation(task=MaskedLm(), method=Full(), labels=(), seed=1))


def texts_in(folder: Path, **changes: Any) -> dict[str, Any]:
    return {**document(folder, **changes), "task": "masked-lm"}


@pytest.mark.slow
def test_a_killed_run_ends_bit_identical(tmp_path: Path) -> None:
    straight = texts_in(tmp_path / "a", checkpoint_steps=3)
    assert in_child(train_counted, straight, str(tmp_path / "ja")) == 0
    killed = {**straight, "store": str(tmp_path / "b-store")}
    assert in_child(train_counted, killed, str(tmp_path / "jb"), 10) == -9
    assert in_child(train_counted, killed, str(tmp_path / "jb")) == 0
    assert delta(killed) == delta(straight)


@pytest.mark.slow
def test_workers_and_accumulation_change_no_loss(tmp_path: Path) -> None:
    written = texts_in(tmp_path, dropout=0.0, steps=6)
    assert in_child(train_counted, written, str(tmp_path / "one")) == 0
    parts = {**written, "store": str(tmp_path / "parts"), "training": {**written["training"], "accumulation": 3}}
    assert in_child(train_counted, parts, str(tmp_path / "three")) == 0
    same_losses(written, parts)
    ranks = {**written, "store": str(tmp_path / "ranks")}
    on_ranks(2, ranks, str(tmp_path / "two"))
    assert np.allclose(losses(ranks), losses(written), atol=1e-5)


def test_a_search_may_not_force_what_changes_to_be_kept(tmp_path: Path) -> None:
    written = texts_in(tmp_path, rows=12, eval_rows=6)
    spec = RunSpec.resolve({**written, "compute": {**written["compute"], "trunk": "memory"}})
    method = Method.parse({"type": "freeze", "depth": 1})
    with pytest.raises(Unsupported, match="task masked-lm"):
        train_local(spec.model_copy(update={"method": method}))
