"""`answer-spans`: answers that are pieces of a text, each with the place where it begins."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from regraft.contracts.column import BadCell, Column, MadeUp, absent, column_of, quoted
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.views import AnswerView, EntitiesView, ShownRow, Span, short_text

UNPLACED = -1
"""The place of an answer whose file does not say where it begins; tasks look for negative places."""
NO_ANSWER = "no answer"
_TEXTS = ("text", "texts", "answer")
_STARTS = ("answer_start", "start", "answer_starts", "starts")
_LONGEST_LITERAL = 1 << 20
_AROUND = 240
"""Characters of a long text that a report shows on each side of an answer."""

Place = tuple[int, int]
"""The first character of an answer, and the one after its last."""


class AnswerSpansColumn(Column):
    """A list of {text, start}, any of which is right: SQuAD's `answers`. An empty list says that there is no answer."""

    arrow: ClassVar[pa.DataType] = pa.list_(pa.struct([("text", pa.string()), ("start", pa.int64())]))
    target: ClassVar[bool] = True
    joins: ClassVar[bool] = True
    drawn: ClassVar[bool] = True

    def read_cell(self, cell: object, folder: str) -> list[dict[str, Any]]:
        """Return the answers of {text: [...], answer_start: [...]}, of a list of {text, answer_start}, or of texts.

        A CSV cell holds these as JSON, or one text; an empty one is no answer. Texts without a place are placed by the
        task where they occur once.
        """
        if isinstance(cell, str):
            cell = _read_text(cell)
        if isinstance(cell, Mapping):
            cell = list(_of_lists(cell))
        if not isinstance(cell, list | tuple):
            raise BadCell.unfit(cell, "a list of answers, {text, answer_start}")
        answers = [_one_answer(item) for item in cell]
        return [answer for number, answer in enumerate(answers) if answer["text"] and answer not in answers[:number]]

    def join(self, cells: Mapping[str, object], folder: str) -> list[dict[str, Any]]:
        """Return the answers of several columns: texts, and in columns whose names end in `start` their places."""
        texts: list[object] = []
        starts: list[object] = []
        for name, cell in cells.items():
            if name.rpartition(".")[2].lower().endswith("start"):
                starts.append(cell)
            elif isinstance(cell, str) or absent(cell):
                texts.append("" if absent(cell) else cell)
            else:
                raise BadCell(f"{name}: {BadCell.unfit(cell, 'text')}")
        if starts and len(starts) != len(texts):
            raise BadCell(f"{', '.join(cells)}: there are {len(texts)} texts and {len(starts)} places")
        pairs = zip(texts, starts or [None] * len(texts), strict=True)
        return self.read_cell([{"text": text, "start": start} for text, start in pairs if text], folder)

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Recognise answers with their places; texts alone are shown by their name only."""
        found = 0
        for cell in sample.cells:
            try:
                answers = self.read_cell(cell, sample.folder)
            except BadCell:
                return None
            if any(answer["start"] == UNPLACED for answer in answers):
                return None
            found += bool(answers)
        if not found:
            return None
        return Likeness(0.95, f"answers with their places, in {found:,} of {len(sample.cells):,} rows")

    def drawn_on(self, input_name: str, name: str, shown: ShownRow) -> EntitiesView | None:
        """Return the parts of the text around true and predicted answers, with these marked."""
        texts = [other for other, kind in shown.kinds.items() if other not in shown.targets and _is_text(kind)]
        if not texts or input_name != texts[-1]:
            return None
        text, answer = str(shown.row[input_name]), shown.answer
        truth = _apart((one["start"], one["start"] + len(one["text"])) for one in shown.row[name])
        predicted = [(int(answer["start"]), int(answer["end"]))] if answer.get("answer") else []
        right = {place for place in predicted if text[slice(*place)] in [one["text"] for one in shown.row[name]]}
        return EntitiesView(
            input_name,
            tuple(_marked_pieces(text, truth, right)) or ((NO_ANSWER, "", True),),
            tuple(_marked_pieces(text, predicted, right)) or ((NO_ANSWER, "", True),),
        )

    def answer_view(self, shown: ShownRow) -> AnswerView:
        """Return the texts of the true answers and of the predicted one."""
        name = shown.targets[0]
        truth = tuple(short_text(one["text"]) for one in shown.row[name]) or (NO_ANSWER,)
        return AnswerView(name, truth, (short_text(shown.answer.get("answer") or NO_ANSWER),), prose=True)

    def made_up(self, shared: MadeUp) -> list[dict[str, Any]]:
        """Return no answer: a made-up text is not known here."""
        return []


def _is_text(kind: str) -> bool:
    return column_of(kind).arrow == pa.string() and column_of(kind).bare


def _read_text(cell: str) -> object:
    """Return a cell of text as JSON or as a literal of Python, where it is one; else the text as the only answer."""
    text = cell.strip()
    if text[:1] in ("{", "[") and len(text) <= _LONGEST_LITERAL:
        for parse in (json.loads, ast.literal_eval):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = parse(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(found, dict | list):
                return found
    return [cell] if text else []


def _of_lists(cell: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the answers of {text: [...], answer_start: [...]}, or of one answer."""
    texts = next((cell[name] for name in _TEXTS if name in cell), None)
    starts = next((cell[name] for name in _STARTS if name in cell), None)
    if texts is None:
        raise BadCell(f"is {quoted(dict(cell))}; {{text: [...], answer_start: [...]}} is wanted")
    texts = [texts] if isinstance(texts, str) else texts
    starts = [starts] * len(texts) if starts is None or not isinstance(starts, list | tuple) else starts
    if not isinstance(texts, list | tuple) or len(texts) != len(starts):
        raise BadCell(f"is {quoted(dict(cell))}; as many places as texts are wanted")
    yield from ({"text": text, "start": start} for text, start in zip(texts, starts, strict=True))


def _one_answer(item: object) -> dict[str, Any]:
    if isinstance(item, str):
        return {"text": item, "start": UNPLACED}
    text = next((item[name] for name in _TEXTS if name in item), None) if isinstance(item, Mapping) else None
    if not isinstance(item, Mapping) or not isinstance(text, str):
        raise BadCell(f"holds {quoted(item)}; an answer is {{text, answer_start}}")
    return {"text": text, "start": _start(next((item[name] for name in _STARTS if name in item), None))}


def _start(written: object) -> int:
    """Return where an answer begins, as a number of characters."""
    if absent(written) or written == "":
        return UNPLACED
    number = written
    if isinstance(number, str) and number.strip().removesuffix(".0").isdecimal() and len(number) < 20:
        number = int(number.strip().removesuffix(".0"))
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or number < UNPLACED or number >= 1 << 62:
        raise BadCell(f"begins at {quoted(written)}; the number of the answer's first character is wanted, from 0 on")
    return number


def _apart(places: Iterator[Place]) -> list[Place]:
    """Return places in order, without those that overlap an earlier one."""
    found: list[Place] = []
    for place in sorted(set(places)):
        if not found or place[0] >= found[-1][1]:
            found.append(place)
    return found


def _marked_pieces(text: str, marked: Sequence[Place], right: set[Place]) -> Iterator[Span]:
    """Yield the pieces of a text around the places that are marked; what lies further away is left out."""
    at = 0
    for start, end in marked:
        yield from _between(text, at, start, first=not at)
        yield text[start:end], "answer", (start, end) in right
        at = end
    if marked:
        rest = text[at:]
        yield (rest if len(rest) <= _AROUND else f"{rest[:_AROUND]} …"), "", True


def _between(text: str, at: int, start: int, *, first: bool) -> Iterator[Span]:
    """Yield the text before a mark, shortened where it is long."""
    if first and start > _AROUND:
        yield f"… {text[start - _AROUND : start]}", "", True
    elif not first and start - at > 2 * _AROUND:
        yield f"{text[at : at + _AROUND]} … {text[start - _AROUND : start]}", "", True
    else:
        yield text[at:start], "", True
