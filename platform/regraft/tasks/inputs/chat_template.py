"""Conversations as one text, with the assistant's turns marked in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from regraft.errors import DataError, Unsupported
from regraft.tasks.inputs.template_bounds import TemplateTooCostly, bounded, bounded_template, limited, plain_messages

ASSISTANT = "assistant"
PLAIN = (
    "{% for message in messages %}{{ message['role'] | capitalize + ':\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token | default('', true) }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
"""A chat template for bases without one: the role on a line of its own, then the content; answers end with the
end-of-sequence token."""
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


class CostlyConversation(DataError):
    """A conversation whose template takes more than a template may."""


Messages = Sequence[Mapping[str, str]]
Span = tuple[int, int]


def template_of(written: str | None, processor: Any) -> str:
    """Return the template that a task writes (`plain`, or Jinja), else the tokenizer's own.

    Raises Unsupported where neither exists.
    """
    if written is not None:
        return PLAIN if written == "plain" else written
    try:
        own = processor.get_chat_template()
    except ValueError:
        raise Unsupported(
            "this base's tokenizer has no chat template: write `plain` for a simple one, or a Jinja template",
            where="task.template",
        ) from None
    return str(own)


def render_turns(messages: Messages, template: str, processor: Any) -> tuple[str, list[Span]]:
    """Return a conversation as text, and the spans (start, end) of the assistant's turns in it, in characters.

    Spans are those of `{% generation %}` where the template has it. Otherwise a turn is what rendering the messages
    up to and including it adds to the rendering before it, which ends with the assistant's opening. Raises DataError
    where the template does not render turns that way.
    """
    text, marked = _rendered(messages, template, processor)
    if _MARKED.search(template):
        return text, marked
    # A first turn of the assistant answers nothing, and many templates cannot render what came before it.
    turns = [number for number, message in enumerate(messages) if number and message["role"] == ASSISTANT]
    return text, [_turn_span(messages, number, text, template, processor=processor) for number in turns]


def render_prompt(messages: Messages, template: str, processor: Any) -> str:
    """Return the text after which the assistant answers: the conversation without its own last turns.

    Raises DataError where only the assistant speaks.
    """
    last = max((number for number, message in enumerate(messages, 1) if message["role"] != ASSISTANT), default=0)
    if not last:
        raise DataError("only the assistant speaks in this conversation: there is nothing to answer")
    return _rendered(messages[:last], template, processor, prompt=True)[0]


def end_token_id(template: str, processor: Any) -> int | None:
    """Return the special token that ends an answer, such as ChatML's `<|im_end|>`; None where no such token does.

    A base's own settings may lack it: the template may be another model's. Raises Unsupported for a template that
    takes too much for a conversation of two words.
    """
    talk = [{"role": "user", "content": "?"}, {"role": ASSISTANT, "content": "!"}]
    try:
        text, _ = _rendered(talk, template, processor)
    except CostlyConversation as error:
        raise Unsupported(error.message, where="task.template") from None
    except DataError:
        return None
    ids = processor(text.rpartition("!")[2].strip(), add_special_tokens=False)["input_ids"]
    added = processor.added_tokens_decoder.get(ids[0]) if ids else None
    return int(ids[0]) if added is not None and added.special else None


def _turn_span(messages: Messages, number: int, text: str, template: str, *, processor: Any) -> Span:
    """Return where turn `number` is in the conversation's `text`, for templates without `{% generation %}`."""
    before, _ = _rendered(messages[:number], template, processor, prompt=True)
    through, _ = _rendered(messages[: number + 1], template, processor)
    if text.startswith(through) and through.startswith(before):
        return len(before), len(through)
    # Some templates render the last turn otherwise than earlier ones (with its thoughts, or room for them): then a turn
    # is its content, between the assistant's opening and what follows a last turn.
    content = messages[number]["content"].strip()
    rest = text.removeprefix(before)
    turn = rest[: len(rest) - len(rest.lstrip())] + content + through.rpartition(content)[2]
    if content and text.startswith(before) and rest.startswith(turn):
        return len(before), len(before) + len(turn)
    raise DataError(
        f"the chat template writes turn {number + 1} otherwise than it would be answered: write a task.template with "
        "{% generation %} around what the assistant says, or leave the row out"
    )


def _rendered(messages: Messages, template: str, processor: Any, *, prompt: bool = False) -> tuple[str, list[Span]]:
    options = {"add_generation_prompt": prompt, "tools": None, "documents": None, **processor.special_tokens_map}
    blocks: list[str] = []
    spans: list[Span] = []
    try:
        with bounded():
            compiled = _compiled(template)
            pieces = compiled.generate(messages=plain_messages(messages), **options)
            if _MARKED.search(template) is None:
                return "".join(limited(pieces, blocks)), []
            with compiled.environment.activate_tracker(blocks, spans):
                return "".join(limited(pieces, blocks)), spans
    except TemplateTooCostly as error:
        raise CostlyConversation(f"the chat template is stopped: {error}") from None
    except Exception as error:  # expressions of a template raise every kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"the chat template refuses this conversation: {reason:.500}") from None


@lru_cache(maxsize=64)
def _compiled(template: str) -> Any:
    """Compile a template once, within the bounds."""
    return bounded_template(template)
