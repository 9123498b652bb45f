"""Causal language modelling: which tokens count; packed, single and batched rows agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.locate import locate
from regraft.contracts import Batch, Context, Row
from regraft.errors import DataError, Unsupported
from regraft.methods.full import Full
from regraft.tasks.text_generation import TextGeneration
from support.language_models import FAMILIES, POSITIONS, byte_tokenizer, model_of, tiny_language

CHATML = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
TASK = TextGeneration(max_new_tokens=9)
TEXTS = ["Who?", "The quick brown fox.", "a", "Zürich, 2 AM", "And so on, and on, and on, and on."]
TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "A!"},
]


@pytest.fixture(scope="module")
def context() -> Context:
    return Context(byte_tokenizer(template=CHATML), (), model_of("llama").config)


def rows(texts: Sequence[str]) -> list[Row]:
    return [{"text": text, "row": number} for number, text in enumerate(texts)]


def batch_of(task: TextGeneration, some: Sequence[Row], context: Context, *, train: bool = True) -> Batch:
    return task.collate([task.encode(row, context, train=train) for row in some], context)


def forward(model: Any, batch: Batch) -> Any:
    return model(**{name: value for name, value in batch.items() if name != "labels"})


def counted(task: TextGeneration, row: Row, context: Context) -> str:
    """Return the text of the tokens that count in a row that is not packed."""
    example = task.encode(row, context, train=True)
    targets = example["labels"]["targets"].tolist()
    for place, target in enumerate(targets):
        assert target in (-100, example["input_ids"][place])
    return str(context.processor.decode([target for target in targets if target >= 0]))


def test_of_a_text_all_tokens_but_the_first_count_and_the_end_too(context: Context) -> None:
    assert counted(TASK, {"text": "Who?"}, context) == "ho?<|end|>"
    assert TASK.encode({"text": "Who?"}, context, train=True)["input_ids"][-1] == context.processor.eos_token_id


def test_of_a_completion_nothing_of_the_prompt_counts(context: Context) -> None:
    task = TextGeneration(form="completion")
    assert counted(task, {"prompt": "2+2 = ", "completion": "vier"}, context) == "vier<|end|>"


def test_of_a_conversation_the_assistants_turns_count(context: Context) -> None:
    task = TextGeneration(form="chat")
    assert counted(task, {"messages": TALK}, context) == "Ho<|end|>\nA!<|end|>\n"
    assert counted(task, {"messages": TALK[:3]}, context) == "Ho<|end|>\n"
    plain = TextGeneration(form="chat", template="plain")
    assert counted(plain, {"messages": TALK}, context) == "Ho<|end|>A!<|end|>"


def test_an_answer_that_the_template_leaves_open_is_ended(context: Context) -> None:
    template = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    task = TextGeneration(form="chat", template=template)
    assert counted(task, {"messages": TALK[:2]}, context) == "[Ho]<|end|>"
    assert counted(task, {"messages": TALK[:3]}, context) == "[Ho]"


def test_a_token_that_began_in_the_prompt_does_not_count() -> None:
    class Joining:
        """A tokenizer that joins the last letter of the prompt and the first of the completion in one token."""

        is_fast, eos_token, eos_token_id, model_max_length = True, None, None, 99

        def __call__(self, text: str, **_: Any) -> dict[str, Any]:
            cuts = [(0, 2), (2, 4), (4, 6)]
            return {"input_ids": [5, 6, 7], "offset_mapping": cuts}

    joined = Context(Joining(), (), model_of("llama").config)
    task = TextGeneration(form="completion")
    targets = task.encode({"prompt": "abc", "completion": "def"}, joined, train=True)["labels"]["targets"]
    assert targets.tolist() == [-100, -100, 7]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_of_packed_documents_is_that_of_each_alone(family: str, attention: str, context: Context) -> None:
    model = model_of(family).eval()
    model.set_attn_implementation(attention)
    task = TextGeneration(block_size=40)
    texts = [*TEXTS, *(text[::-1] for text in TEXTS)]
    packed = batch_of(task, list(task.pack(rows(texts), context.processor)), context)
    assert len(packed["input_ids"]) < len(texts) - 4, "several documents share a block"
    assert packed["input_ids"].shape[1] != packed["labels"]["targets"].ne(-100).sum(1).min(), "some are padded"
    with torch.no_grad():
        total, weight = task.loss(forward(model, packed), packed, context)
        sums = []
        for text in texts:
            ids = torch.tensor([[*context.processor(text)["input_ids"], 0]])
            logits = model(input_ids=ids).logits[0, :-1]
            sums.append((F.cross_entropy(logits, ids[0, 1:], reduction="sum"), ids.shape[1] - 1))
    assert weight == sum(count for _, count in sums)
    torch.testing.assert_close(total, sum(part for part, _ in sums), rtol=1e-5, atol=0)


def test_conversations_are_packed_and_keep_their_marks(context: Context) -> None:
    task = TextGeneration(form="chat", block_size=120)
    talks: list[Row] = [{"messages": TALK[: 4 - number], "row": number} for number in (0, 2, 3)]
    (block,) = task.pack(talks, context.processor)
    assert len(block["documents"]) == 2, "a conversation without an answer is left out"
    batch = batch_of(task, [block], context)
    targets = batch["labels"]["targets"][0]
    assert context.processor.decode(targets[targets >= 0]) == "Ho<|end|>\nA!<|end|>\nHo<|end|>\n"


def test_a_conversation_that_cannot_be_packed_is_named(context: Context) -> None:
    template = "{{ messages | length }}{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    task = TextGeneration(form="chat", template=template)
    talks: list[Row] = [{"messages": TALK[:1], "row": 0}, {"messages": TALK, "row": 1}]
    with pytest.raises(DataError, match="row 1, of those that are kept: the chat template writes turn 2 otherwise"):
        list(task.pack(talks, context.processor))


def test_a_long_document_fills_consecutive_blocks(context: Context) -> None:
    task = TextGeneration(block_size=10)
    found = list(task.pack(rows(["abcdefghijklmnopqrstuvwx"]), context.processor))
    assert [len(block["ids"]) for block in found] == [10, 10, 5]
    whole = [number for block in found for number in block["ids"]]
    assert context.processor.decode(whole) == "abcdefghijklmnopqrstuvwx<|end|>"


def test_without_packing_rows_are_padded_and_cut(context: Context) -> None:
    task = TextGeneration(packing=False, block_size=8)
    assert not task.packs and task.stored_columns() == task.input_columns() == {"text": "text"}
    batch = batch_of(task, rows(TEXTS[:3]), context)
    assert batch["attention_mask"].sum(1).tolist() == [5, 8, 2]
    model = model_of("gpt2").eval()
    with torch.no_grad():
        total, weight = task.loss(forward(model, batch), batch, context)
        parts = []
        for row in rows(TEXTS[:3]):
            one = batch_of(task, [row], context)
            parts.append(task.loss(forward(model, one), one, context))
    assert weight == 12 == sum(part[1] for part in parts)
    with torch.no_grad():
        records = task.records(forward(model, batch), batch, context)
    assert task.metrics(records, context)["unread"] == 13 / 25, "13 of the longest row's letters and its end"
    torch.testing.assert_close(total, sum(part[0] for part in parts), rtol=1e-5, atol=0)


def test_a_batch_in_which_nothing_counts_has_a_loss_of_weight_zero_with_gradients(context: Context) -> None:
    model = model_of("llama")
    batch = batch_of(TextGeneration(form="chat", packing=False), [{"messages": TALK[:1]}], context)
    total, weight = TASK.loss(forward(model, batch), batch, context)
    total.backward()
    assert total == weight == 0


def test_perplexity_is_the_exponential_of_the_mean_over_tokens(context: Context) -> None:
    task = TextGeneration(packing=False)
    model = model_of("llama").eval()
    batch = batch_of(task, rows(TEXTS), context)
    with torch.no_grad():
        output = forward(model, batch)
    total, weight = task.loss(output, batch, context)
    records = task.records(output, batch, context)
    assert [record["tokens"] for record in records] == [len(text.encode()) for text in TEXTS]
    metrics = task.metrics(records, context)
    assert metrics["loss"] == pytest.approx((total / weight).item(), rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    assert metrics["tokens"] == weight
    findings = task.findings(records, context)
    worst = max(record["error"] for record in records)
    assert findings.tables[0].rows[-1] == ("worst", pytest.approx(math.exp(worst)))
    assert findings.curves[0].points[-1] == (pytest.approx(math.exp(worst)), 1.0)


def test_evaluation_rows_without_anything_that_counts_are_refused(context: Context) -> None:
    with pytest.raises(DataError, match=r"data\.eval: no token of the evaluation rows counts"):
        TASK.metrics([{"loss": 0.0, "tokens": 0, "cut": 0, "error": None}], context)


def test_a_perplexity_beyond_floats_stays_a_number(context: Context) -> None:
    assert math.isfinite(TASK.metrics([{"loss": 5e4, "tokens": 1, "cut": 0, "error": 5e4}], context)["perplexity"])


def written(task: TextGeneration, model: Any, some: Sequence[Row], context: Context) -> list[str]:
    batch = batch_of(task, some, context, train=False)
    with torch.inference_mode():
        output = task.predict_forward(lambda _: None, model, batch, context)
    return [answer["generated_text"] for answer in task.answers(output, batch, context)]


@pytest.fixture(params=FAMILIES)
def writer(request: pytest.FixtureRequest) -> tuple[Any, Context]:
    """Return a model of the family, whose tokenizer has a padding token or not."""
    model = model_of(request.param).eval()
    return model, Context(byte_tokenizer(pad=request.param == "llama", template=CHATML), (), model.config)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_prompt_alone_is_answered_as_in_a_batch(writer: tuple[Any, Context], temperature: float) -> None:
    model, context = writer
    task = TextGeneration(max_new_tokens=9, temperature=temperature, top_p=0.9)
    together = written(task, model, rows(TEXTS), context)
    assert together == [written(task, model, [row], context)[0] for row in rows(TEXTS)]
    assert len(set(together)) > 2 and any(together)


def test_the_likeliest_token_is_written_with_the_cache_as_without(writer: tuple[Any, Context]) -> None:
    model, context = writer
    for text, answer in zip(TEXTS, written(TASK, model, rows(TEXTS), context), strict=True):
        ids = list(context.processor(text)["input_ids"])
        start = len(ids)
        while len(ids) < start + 9 and (len(ids) == start or ids[-1] != 0):
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert context.processor.decode(ids[start:], skip_special_tokens=True) == answer


def test_an_answer_ends_where_the_model_says_so(context: Context) -> None:
    model = model_of("llama").eval()
    batch = batch_of(TASK, rows(["ab", "What?"]), context, train=False)
    free = [new for _, new in TASK.predict_forward(lambda _: None, model, batch, context).generated]
    stop = free[0][4]
    model.generation_config.eos_token_id = [258, stop]
    ended = [new for _, new in TASK.predict_forward(lambda _: None, model, batch, context).generated]
    assert stop in free[0][:5] and 0 < len(ended[0]) < len(free[0])
    for there, here in zip(free, ended, strict=True):
        assert here == there[: there.index(stop) if stop in there else None]


def test_an_answer_ends_where_a_turn_of_the_template_does(context: Context) -> None:
    """The template is not the base's own, and the base's settings lack its end of turn."""
    model = model_of("llama").eval()
    task = TextGeneration(form="chat", template=CHATML.replace("<|end|>", "<|turn|>"))
    task.configure(model, Context(byte_tokenizer(), (), model.config))
    assert model.generation_config.eos_token_id == [0, 2]
    other = model_of("llama").eval()
    TextGeneration(form="chat").configure(other, context)
    assert other.generation_config.eos_token_id == 0


def test_what_the_base_says_of_sampling_is_left_aside(context: Context) -> None:
    model = model_of("llama").eval()
    before = written(TASK, model, rows(TEXTS), context)
    model.generation_config.update(do_sample=True, temperature=5.0, max_length=3)
    assert written(TASK, model, rows(TEXTS), context) == before


def test_another_seed_draws_another_answer(context: Context) -> None:
    model = model_of("llama").eval()
    some = [written(TextGeneration(temperature=2.0, seed=seed, max_new_tokens=9), model, rows(TEXTS), context)
            for seed in (0, 0, 1)]  # fmt: skip
    assert some[0] == some[1] != some[2]


def test_a_conversation_is_answered_after_its_last_question(context: Context) -> None:
    task = TextGeneration(form="chat", max_new_tokens=5)
    example = task.encode({"messages": TALK}, context, train=False)
    assert context.processor.decode(example["labels"]["prompt"]) == (
        "<|turn|>user\nHi<|end|>\n<|turn|>assistant\nHo<|end|>\n<|turn|>user\nQ<|end|>\n<|turn|>assistant\n"
    )


def test_a_question_that_a_template_ends_keeps_its_end(context: Context) -> None:
    template = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}"
    example = TextGeneration(form="chat", template=template, max_new_tokens=5).encode(
        {"messages": TALK[:1]}, context, train=False
    )
    assert context.processor.decode(example["labels"]["prompt"]) == "Hi<|end|>"


def test_a_prompt_without_its_completion_can_be_asked(context: Context) -> None:
    task = TextGeneration(form="completion", max_new_tokens=5)
    assert task.target_columns() == {"completion"}
    example = task.encode({"prompt": "2+2 = "}, context, train=False)
    assert context.processor.decode(example["labels"]["prompt"]) == "2+2 = "


def test_a_prompt_that_leaves_no_room_is_refused_and_of_a_text_the_end_is_read(context: Context) -> None:
    long = "x" * (POSITIONS - 8)
    with pytest.raises(DataError, match=rf"row 4: the prompt has 120 tokens; this base reads {POSITIONS - 9} beside"):
        TextGeneration(form="completion", max_new_tokens=9).encode({"prompt": long, "row": 4}, context, train=False)
    known = {"prompt": long, "completion": "a", "row": 4}
    assert TextGeneration(form="completion", max_new_tokens=9).encode(known, context, train=False)
    assert len(TASK.encode({"text": long}, context, train=False)["labels"]["prompt"]) == POSITIONS - 9


def test_a_block_has_no_answer(context: Context) -> None:
    batch = batch_of(TASK, list(TASK.pack(rows(TEXTS), context.processor)), context, train=False)
    with pytest.raises(Unsupported, match="a block of several documents has no answer"):
        TASK.predict_forward(lambda _: None, model_of("llama"), batch, context)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (TASK, {"text": " \n"}, "text is empty"),
        (TextGeneration(form="completion"), {"prompt": "a", "completion": ""}, "completion is empty"),
        (TextGeneration(form="completion"), {"prompt": "", "completion": "a"}, "prompt is empty"),
        (TextGeneration(form="chat"), {"messages": [TALK[1]]}, "only the assistant speaks"),
        (
            TextGeneration(form="chat"),
            {"messages": [{"role": "user", "content": " "}]},
            "all messages of this conversation are empty",
        ),
        (TextGeneration(form="chat"), {"messages": ["Hi"]}, "message 1 is 'Hi'; a message is"),
        (TextGeneration(form="chat"), {"messages": [{"role": "user", "content": 1}]}, "both text"),
    ],
)
def test_a_row_that_does_not_fit_says_why(task: TextGeneration, row: Row, message: str) -> None:
    found = task.check(row)
    assert found is not None and message in found


def test_good_rows_are_accepted() -> None:
    assert TASK.check({"text": "a"}) is None
    assert TextGeneration(form="completion").check({"prompt": "a"}) is None
    assert TextGeneration(form="chat").check({"messages": TALK[:1]}) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"block_size": 200, "max_new_tokens": 9},
            r"task\.block_size: 200 is written; this base reads 2 to 128 tokens",
        ),
        (
            {"max_new_tokens": 128},
            r"task\.max_new_tokens: answers of 128 tokens are wanted; this base reads 128 .*: write at most 127",
        ),
    ],
)
def test_more_tokens_than_the_base_reads_are_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    base = locate(str(tiny_language(tmp_path)))
    with pytest.raises(Unsupported, match=message):
        adapt(
            base, Adaptation(task=TextGeneration(**{"max_new_tokens": 9, **fields}), method=Full(), labels=(), seed=0)
        )


def test_a_tokenizer_that_knows_no_limit_does_not_pass_over_the_bases(tmp_path: Path) -> None:
    base = locate(str(tiny_language(tmp_path)))
    unlimited = byte_tokenizer()
    unlimited.model_max_length = 10**30
    with pytest.raises(Unsupported, match=r"task\.block_size: 512 is written; this base reads 2 to 128 tokens"):
        adapt(
            base,
            Adaptation(task=TextGeneration(max_new_tokens=9), method=Full(), labels=(), seed=0),
            processor=unlimited,
        )


def test_a_tokenizer_that_does_not_say_where_tokens_stand_is_refused(context: Context) -> None:
    slow = SimpleNamespace(is_fast=False, eos_token=None, model_max_length=9)
    with pytest.raises(Unsupported, match="a fast tokenizer is needed"):
        TextGeneration(form="completion").encode(
            {"prompt": "a", "completion": "b"}, Context(slow, (), context.config), train=True
        )
