"""A question with a long text, cut into windows that overlap, each of which a base reads in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regraft.contracts import Context, Example
from regraft.errors import Unsupported
from regraft.tasks.inputs.tokens import longest_read

USUAL_WINDOW = 384
"""Tokens of a window if the spec does not say them, question included."""
LEAST_TEXT = 2
"""Tokens of the text that a window has at least."""


UNKNOWN = (-1, -1)
"""In place of tokens: a part of the answer is here, and no window of the row holds it whole."""


@dataclass(frozen=True, slots=True)
class WindowSizes:
    """Tokens of a window."""

    window: int
    """Tokens of question, text and those around them."""
    question: int
    """Tokens of the question that are read at most."""
    stride: int
    """Tokens of the text that a window shares with the one before it; at most half of them are."""

    @classmethod
    def read(cls, written: int | None, *, question: int, stride: int, context: Context) -> WindowSizes:
        """Return the sizes for a base: windows of the written length, or less if it reads less.

        Raises Unsupported for a base that reads too few tokens for a question and a text.
        """
        window = written or USUAL_WINDOW
        window = min(window, longest_read(context) or window)
        free = window - int(context.processor.num_special_tokens_to_add(pair=True))
        if free < 2 * LEAST_TEXT:
            raise Unsupported(f"a window of {window} tokens holds no question and text", where="task.max_length")
        return cls(window, min(question, free // 2), stride)


@dataclass(frozen=True, slots=True)
class TextWindow:
    """One window as a base reads it, and the places of its tokens in the text."""

    inputs: Example
    first: int
    """The window's first token of the text."""
    offsets: list[tuple[int, int]]
    """Characters of each token of the text: the first, and the one after the last."""


def refuse_slow(processor: Any) -> None:
    """Raise Unsupported for a tokenizer that does not report where its tokens are."""
    if not getattr(processor, "is_fast", False):
        kind = type(processor).__name__
        raise Unsupported(
            f"{kind} does not report the positions of its tokens: a fast tokenizer is needed", where="base"
        )


def windows_of_text(question: str, text: str, sizes: WindowSizes, processor: Any) -> list[TextWindow]:
    """Return the windows of a text behind a question; every token of the text is in one of them at least."""
    read = read_question(question, sizes, processor)
    around = int(processor.num_special_tokens_to_add(pair=True))
    free = sizes.window - around - len(processor(read, add_special_tokens=False, verbose=False)["input_ids"])
    found = processor(
        read,
        text,
        truncation="only_second",
        max_length=sizes.window,
        stride=min(sizes.stride, free // 2),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    names = [name for name in found if name not in ("offset_mapping", "overflow_to_sample_mapping")]
    windows = []
    for number, offsets in enumerate(found["offset_mapping"]):
        places = [place for place, part in enumerate(found.sequence_ids(number)) if part == 1]
        first, stop = (places[0], places[-1] + 1) if places else (0, 0)
        inputs = {name: list(found[name][number]) for name in names}
        windows.append(TextWindow(inputs, first, [tuple(one) for one in offsets[first:stop]]))
    return windows


def read_question(question: str, sizes: WindowSizes, processor: Any) -> str:
    """Return as much of a question as is read."""
    offsets = processor(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
        "offset_mapping"
    ]
    return question if len(offsets) <= sizes.question else question[: offsets[sizes.question - 1][1]]


def tokens_at(start: int, end: int, offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Return the first and the last token of the characters from `start` to `end`.

    None where a part of them is outside these tokens, or no token holds any of them.
    """
    inside = [place for place, (begin, stop) in enumerate(offsets) if begin < end and stop > start]
    if not inside or start < offsets[0][0] or end > offsets[-1][1]:
        return None
    return inside[0], inside[-1]


def answer_tokens(windows: Sequence[TextWindow], answers: Sequence[tuple[int, int]]) -> list[tuple[int, int] | None]:
    """Return for each window the first and last token, of the text's, of the first answer that is whole in it.

    `answers` are characters of the text: the first, and the one after the last. None where a window holds no answer.
    Where none of the windows holds a whole one, those with a part of one have UNKNOWN.
    """
    tokens = [place for window in windows for place in window.offsets]
    held = [place for answer in answers if (place := _within(answer, tokens))]
    found = [next(filter(None, (tokens_at(*one, window.offsets) for one in held)), None) for window in windows]
    if any(found) or not answers:
        return found
    return [UNKNOWN if not held or _touches(window, held) else None for window in windows]


def _within(answer: tuple[int, int], tokens: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Return the characters of an answer that tokens hold: tokenizers drop accents and what is not visible."""
    start, end = answer
    touching = [(begin, stop) for begin, stop in tokens if begin < end and stop > start]
    if not touching:
        return None
    return max(start, min(begin for begin, _ in touching)), min(end, max(stop for _, stop in touching))


def _touches(window: TextWindow, answers: Sequence[tuple[int, int]]) -> bool:
    return any(begin < end and stop > start for begin, stop in window.offsets for start, end in answers)


def least_shared(sizes: WindowSizes, processor: Any) -> int:
    """Return the tokens that two windows share at least, which is where the question is the longest that is read."""
    free = sizes.window - int(processor.num_special_tokens_to_add(pair=True)) - sizes.question
    return min(sizes.stride, free // 2)
