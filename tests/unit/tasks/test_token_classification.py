"""Token classification: one tag per word whatever its tokens, offsets in the text, counts of complete entities."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from regraft.bases.load import BaseLoader, load_processor
from regraft.bases.locate import locate
from regraft.contracts import BadCell, Batch, Context, Example, Row
from regraft.errors import DataError, Unsupported
from regraft.tasks.metrics.entities import counts, scores
from regraft.tasks.token_classification import TokenClassification, first_tokens, words_in_text
from support.tiny import tiny_bert

LABELS = ("O", "B-lamp", "B-place", "I-lamp")
ROWS: list[Row] = [
    {"row": 0, "tokens": ["the", "red", "lamp", "is", "off"], "tags": ["O", "B-lamp", "I-lamp", "O", "O"]},
    {"row": 1, "tokens": ["why", "bulb,lamp?", "lamp"], "tags": ["O", "B-lamp", "B-lamp"]},
    {"row": 2, "tokens": ["Zürich"], "tags": ["B-place"]},
    {"row": 3, "tokens": ["cloud", "of", "the", "old-lamp", "app", "."], "tags": ["B-place", *["O"] * 5]},
]
TASK = TokenClassification()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def loader(folder: Path) -> BaseLoader:
    return BaseLoader(locate(str(folder)))


@pytest.fixture(scope="module")
def context(folder: Path, loader: BaseLoader) -> Context:
    return Context(load_processor(locate(str(folder)), "text"), LABELS, loader.config)


@pytest.fixture(scope="module")
def examples(context: Context) -> list[Example]:
    return [TASK.encode(row, context, train=True) for row in ROWS]


def guess(batch: Batch, seed: int = 0) -> Any:
    """Return the output of a model with random logits."""
    generator = torch.Generator().manual_seed(seed)
    return SimpleNamespace(logits=torch.randn(*batch["input_ids"].shape, len(LABELS), generator=generator) * 3)


def perfect(batch: Batch) -> Any:
    """Return an output with the target at each word's first token, with certainty, and noise at every other token."""
    answer = guess(batch)
    for row, item in enumerate(batch["labels"]):
        for first, tag in zip(item["firsts"].tolist(), item["tags"].tolist(), strict=True):
            if first >= 0:
                answer.logits[row, first] = torch.eye(len(LABELS))[tag] * 50
    return answer


def output(logits: Tensor) -> Any:
    return SimpleNamespace(logits=logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_torchs_mean_over_words_however_rows_are_split(
    smoothing: float, examples: list[Example], context: Context
) -> None:
    context = Context(context.processor, LABELS, context.config, None, smoothing)
    batch = TASK.collate(examples, context)
    answer = guess(batch)
    seen = [
        (answer.logits[row, first], tag)
        for row, item in enumerate(batch["labels"])
        for first, tag in zip(item["firsts"].tolist(), item["tags"], strict=True)
    ]
    expected = F.cross_entropy(
        torch.stack([logits for logits, _ in seen]), torch.stack([tag for _, tag in seen]), label_smoothing=smoothing
    )
    for cuts in ([0, 4], [0, 1, 4], [0, 1, 2, 3, 4]):
        parts = []
        for start, end in pairwise(cuts):
            some = TASK.collate(examples[start:end], context)
            longest = some["input_ids"].shape[1]
            parts.append(TASK.loss(output(answer.logits[start:end, :longest]), some, context))
        total, weight = sum(part[0] for part in parts), sum(part[1] for part in parts)
        assert weight == len(seen) == 15
        assert total / weight == pytest.approx(expected.item(), rel=1e-6)


def test_the_reported_loss_is_the_one_that_is_minimised(examples: list[Example], context: Context) -> None:
    context = Context(context.processor, LABELS, context.config, None, 0.1)
    batch = TASK.collate(examples, context)
    total, weight = TASK.loss(guess(batch), batch, context)
    metrics = TASK.metrics(TASK.records(guess(batch), batch, context), context)
    assert metrics["loss"] == pytest.approx((total / weight).item(), rel=1e-5)


def test_only_a_words_first_token_is_labelled(examples: list[Example], context: Context) -> None:
    names = context.processor.convert_ids_to_tokens(examples[1]["input_ids"])
    targets = examples[1]["labels"]["targets"].tolist()
    assert names == ["[CLS]", "why", "bulb", "[UNK]", "lamp", "[UNK]", "lamp", "[SEP]"]
    assert targets == [-100, 0, 1, -100, -100, -100, 1, -100]


def test_a_row_alone_is_answered_as_in_a_batch(loader: BaseLoader, examples: list[Example], context: Context) -> None:
    torch.manual_seed(1)
    model = TASK.build(loader, LABELS).eval()

    def asked(some: list[Example]) -> list[Any]:
        batch = TASK.collate(some, context)
        with torch.no_grad():
            answer = model(**{name: value for name, value in batch.items() if name != "labels"})
        return TASK.answers(output(answer.logits * 20), batch, context)

    together = asked(examples)
    assert any(answer["entities"] for answer in together)
    for example, there in zip(examples, together, strict=True):
        here = asked([example])[0]["entities"]
        assert [{**entity, "score": 0} for entity in here] == [{**entity, "score": 0} for entity in there["entities"]]
        assert [entity["score"] for entity in here] == pytest.approx([e["score"] for e in there["entities"]], abs=1e-5)


def test_an_entity_says_where_it_stands_in_the_joined_words(examples: list[Example], context: Context) -> None:
    batch = TASK.collate(examples, context)
    found = [answer["entities"] for answer in TASK.answers(perfect(batch), batch, context)]
    assert found[0] == [
        {"entity_group": "lamp", "score": pytest.approx(1), "word": "red lamp", "start": 4, "end": 12},
    ]
    assert [(item["word"], item["start"], item["end"]) for item in found[1]] == [
        ("bulb,lamp?", 4, 14),
        ("lamp", 15, 19),
    ]
    for row, entities in zip(ROWS, found, strict=True):
        for item in entities:
            assert " ".join(row["tokens"])[item["start"] : item["end"]] == item["word"]


def test_an_entity_of_a_string_says_where_it_stands_in_that_string(context: Context) -> None:
    text = "\tthe  red\nlamp   is off "
    batch = TASK.collate([TASK.encode({"row": 0, "tokens": text}, context, train=False)], context)
    assert "tags" not in batch["labels"][0] and TASK.check({"tokens": text}) is None
    batch["labels"][0]["tags"] = torch.tensor([0, 1, 3, 0, 2])
    entities = TASK.answers(perfect(batch), batch, context)[0]["entities"]
    assert [item["word"] for item in entities] == ["red\nlamp", "off"]
    assert [text[item["start"] : item["end"]] for item in entities] == ["red\nlamp", "off"]


def test_a_token_that_begins_with_the_blank_before_a_word_is_that_words() -> None:
    """Byte-level tokenizers make such tokens; a token over two words belongs to the first word alone."""
    text, spans = words_in_text(["the", "lamp", "off"])
    assert (text, spans) == ("the lamp off", [(0, 3), (4, 8), (9, 12)])
    assert first_tokens([(0, 0), (0, 3), (3, 6), (6, 8), (8, 12), (0, 0)], spans) == [1, 2, 4]
    assert first_tokens([(0, 2), (2, 5), (5, 12)], spans) == [0, 2, -1]
    assert first_tokens([(0, 3), (3, 4), (4, 8)], spans) == [0, 2, -1]


TEXTS = {
    "The red lamp, is off.": "The red lamp , is off .",
    '"lamp" (old) phone\'s light!': '" lamp " ( old ) phone \'s light !',
    "\u201elamp\u201c \u2013 blue; \u00abcloud\u00bb?": "\u201e lamp \u201c \u2013 blue ; \u00ab cloud \u00bb ?",
    "lamp/light:on,off\u2026": "lamp / light : on , off \u2026",
    "[red] {blue}  lamp\n7.5% of $3": "[ red ] { blue } lamp 7.5 % of $ 3",
}
"""Plain texts, each with its words."""


@pytest.mark.parametrize("text", TEXTS)
def test_a_plain_text_is_read_as_its_words_are(text: str, context: Context) -> None:
    words = TEXTS[text].split()
    alone, apart = (TASK.encode({"row": 0, "tokens": tokens}, context, train=False) for tokens in (text, words))
    assert alone["input_ids"] == apart["input_ids"]
    assert alone["labels"]["firsts"].tolist() == apart["labels"]["firsts"].tolist()
    assert [text[start:end] for start, end in alone["labels"]["spans"].tolist()] == words
    batch = TASK.collate([alone, apart], context)
    logits = guess(batch).logits[:1].expand(2, -1, -1)
    first, second = (answer["entities"] for answer in TASK.answers(output(logits), batch, context))
    assert [(item["entity_group"], item["score"]) for item in first] == [
        (item["entity_group"], item["score"]) for item in second
    ]
    assert [_without_blanks(item["word"]) for item in first] == [_without_blanks(item["word"]) for item in second]
    assert all(text[item["start"] : item["end"]] == item["word"] for item in first)


def _without_blanks(word: str) -> str:
    return "".join(word.split())


def test_a_text_is_cut_as_the_training_rows_are(context: Context) -> None:
    rows = [{"tokens": ["lamp-light", "is", "on."]}] * 30
    task = TASK.fit_to_sample(rows)
    example = task.encode({"row": 0, "tokens": "the lamp-light, on."}, context, train=False)
    assert [end - start for start, end in example["labels"]["spans"].tolist()] == [3, 11, 3]
    assert task.fit_to_sample([]) is task


def test_fields_that_came_later_are_not_stored_at_their_default() -> None:
    assert TASK.model_dump(mode="json") == {"type": "token-classification", "max_length": None}
    fitted = TASK.fit_to_sample([])
    assert TokenClassification.parse(fitted.model_dump(mode="json")) == fitted
    assert fitted.model_dump(exclude=set(fitted.answer_fields)) == {"type": "token-classification", "max_length": None}


def test_the_same_sentences_as_texts_are_measured_by_characters(context: Context) -> None:
    rows = [
        {"row": 0, "tokens": ["(", "red", "lamp", ")", "."], "tags": ["O", "B-lamp", "I-lamp", "O", "O"]},
        {"row": 1, "tokens": ["cloud", "'s", "lamp-light"], "tags": ["B-place", "O", "B-lamp"]},
    ]
    asked: list[Any] = []

    def ask(texts: Any) -> list[Any]:
        asked.extend(texts)
        right = [{"entity_group": "lamp", "start": 1, "end": 9}]
        return [{"entities": right}, {"entities": [{"entity_group": "place", "start": 0, "end": 7}]}]

    form = TASK.other_form(rows, ask)
    assert [row["tokens"] for row in asked] == ["(red lamp).", "cloud's lamp-light"]
    assert form is not None and form.name == "plain text"
    assert form.metrics == {"precision": 0.5, "recall": pytest.approx(1 / 3), "f1": 0.4, "same_words": 1.0}
    assert "f1 0.4000; 2 of 2 texts are cut into the words of their rows" in form.note


PLAIN = TokenClassification(scheme="plain")
KINDS = ("ADJ", "NOUN", "VERB")


def test_plain_tags_are_measured_and_answered_word_by_word(context: Context) -> None:
    context = Context(context.processor, KINDS, context.config)
    rows = [
        {"row": 0, "tokens": ["red", "lamp", "is", "on"], "tags": ["ADJ", "NOUN", "VERB", "ADJ"]},
        {"row": 1, "tokens": ["lamp", "light"], "tags": ["NOUN", "NOUN"]},
    ]
    assert [PLAIN.check(row) for row in rows] == [None, None]
    batch = PLAIN.collate([PLAIN.encode(row, context, train=True) for row in rows], context)
    logits = torch.zeros(*batch["input_ids"].shape, 3)
    for row, guessed in enumerate(([0, 1, 2, 1], [1, 1])):
        for first, tag in zip(batch["labels"][row]["firsts"].tolist(), guessed, strict=True):
            logits[row, first, tag] = 9
    records = PLAIN.records(output(logits), batch, context)
    metrics = PLAIN.metrics(records, context)
    assert metrics["accuracy"] == pytest.approx(5 / 6)
    assert metrics["f1"] == pytest.approx((2 / 3 + 6 / 7 + 1) / 3)
    assert [record["error"] < 1 for record in records] == [False, True]
    table = PLAIN.findings(records, context).tables[0]
    assert [row[0] for row in table.rows] == list(KINDS) and table.rows[0][4:] == (2, 1)
    answers = PLAIN.answers(output(logits), batch, context)
    assert [(item["word"], item["entity_group"]) for item in answers[1]["entities"]] == [
        ("lamp", "NOUN"), ("light", "NOUN")
    ]  # fmt: skip


def test_other_schemes_are_converted_when_rows_are_read() -> None:
    row = {"tokens": ["a", "b", "c"], "tags": ["B-x", "E-x", "S-y"]}
    assert TokenClassification(scheme="bioes").convert(row)["tags"] == ["B-x", "I-x", "B-y"]
    assert TokenClassification(scheme="io").convert({**row, "tags": ["x", "x", "O"]})["tags"] == ["B-x", "I-x", "O"]
    assert PLAIN.convert(row) == TASK.convert(row) == row
    with pytest.raises(BadCell, match="tags: tag 1 is 'I-x' after the beginning; in BILOU"):
        TokenClassification(scheme="bilou").convert({**row, "tags": ["I-x", "O", "O"]})
    short = {**row, "tags": ["E-x"]}
    assert TokenClassification(scheme="bioes").convert(short) == short


def test_a_token_without_a_row_in_the_base_is_a_bad_row(context: Context) -> None:
    small = Context(context.processor, LABELS, SimpleNamespace(vocab_size=20, max_position_embeddings=64))
    with pytest.raises(DataError, match=r"row 3: holds 'blue', token \d+ of the tokenizer, .* table has 20 rows"):
        TASK.encode({"row": 3, "tokens": ["blue"]}, small, train=False)


def test_words_that_were_cut_off_count_as_outside(context: Context) -> None:
    task = TokenClassification(max_length=4)
    row = {"row": 0, "tokens": ["red", "lamp", "lamp", "off"], "tags": ["O", "B-lamp", "B-lamp", "O"]}
    batch = task.collate([task.encode(row, context, train=True)], context)
    assert batch["input_ids"].shape == (1, 4) and batch["labels"][0]["firsts"].tolist() == [1, 2, -1, -1]
    _, weight = task.loss(perfect(batch), batch, context)
    metrics = task.metrics(task.records(perfect(batch), batch, context), context)
    assert weight == 2
    assert metrics["unread"] == 0.5
    assert (metrics["precision"], metrics["recall"], metrics["accuracy"]) == (1, 0.5, 0.75)


def test_a_word_without_tokens_is_outside_and_stops_nothing(context: Context) -> None:
    row = {"row": 0, "tokens": ["\u00ad", "lamp"], "tags": ["B-lamp", "B-lamp"]}
    example = TASK.encode(row, context, train=True)
    example["labels"]["firsts"][0] = -1
    example["labels"]["targets"][:] = -100
    batch = TASK.collate([example], context)
    total, weight = TASK.loss(guess(batch), batch, context)
    assert (total.item(), weight.item()) == (0, 0)
    assert 0 <= TASK.metrics(TASK.records(guess(batch), batch, context), context)["f1"] < 1


def test_a_perfect_model_scores_one(examples: list[Example], context: Context) -> None:
    batch = TASK.collate(examples, context)
    metrics = TASK.metrics(TASK.records(perfect(batch), batch, context), context)
    assert metrics == {
        "precision": 1, "recall": 1, "f1": 1, "accuracy": 1, "unread": 0, "loss": pytest.approx(0, abs=1e-6)
    }  # fmt: skip


def entities(tags: list[int]) -> set[tuple[str, int, int]]:
    """Return type, first and last word of each entity, by an independent implementation of conlleval's rules."""
    found, start = set(), 0
    names = [LABELS[tag] if tag >= 0 else "O" for tag in tags]
    for place, tag in enumerate(names):
        before = names[place - 1] if place else "O"
        if tag.startswith("B-") or (tag != "O" and before[2:] != tag[2:]):
            start = place
        after = names[place + 1] if place + 1 < len(names) else "O"
        if tag != "O" and (after[:2] != "I-" or after[2:] != tag[2:]):
            found.add((tag[2:], start, place))
    return found


def named(tags: list[int]) -> list[str]:
    return ["O" if tag < 0 else LABELS[tag] for tag in tags]


TAGS = st.integers(-1, len(LABELS) - 1)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.tuples(TAGS.filter(lambda tag: tag >= 0), TAGS), min_size=1, max_size=9), min_size=1))
def test_f1_counts_entities_that_are_exactly_right(rows: list[list[tuple[int, int]]]) -> None:
    pairs = [([a for a, _ in row], [b for _, b in row]) for row in rows]
    metrics = scores([counts(named(written), named(guessed)) for written, guessed in pairs])
    true = {(row, *item) for row, (written, _) in enumerate(pairs) for item in entities(written)}
    found = {(row, *item) for row, (_, guessed) in enumerate(pairs) for item in entities(guessed)}
    correct = len(true & found)
    assert metrics["precision"] == pytest.approx(correct / len(found) if found else 0)
    assert metrics["recall"] == pytest.approx(correct / len(true) if true else 0)
    assert metrics["f1"] == pytest.approx(2 * correct / (len(true) + len(found)) if true or found else 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": [], "tags": []}, "tokens is empty"),
        ({"tokens": " \n"}, "tokens is empty"),
        ({"tokens": ["a", "\u00a0"], "tags": ["O", "O"]}, "word 2 is empty"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 words and 1 tags: there must be one tag a word"),
        ({"tokens": ["a"], "tags": ["NOUN"]}, "tag 1 is 'NOUN'; IOB2 has O, B-<type> and I-<type>"),
        ({"tokens": ["a"], "tags": ["B-"]}, "tag 1 is 'B-'"),
        ({"tokens": ["a"], "tags": ["S-a"]}, "scheme: bioes"),
        ({"tokens": ["a", "b"], "tags": ["O", "I-lamp"]}, "tag 2 is 'I-lamp' after 'O'; in IOB2 an entity begins"),
        ({"tokens": ["a", "b"], "tags": ["B-place", "I-lamp"]}, "'I-lamp' after 'B-place'.*scheme: iob1"),
    ],
)
def test_a_row_that_does_not_fit_says_why(row: Row, message: str) -> None:
    found = TASK.check(row)
    assert found is not None
    with pytest.raises(ValueError, match=message):
        raise ValueError(found)


def test_good_rows_are_accepted() -> None:
    assert [TASK.check(row) for row in ROWS] == [None] * 4
    assert TASK.check({"tokens": ["a", "b", "c"], "tags": ["B-a", "I-a", "I-a"]}) is None


def test_a_tag_the_model_does_not_know_is_named(context: Context) -> None:
    row = {"row": 7, "tokens": ["lamp"], "tags": ["B-dark"]}
    with pytest.raises(DataError, match="row 7: label 'B-dark' is written; the model knows: O, B-lamp"):
        TASK.encode(row, context, train=True)


def test_a_tokenizer_that_does_not_say_where_tokens_stand_is_refused(context: Context) -> None:
    slow = Context(SimpleNamespace(is_fast=False), LABELS, context.config)
    with pytest.raises(Unsupported, match="a fast tokenizer is needed"):
        TASK.encode(ROWS[0], slow, train=True)


def test_length_is_that_of_the_text() -> None:
    assert TASK.length({"tokens": ["ab", "c"]}) == TASK.length({"tokens": "ab c"}) == 4
