"""The most probable piece of a text as an answer, of all pieces in all of its windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SpanScores:
    """What a model says of one window: log-probabilities of where the answer begins and ends."""

    offsets: NDArray[np.int64]
    """Characters of each token of the text, (tokens, 2)."""
    starts: Numbers
    """(tokens,)"""
    ends: Numbers
    """(tokens,)"""
    nothing: float
    """That the window holds no answer."""


@dataclass(frozen=True, slots=True)
class AnswerSpan:
    """The best answer to one question."""

    start: int
    end: int
    """Characters of the best piece of the text."""
    score: float
    """Its probability among all pieces, and no answer where that is allowed."""
    nothing: float
    """The probability of no answer; 0 where one is always given."""
    odds: float
    """By how much the log-probability of no answer is above that of the best piece."""


def log_probabilities(logits: Tensor, allowed: Tensor) -> Tensor:
    """Return log-probabilities (windows, tokens), in fp32 at least, of the tokens that are allowed; others get -inf."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.masked_fill(~allowed, float("-inf")).log_softmax(-1)


def best_span(windows: Sequence[SpanScores], most: int, *, may_be_none: bool) -> AnswerSpan:
    """Return the piece of at most `most` tokens that is the most probable, of those in all windows.

    A window's log-probability of a piece is the sum of those of its first and last token. A piece that is in several
    windows has the sum of its probabilities. No answer is as probable as in the window that holds it for the least
    probable: others may end before the answer. Probabilities are shares of the sum of all of these.
    """
    nothing = min(window.nothing for window in windows)
    places, pieces = _pieces(windows, most)
    base = [nothing] if may_be_none else []
    if not pieces.size or not np.isfinite(pieces.max()):
        return AnswerSpan(0, 0, float(not may_be_none), float(may_be_none), float("inf"))
    total = _log_sum(np.concatenate([pieces.ravel(), base]))
    first, length = np.unravel_index(int(pieces.argmax()), pieces.shape)
    best = float(pieces[first, length])
    return AnswerSpan(
        start=int(places[first, 0]),
        end=int(places[first + length, 1]),
        score=float(np.exp(best - total)),
        nothing=float(np.exp(nothing - total)) if may_be_none else 0.0,
        odds=nothing - best,
    )


def _pieces(windows: Sequence[SpanScores], most: int) -> tuple[NDArray[np.int64], Numbers]:
    """Return the distinct places of tokens in order, and log-probabilities of pieces by first token and length."""
    every = np.concatenate([window.offsets for window in windows])
    places, order = np.unique(every, axis=0, return_inverse=True) if len(every) else (every, every[:, 0])
    order = order.reshape(-1)
    found = np.full((len(places), min(most, max(1, len(places)))), -np.inf)
    begin = 0
    for window in windows:
        own = order[begin : begin + len(window.offsets)]
        begin += len(window.offsets)
        for length in range(min(most, len(own))):
            firsts, lasts = own[: len(own) - length], own[length:]
            values = window.starts[: len(own) - length] + window.ends[length:]
            kept = (lasts >= firsts) & (lasts - firsts < found.shape[1])
            np.logaddexp.at(found, (firsts[kept], lasts[kept] - firsts[kept]), values[kept])
    return places, found


def _log_sum(values: Any) -> float:
    largest = float(np.max(values))
    return largest + float(np.log(np.exp(values - largest).sum()))


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the place of a piece without blanks around it: tokens of some bases hold the blank before a word."""
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, max(start, start + len(piece.strip()))
