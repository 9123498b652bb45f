"""A sample of a snapshot's rows, and what it shows: fields of the task, and texts that are cut."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from regraft.contracts import Context, Task, TextLengths
from regraft.data.rows import Rows
from regraft.units import with_article

MOST_ROWS = 1000
"""Rows of a sample; all are read where there are no more."""
MOST_CHARACTERS = 4_000_000
"""Characters of a sample, beyond which it takes no more rows but the first twenty."""
_FEWEST = 20


def fit_to_data(task: Task, train: Rows) -> Task:
    """Return the task with the fields filled in that depend on the training rows."""
    return task.fit_to_rows(train.numbers).fit_to_sample(train.stored(index) for index in sample(train))


def sample(rows: Rows) -> list[int]:
    """Return the indices of a sample of rows, in order: a function of their number and lengths alone."""
    count = len(rows)
    few = count <= MOST_ROWS
    drawn = np.arange(count) if few else np.random.default_rng(0).choice(count, MOST_ROWS, replace=False)
    affordable = np.cumsum(rows.lengths[drawn], dtype=np.int64) <= MOST_CHARACTERS
    affordable[:_FEWEST] = True
    return sorted(drawn[affordable].tolist())


def cut_notes(task: Task, rows: Rows, context: Context, side: str) -> Iterator[str]:
    """Yield a sentence for each text of the rows that is longer than what is read; `side` names the rows."""
    indices = sample(rows)
    for lengths in task.text_lengths([rows.stored(index) for index in indices], context):
        if sentence := _cut_text(lengths, len(rows), side):
            yield sentence


def _cut_text(lengths: TextLengths, rows: int, side: str) -> str:
    """Return how many of the texts are cut, how much of them, and what to do; empty where none is."""
    tokens = np.asarray(lengths.tokens)
    cut = tokens > lengths.limit
    count, seen = int(cut.sum()), len(tokens)
    if not count:
        return ""
    lost = 100 * float((tokens[cut] - lengths.limit).sum() / tokens[cut].sum())
    among = f"{rows:,}" if seen == rows else f"a sample of {seen:,} of {rows:,}"
    who = f"{count:,} of {among} {side} rows"
    if lengths.effect:
        has = "has" if count == 1 else "have"
        return f"{who} {has} {with_article(lengths.what)} of more than {lengths.limit:,} tokens, {lengths.effect}"
    have = "is" if count == 1 else "are"
    if lengths.what:
        what = f"{who} {'has' if count == 1 else 'have'} a {lengths.what} of more than {lengths.limit:,} tokens, "
        what += f"which is cut ({_percent(lost)} of its tokens are not read)"
    else:
        what = f"{who} {have} longer than {lengths.limit:,} tokens and {have} cut "
        what += f"({_percent(lost)} of {'its' if count == 1 else 'their'} tokens are not read)"
    return f"{what}: {_way(lengths)}"


def _way(lengths: TextLengths) -> str:
    if lengths.most is None:
        return f"a larger {lengths.setting} reads more"
    if lengths.limit < lengths.most:
        return f"{lengths.setting} up to {lengths.most:,} reads more"
    return "this base reads no more: write long texts as several rows, or name a base that reads more"


def _percent(share: float) -> str:
    return "less than 1 %" if share < 1 else f"{share:.0f} %"
