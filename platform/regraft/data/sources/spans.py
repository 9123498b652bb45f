"""Source of texts with marked spans of characters, as annotation tools export them for named entities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from regraft.contracts import Raw, Source
from regraft.data.sources.jsonl import Jsonl
from regraft.tasks.inputs.tag_schemes import OUTSIDE
from regraft.tasks.inputs.word_cut import Span, WordRule

_SPANS = ("label", "labels", "entities", "spans", "annotations")
_LABELS = ("label", "labels", "tag", "type")
_STARTS = ("start", "start_offset", "begin")
_ENDS = ("end", "end_offset")
_SHOWN = 30


class Spans(Source):
    """Texts with spans of characters, one JSON object a row: exports of doccano, Label Studio and Prodigy.

    Name it in `data.format` for files of other endings, such as .jsonl. A row has a text and a list of spans:
    `[start, end, type]`, or objects with start, end and label. Spans become `tokens` and `tags` (IOB2): words are cut
    around punctuation and at the ends of spans, so that no span is lost. Spans that overlap, or that end outside the
    text, make a bad row.
    """

    suffixes = (".spans",)
    text: str = "text"
    """The field with the text; of a row of Label Studio, a field of its `data`."""
    spans: str | None = None
    """The field with the spans; null: the one of label, labels, entities, spans and annotations that has any."""

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by their place in the file; rows that were not annotated are passed over."""
        for raw in Jsonl().read(path):
            yield raw if raw.problem or raw.ignored else self._row(raw)

    def _row(self, raw: Raw) -> Raw:
        if (answer := raw.values.get("answer")) in ("reject", "ignore"):
            return Raw({}, raw.where, ignored=f"rows with the answer {answer}")
        try:
            found = self._text_and_spans(raw.values)
            if found is None:
                return Raw({}, raw.where, ignored="rows without an annotation")
            text, spans = found
            words = _words(text, spans, raw.values.get("tokens"))
            tags = _tags(words, spans)
        except ValueError as error:
            return Raw({}, raw.where, str(error))
        tokens = [text[start:end] for start, end in words]
        return Raw({**raw.values, "tokens": tokens, "tags": tags}, raw.where)

    def _text_and_spans(self, values: Mapping[str, Any]) -> tuple[str, list[tuple[int, int, str]]] | None:
        """Return a row's text, and its spans in order; None for a row that was not annotated."""
        inner = values.get("data")
        text = inner.get(self.text) if isinstance(inner, Mapping) else values.get(self.text)
        if not isinstance(text, str):
            has = inner if isinstance(inner, Mapping) else values
            raise ValueError(
                f"has no text {self.text!r}; it has {', '.join(map(repr, list(has)[:20]))}: write data.format: "
                "{type: spans, text: ...}"
            )
        if isinstance(inner, Mapping):
            written = _of_label_studio(values)
            if written is None:
                return None
        else:
            written = self._written(values)
        spans = [_span(item, number, text) for number, item in enumerate(written, 1)]
        _refuse_overlaps(sorted(spans), text)
        return text, sorted(spans)

    def _written(self, values: Mapping[str, Any]) -> Sequence[Any]:
        names = _SPANS if self.spans is None else (self.spans,)
        lists = [name for name in names if isinstance(values.get(name), list)]
        if not lists:
            raise ValueError(
                f"has no list of spans ({', '.join(names)}); it has {', '.join(map(repr, list(values)[:20]))}: write "
                "data.format: {type: spans, spans: ...}"
            )
        full = [name for name in lists if values[name]]
        if len(full) > 1:
            ways = ", or ".join(f"data.format: {{type: spans, spans: {name}}}" for name in full)
            raise ValueError(f"has several lists that may be its spans ({', '.join(full)}): write {ways}")
        found: Sequence[Any] = values[(full or lists)[0]]
        return found


def _of_label_studio(values: Mapping[str, Any]) -> Sequence[Any] | None:
    """Return the spans of the only annotation of a task of Label Studio; None where it has none."""
    annotations = values.get("annotations", values.get("completions")) or []
    if not isinstance(annotations, list):
        raise ValueError(f"annotations is {annotations!r:.60}; a list is wanted, as Label Studio exports it")
    done = [item for item in annotations if isinstance(item, Mapping) and not item.get("was_cancelled")]
    results = [
        [
            item["value"]
            for item in _items_of(one.get("result"))
            if isinstance(item, Mapping) and isinstance(item.get("value"), Mapping) and "start" in item["value"]
        ]
        for one in done
    ]
    if any(result != results[0] for result in results[1:]):
        raise ValueError(f"has {len(results)} annotations that differ: keep one of them")
    return results[0] if results else None


def _items_of(written: object) -> Sequence[Any]:
    return written if isinstance(written, list) else ()


def _span(item: Any, number: int, text: str) -> tuple[int, int, str]:
    """Return start, end and type of a span, without blanks at its ends."""
    if isinstance(item, Mapping):
        start, end, label = (
            next((item[key] for key in keys if key in item), None) for keys in (_STARTS, _ENDS, _LABELS)
        )
    elif isinstance(item, list) and len(item) == 3:
        start, end, label = item
    else:
        raise ValueError(
            f"span {number} is {item!r}; allowed is [start, end, type], or an object with start, end, label"
        )
    if isinstance(label, list):
        if len(label) != 1:
            raise ValueError(f"span {number} has {len(label)} types: one is allowed")
        label = label[0]
    if not all(isinstance(at, int) and not isinstance(at, bool) for at in (start, end)) or label in (None, ""):
        raise ValueError(f"span {number} is {item!r}: start and end are whole numbers, and it has a type")
    start, end = _checked(start, end, item, number, text=text)
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if start == end:
        raise ValueError(f"span {number} ({item!r}) holds no character: remove it, or mark a word")
    return start, end, str(label)


def _checked(start: Any, end: Any, item: Any, number: int, *, text: str) -> Span:
    """Return a span's ends, counted in characters. Raises ValueError where they do not fit the text.

    Programs in JavaScript count a character beyond 16 bits, such as an emoji, as two.
    """
    written = item.get("text") if isinstance(item, Mapping) else None
    if isinstance(written, str) and text[start:end] != written:
        units = text.encode("utf-16-le")
        if units[2 * start : 2 * end].decode("utf-16-le", errors="replace") == written:
            first = len(units[: 2 * start].decode("utf-16-le", errors="replace"))
            return first, first + len(written)
        raise ValueError(
            f"span {number} is {written[:_SHOWN]!r} by its text and {text[start:end][:_SHOWN]!r} by its characters "
            f"{start} to {end}: correct it"
        )
    if not 0 <= start < end <= len(text):
        raise ValueError(f"span {number} is of characters {start} to {end}; the text has {len(text)}")
    return start, end


def _refuse_overlaps(spans: Sequence[tuple[int, int, str]], text: str) -> None:
    for (start, end, label), (other_start, other_end, other) in pairwise(spans):
        if other_start < end:
            raise ValueError(
                f"the spans {text[start:end][:_SHOWN]!r} ({label}) and {text[other_start:other_end][:_SHOWN]!r} "
                f"({other}) overlap, and a word has one tag: keep one of them"
            )


def _words(text: str, spans: Sequence[tuple[int, int, str]], given: Any) -> list[Span]:
    """Return the words of a text, cut at the ends of spans; `given` are the tokens of a row of Prodigy."""
    words = WordRule().spans(text)
    if (
        isinstance(given, list)
        and given
        and all(isinstance(item, Mapping) and {"start", "end"} & set(item) for item in given)
    ):
        words = _given_words(text, spans, given)
    borders = sorted({at for start, end, _ in spans for at in (start, end)})
    return [part for word in words for part in _divided(word, borders)]


def _given_words(text: str, spans: Sequence[tuple[int, int, str]], given: Sequence[Mapping[str, Any]]) -> list[Span]:
    """Return the places of a row's own tokens. Raises ValueError where they are wrong, or lose a part of a span."""
    words: list[Span] = []
    for number, item in enumerate(given, 1):
        start: Any = item.get("start")
        end: Any = item.get("end")
        if not all(isinstance(at, int) and not isinstance(at, bool) for at in (start, end)):
            raise ValueError(f"token {number} is {item!r:.80}: start and end are whole numbers")
        if not (words[-1][1] if words else 0) <= start <= end <= len(text):
            raise ValueError(
                f"token {number} is of characters {start} to {end}: tokens follow one another within the text, which "
                f"has {len(text)}: leave out `tokens`, or correct them"
            )
        words.append((start, end))
    covered = {at for start, end in words for at in range(start, end)}
    for start, end, label in spans:
        if any(at not in covered and not text[at].isspace() for at in range(start, end)):
            raise ValueError(
                f"its tokens do not cover every span, as {text[start:end][:_SHOWN]!r} ({label}): leave out `tokens`, "
                "or correct them"
            )
    return [(start, end) for start, end in words if text[start:end].strip()]


def _divided(word: Span, borders: Sequence[int]) -> list[Span]:
    inside = [at for at in borders if word[0] < at < word[1]]
    return list(pairwise([word[0], *inside, word[1]]))


def _tags(words: Sequence[Span], spans: Sequence[tuple[int, int, str]]) -> list[str]:
    """Return the IOB2 tag of each word, which is inside of a span or outside of all."""
    tags, waiting, begun = [], list(spans), False
    for start, end in words:
        while waiting and waiting[0][1] <= start:
            waiting.pop(0)
            begun = False
        inside = bool(waiting) and waiting[0][0] <= start and end <= waiting[0][1]
        tags.append(f"{'I' if begun else 'B'}-{waiting[0][2]}" if inside else OUTSIDE)
        begun = inside
    return tags
