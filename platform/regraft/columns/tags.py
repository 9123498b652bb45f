"""`tags`: an IOB2 tag for each word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from regraft.columns.labels import LabelsColumn
from regraft.columns.words import WordsColumn
from regraft.contracts.column import MadeUp, column_of
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.views import EntitiesView, ShownRow, Span

Entity = tuple[int, int, str]
"""First letter, the letter after the last, and type."""
MADE_UP = ("O", "B-thing", "I-thing")


class TagsColumn(LabelsColumn):
    """A list of IOB2 tags, one for each word."""

    drawn: ClassVar[bool] = True
    counted: ClassVar[bool] = False
    joins: ClassVar[bool] = False

    def in_order(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Return O, then the other tags by the alphabet."""
        return tuple(sorted(labels, key=lambda tag: (tag != "O", tag)))

    def doubts(self, labels: Iterable[str]) -> str | None:
        """Return None: a tag may hold a comma."""
        return None

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Recognise lists of O, B-type and I-type."""
        tags = {str(tag) for tags in sample.lists or () for tag in tags}
        if not tags or not all(tag == "O" or tag[:2] in ("B-", "I-") for tag in tags):
            return None
        return Likeness(0.95, f"tags of {len({tag[2:] for tag in tags if tag != 'O'}):,} types")

    def described(self, sample: CellSample) -> tuple[str, str] | None:
        """Return the types, with the number of entities of each in the cells that were seen."""
        begun = [str(tag)[2:] for tags in sample.lists or () for tag in tags if str(tag).startswith("B-")]
        counts = Counter(begun).most_common()
        shown = ", ".join(f"{kind} ({count:,})" for kind, count in counts[:10])
        return ("entities", f"in a sample: {shown}") if counts else None

    def instead(self, values: Mapping[str, Any]) -> str | None:
        """Return the source of texts with spans, where the first row looks like one of them."""
        marked = [name for name, value in values.items() if isinstance(value, list) and all(map(_is_span, value))]
        if marked and any(isinstance(value, str | Mapping) for value in values.values()):
            return f"{marked[0]!r} looks like spans of a text, as annotation tools write them: write data.format: spans"
        return None

    def drawn_on(self, input_name: str, name: str, shown: ShownRow) -> EntitiesView | None:
        """Return the words with the true entities, and again with the predicted ones.

        Entities have character offsets in the words joined by spaces, as answers count them.
        """
        if not isinstance(column_of(shown.kinds[input_name]), WordsColumn):
            return None
        words = shown.row[input_name]
        truth = _entities(words, shown.row[name])
        found = shown.answer.get("entities", ())
        predicted = [(item["start"], item["end"], str(item["entity_group"])) for item in found]
        both = set(truth) & set(predicted)
        text = " ".join(words)
        return EntitiesView(input_name, _spans(text, truth, both), _spans(text, predicted, both))

    def made_up(self, shared: MadeUp) -> list[str]:
        """Return an entity of two words, and no other."""
        outside, first, inner = MADE_UP
        return [first, inner, *[outside] * len(shared.words)][: len(shared.words)]

    def made_up_labels(self) -> tuple[str, ...]:
        """Return the tags of all rows."""
        return MADE_UP


def _is_span(item: object) -> bool:
    """Return whether an item of a list is a span of characters, as annotation tools export them."""
    if isinstance(item, Mapping):
        return bool({"start", "start_offset", "result"} & set(item))
    return isinstance(item, list) and len(item) == 3 and isinstance(item[0], int) and isinstance(item[1], int)


def _entities(words: Sequence[str], tags: Sequence[str]) -> list[Entity]:
    ends, at = [], 0
    for word in words:
        ends.append((at, at + len(word)))
        at += len(word) + 1
    found: list[Entity] = []
    if not any(tag == "O" or tag.startswith(("B-", "I-")) for tag in tags):
        return [(*place, tag) for place, tag in zip(ends, tags, strict=True)]  # tags that mark no spans
    for (start, end), tag in zip(ends, tags, strict=True):
        if tag.startswith("B-"):
            found.append((start, end, tag[2:]))
        elif tag.startswith("I-") and found:
            found[-1] = (found[-1][0], end, found[-1][2])
    return found


def _spans(text: str, entities: Sequence[Entity], both: set[Entity]) -> tuple[Span, ...]:
    spans: list[Span] = []
    at = 0
    for start, end, kind in sorted(entities):
        spans += [(text[at:start], "", True), (text[start:end], kind, (start, end, kind) in both)]
        at = end
    spans.append((text[at:], "", True))
    return tuple(span for span in spans if span[0])
