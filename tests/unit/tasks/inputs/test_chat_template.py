"""Chat templates: the assistant's turns are located to the character, whatever the template."""

from __future__ import annotations

from typing import Any

import pytest

from regraft.errors import DataError, Unsupported
from regraft.tasks.inputs.chat_template import PLAIN, end_token_id, render_prompt, render_turns, template_of
from support.language_models import byte_tokenizer

CHATML = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
MARKED = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}{% else %}{{ message['content'] }}<|end|>"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
THINKING = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ message['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
"""Like Qwen3's: the last answer is written with room for thoughts, earlier ones without."""
STRICT = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ message['content'] }}]{% endfor %}"
)
REWRITTEN = (
    "{{ messages | length }}{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "4?"},
    {"role": "assistant", "content": " yes, 4 "},
]


@pytest.fixture(scope="module")
def processor() -> Any:
    return byte_tokenizer()


def said(template: str, processor: Any, talk: list[dict[str, str]] = TALK) -> list[str]:
    text, spans = render_turns(talk, template, processor)
    return [text[start:end] for start, end in spans]


def test_turns_are_what_is_written_after_the_assistants_opening(processor: Any) -> None:
    assert said(CHATML, processor) == ["4<|end|>\n", " yes, 4 <|end|>\n"]


def test_a_template_that_marks_its_turns_is_believed(processor: Any) -> None:
    assert said(MARKED, processor) == ["4<|end|>", " yes, 4 <|end|>"]


def test_a_template_that_writes_the_last_turn_otherwise_is_understood(processor: Any) -> None:
    assert said(THINKING, processor) == ["4<|end|>\n", "<think></think>yes, 4<|end|>\n"]


def test_the_plain_template_has_a_line_for_each_role(processor: Any) -> None:
    text, _ = render_turns(TALK, PLAIN, processor)
    assert text == (
        "System:\nBe brief.\n\nUser:\n2+2?\n\nAssistant:\n4<|end|>\n\nUser:\n4?\n\nAssistant:\n yes, 4 <|end|>\n\n"
    )
    assert said(PLAIN, processor) == ["4<|end|>", " yes, 4 <|end|>"]


@pytest.mark.parametrize("template", [CHATML, MARKED, PLAIN, THINKING])
def test_what_is_asked_ends_where_the_last_turn_begins(template: str, processor: Any) -> None:
    text, spans = render_turns(TALK, template, processor)
    assert (
        render_prompt(TALK, template, processor)
        == render_prompt(TALK[:-1], template, processor)
        == text[: spans[-1][0]]
    )


def test_an_answer_to_nothing_does_not_count(processor: Any) -> None:
    talk = [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Hi."}]
    assert said(CHATML, processor, talk) == []
    assert said(CHATML, processor, [*talk, {"role": "assistant", "content": "So?"}]) == ["So?<|end|>\n"]


def test_a_conversation_that_the_template_refuses_is_reported_in_its_words(processor: Any) -> None:
    with pytest.raises(DataError, match="refuses this conversation: roles must alternate"):
        said(STRICT, processor)


def test_a_template_that_writes_a_turn_in_no_findable_way_is_refused(processor: Any) -> None:
    with pytest.raises(DataError, match=r"turn 3 otherwise than it would be answered.*task\.template"):
        said(REWRITTEN, processor)


def test_the_token_that_ends_a_turn_is_known(processor: Any) -> None:
    ends = processor.convert_tokens_to_ids(["<|end|>", "<|turn|>"])
    assert [end_token_id(template, processor) for template in (CHATML, MARKED, PLAIN, THINKING)] == [ends[0]] * 4
    assert end_token_id(CHATML.replace("<|end|>", "<|turn|>"), processor) == ends[1]
    assert end_token_id(STRICT, processor) is None and end_token_id("{{ raise_exception('no') }}", processor) is None


def test_a_conversation_of_the_assistant_alone_asks_nothing(processor: Any) -> None:
    with pytest.raises(DataError, match="only the assistant speaks"):
        render_prompt([TALK[2]], CHATML, processor)


def test_a_base_without_a_template_says_what_to_write(processor: Any) -> None:
    with pytest.raises(Unsupported, match=r"task\.template: .*no chat template: write `plain`"):
        template_of(None, processor)
    assert template_of("plain", processor) == PLAIN
    assert template_of(CHATML, processor) == CHATML
    assert template_of(None, byte_tokenizer(template=MARKED)) == MARKED
