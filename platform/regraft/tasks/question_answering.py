"""Extractive question answering: the answer is a piece of the row's text, or there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from regraft.contracts import (
    Answer,
    ApiForm,
    BadCell,
    Batch,
    Context,
    Example,
    Kind,
    Loader,
    Numbers,
    Record,
    Row,
    Score,
    Task,
    TextLengths,
    all_windows,
    answer_form,
    by_row,
    windowed,
    windows_of,
)
from regraft.contracts.findings import Findings
from regraft.errors import Unsupported
from regraft.tasks.inputs.context_windows import (
    UNKNOWN,
    TextWindow,
    WindowSizes,
    answer_tokens,
    least_shared,
    refuse_slow,
    windows_of_text,
)
from regraft.tasks.inputs.text import without_unread_types
from regraft.tasks.inputs.tokens import lengths_of, padded, refuse_length, refuse_unknown_ids
from regraft.tasks.metrics.answers import answer_findings, exact_match, first_word, overlap_f1
from regraft.tasks.outputs.answer_span import AnswerSpan, SpanScores, best_span, log_probabilities, trimmed

NOT_APART = frozenset({"t5", "mt5", "umt5"})
"""Families whose class for this task is not made of the bare base and a layer."""
IN_NO_WINDOW = "which no window holds whole: nothing is learnt where a part of it is; raise task.stride"
SHOWN = 60
"""Characters of a text that a message quotes."""


class QuestionAnswering(Task):
    """Extractive question answering (Rajpurkar et al., 2016): an answer is a piece of a text, with its place in it.

    Long texts are read in windows that overlap, and the answer is the most probable piece of all windows. A row's
    `answers` are {text, answer_start}, as SQuAD has them: the answer is that text, at that character of the context.
    Where training rows have questions without an answer, so may answers be empty. Rows on one text belong together:
    `data.group: context` keeps them on one side of a split.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {"qa", "extractive-question-answering", "extractive-qa", "reading-comprehension"}
    )
    auto: ClassVar[str] = "AutoModelForQuestionAnswering"
    modality: ClassVar[str] = "text"
    score: ClassVar[Score] = Score("f1", "max")
    columns: ClassVar[Mapping[str, Kind]] = {"question": "text", "context": "text", "answers": "answer-spans"}
    supports: ClassVar[frozenset[str]] = frozenset({"bucketing"})
    answer_fields: ClassVar[frozenset[str]] = frozenset({"max_answer_length", "no_answer", "null_threshold"})
    export_code: ClassVar[str] = """import torch

question, context = EXAMPLES
inputs = processor(question, context, truncation="only_second", return_tensors="pt")
with torch.inference_mode():
    output = model(**inputs)  # of a text that is longer than one window, ask each window
text = torch.tensor([part == 1 for part in inputs.sequence_ids(0)])
scores = output.start_logits[0][:, None] + output.end_logits[0]
# An answer is in the text, and does not end before it starts.
scores = scores.masked_fill(~(text[:, None] & text).triu(), float("-inf"))
start, end = divmod(int(scores.argmax()), len(text))
print("answer:", processor.decode(inputs["input_ids"][0, start : end + 1]))
"""

    max_length: int | None = Field(None, ge=8)
    """Tokens of a window, question included; null is what the base can read, at most 384."""
    max_question_length: int = Field(64, ge=2)
    """Tokens of a question that are read; of a small window, at most half."""
    stride: int = Field(128, ge=0)
    """Tokens of the text that a window shares with the one before it; of a small window, at most half."""
    max_answer_length: int = Field(30, ge=1)
    """Tokens of an answer at most."""
    no_answer: bool | None = None
    """Whether answers may be empty; null: whether a training row has none."""
    null_threshold: float = 0.0
    """An answer is empty where the log-probability of no answer is above that of the best piece by more than this. It
    is fixed, and not chosen by evaluation rows, whose metrics would then look better than they are; the page of an
    evaluation shows others."""

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base with a layer that scores each token as the first and the last of the answer.

        Raises Unsupported where the base cannot read max_length tokens, or is not apart from that layer.
        """
        refuse_length(self.max_length, load.config)
        if load.config.model_type in NOT_APART:
            message = (
                f"a {load.config.model_type} for this task keeps no base apart from its own layer: name an encoder"
            )
            raise Unsupported(f"{message}, such as BERT, RoBERTa or DeBERTa", where="base")
        return load(self.auto, num_labels=2)

    def configure(self, model: nn.Module, context: Context) -> None:
        """Raise Unsupported for a slow tokenizer, and for a base that reads too few tokens for a question."""
        refuse_slow(context.processor)
        self._sizes(context)

    def fit_to_rows(self, numbers: Numbers) -> Self:
        """Return the task with `no_answer` as the training rows have it, unless it is written."""
        if self.no_answer is not None:
            return self
        return self.model_copy(update={"no_answer": bool((numbers("answers") == 0).any())})

    def convert(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with the places of answers that have none. BadCell for one that does not occur just once."""
        if all(answer["start"] >= 0 for answer in row["answers"]):
            return row
        return {**row, "answers": [_placed(answer, row["context"]) for answer in row["answers"]]}

    def check(self, row: Row) -> str | None:
        """Refuse a row without a question or a text, and one whose answer is not at its place in the text."""
        if empty := next((name for name in ("question", "context") if not row[name].strip()), None):
            return f"{empty} is empty: write one, or leave the row out"
        wrong = (_misplaced(answer, row["context"]) for answer in row.get("answers") or ())
        return next(filter(None, wrong), None)

    def text_lengths(self, rows: Sequence[Row], context: Context) -> Sequence[TextLengths]:
        """Return the tokens of each question, and of answers that are too long; texts are read to their end."""
        limit, setting = self._sizes(context).question, "task.max_question_length"
        around = int(context.processor.num_special_tokens_to_add(pair=False))
        texts = [[row["question"]] for row in rows]
        questions = lengths_of(texts, limit + around, context, what="question", setting=setting)
        return [questions, *self._answer_lengths(rows, context, around)]

    def length(self, row: Row) -> int:
        """Return the number of characters of question and text."""
        return len(row["question"]) + len(row["context"])

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return token ids as lists of int, and `labels`, a dict, for each window.

        `labels` holds `question` and `context`; `none`, the token of no answer; `first`, the first token of the text;
        `offsets` (tokens, 2), the characters of its tokens; and where the row has answers, their texts `answers`, and
        `targets`, the first and last token of the first answer, or `none` twice. A window that holds a part of an
        answer that no window holds whole has targets below 0, and counts for no loss.
        """
        refuse_slow(context.processor)
        windows = windows_of_text(row["question"], row["context"], self._sizes(context), context.processor)
        places = answer_tokens(windows, _characters(row))
        return windowed(
            [self._window(window, row, context, place=place) for window, place in zip(windows, places, strict=True)]
        )

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return tensors (windows, tokens), padded on the right, and `labels`: for each row, a list of its windows'."""
        windows = all_windows(examples)
        batch = padded(windows, context)
        if not all("labels" in window for window in windows):
            return batch
        counts = [len(windows_of(example)) for example in examples]
        return {**batch, "labels": by_row([window["labels"] for window in windows], counts)}

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the cross entropy of first and last token, half each, summed over windows, and their number."""
        losses, known = _window_losses(output, batch)
        return losses.sum(), known.sum().to(losses.dtype)

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return per row F1 and `correct` (exact match), those with and without an answer, the loss and its windows."""
        counts = [len(windows) for windows in batch["labels"]]
        values, known = (found.tolist() for found in _window_losses(output, batch))
        losses = by_row(list(zip(values, known, strict=True)), counts)
        found = self._found(output, batch)
        return [
            self._record(windows[0], span, [value for value, counts in loss if counts], len(windows))
            for windows, span, loss in zip(batch["labels"], found, losses, strict=True)
        ]

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return F1 and exact match by SQuAD's rules, as shares, and the mean loss over windows."""
        return {
            "f1": sum(record["f1"] for record in records) / len(records),
            "exact_match": sum(record["correct"] for record in records) / len(records),
            "loss": sum(record["loss"] for record in records) / max(sum(record["counted"] for record in records), 1),
        }

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """Return scores of kinds of questions and lengths of texts, and F1 over thresholds for no answer."""
        return answer_findings(records)

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return `answer`, its probability `score`, and `start` and `end`, its characters in the text.

        No answer is an empty text from 0 to 0.
        """
        found = []
        for windows, span in zip(batch["labels"], self._found(output, batch), strict=True):
            text, start, end = self._answer(windows[0]["context"], span)
            score = span.score if text or not self.no_answer else span.nothing
            found.append({"answer": text, "score": score, "start": start, "end": end})
        return found

    def api_form(self) -> ApiForm:
        """Return the form of an answer with its place."""
        return answer_form()

    def _sizes(self, context: Context) -> WindowSizes:
        return WindowSizes.read(self.max_length, question=self.max_question_length, stride=self.stride, context=context)

    def _answer_lengths(self, rows: Sequence[Row], context: Context, around: int) -> list[TextLengths]:
        """Return the tokens of each row's shortest answer beside the longest that is predicted; and of those that are
        whole in no window."""
        sizes, most = self._sizes(context), self.max_answer_length
        shared = least_shared(sizes, context.processor)
        shortest = [min((answer["text"] for answer in row.get("answers") or ()), key=len, default="") for row in rows]
        found = lengths_of([[text] for text in shortest], min(most, shared) + around, context)
        counts = [count - around for count in found.tokens]
        lost = [
            count if count > shared and UNKNOWN in _held(row, sizes, context) else 0
            for row, count in zip(rows, counts, strict=True)
        ]
        setting = "task.max_answer_length"
        return [
            TextLengths("answer", counts, most, None, setting, f"which is never predicted: raise {setting}"),
            TextLengths("answer", lost, shared, None, "task.stride", IN_NO_WINDOW),
        ]

    def _window(self, window: TextWindow, row: Row, context: Context, *, place: tuple[int, int] | None) -> Example:
        """Return one window as an example of its own; `place` are the tokens of its answer."""
        ids = window.inputs["input_ids"]
        refuse_unknown_ids(ids, row.get("row"), context)
        cls = getattr(context.processor, "cls_token_id", None)
        none = ids.index(cls) if cls in ids else 0
        labels: dict[str, Any] = {
            "question": row["question"],
            "context": row["context"],
            "none": none,
            "first": window.first,
            "offsets": torch.tensor(window.offsets, dtype=torch.long).reshape(-1, 2),
        }
        if row.get("answers") is not None:
            labels["answers"] = [answer["text"] for answer in row["answers"]]
            first, last = place or (none - window.first, none - window.first)
            labels["targets"] = torch.tensor(place if place == UNKNOWN else (window.first + first, window.first + last))
        return {**without_unread_types(window.inputs, context), "labels": labels}

    def _found(self, output: Any, batch: Batch) -> list[AnswerSpan]:
        """Return the best answer of each row."""
        return [
            best_span(windows, self.max_answer_length, may_be_none=bool(self.no_answer))
            for windows in by_row(_span_scores(output, batch), map(len, batch["labels"]))
        ]

    def _answer(self, text: str, span: AnswerSpan) -> tuple[str, int, int]:
        """Return the text of an answer and its place."""
        if self.no_answer and span.odds > self.null_threshold:
            return "", 0, 0
        start, end = trimmed(text, span.start, span.end)
        return text[start:end], start, end

    def _record(self, labels: Mapping[str, Any], span: AnswerSpan, losses: Sequence[float], windows: int) -> Record:
        truths = labels["answers"]
        answer, _, _ = self._answer(labels["context"], span)
        start, end = trimmed(labels["context"], span.start, span.end)
        f1 = overlap_f1(answer, truths)
        loss = sum(losses) / max(len(losses), 1)
        return {
            "f1": f1,
            "correct": int(exact_match(answer, truths)),
            "f1_given": overlap_f1(labels["context"][start:end], truths),
            "f1_none": overlap_f1("", truths),
            "odds": span.odds if np.isfinite(span.odds) else None,
            "answerable": bool(truths),
            "word": first_word(labels["question"]),
            "windows": windows,
            "counted": len(losses),
            "loss": sum(losses),
            "error": 1 - f1 + (loss / (1 + loss) if f1 < 1 else 0.0),
        }


def _placed(answer: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return an answer with its place in the text. BadCell where it occurs in no place, or in several."""
    if answer["start"] >= 0:
        return dict(answer)
    count, shown = text.count(answer["text"]), answer["text"][:SHOWN]
    if count != 1:
        problem = "is nowhere in the context" if not count else f"is in the context {count} times"
        raise BadCell(f"answers: {shown!r} {problem}: write its first character as answer_start, or leave the row out")
    return {**answer, "start": text.index(answer["text"])}


def _misplaced(answer: Mapping[str, Any], text: str) -> str | None:
    """Return why an answer is not at its place in the text, and where it is, or None."""
    start, wanted = int(answer["start"]), str(answer["text"])
    there = text[start : start + len(wanted)] if start >= 0 else ""
    if there == wanted:
        return None
    other = text.find(wanted)
    hint = f"it begins at {other}" if other >= 0 else "it is nowhere in the context"
    where = f"where the context has {there[:SHOWN]!r}" if there else f"and the context has {len(text):,} characters"
    return f"answers: {wanted[:SHOWN]!r} is said to begin at character {start}, {where}: {hint}"


def _characters(row: Row) -> list[tuple[int, int]]:
    """Return the places of a row's answers: the first character, and the one after the last."""
    answers = row.get("answers") or ()
    return [(int(answer["start"]), int(answer["start"]) + len(answer["text"])) for answer in answers]


def _held(row: Row, sizes: WindowSizes, context: Context) -> list[tuple[int, int] | None]:
    """Return the tokens of the answer in each window of a row; nothing where a tokenizer does not report places."""
    if not getattr(context.processor, "is_fast", False):
        return []
    return answer_tokens(windows_of_text(row["question"], row["context"], sizes, context.processor), _characters(row))


def _places_in(output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of starts and ends, (windows, tokens), over tokens of the text and that of no answer."""
    allowed = torch.zeros(output.start_logits.shape, dtype=torch.bool, device=output.start_logits.device)
    for row, labels in zip(allowed, (one for windows in batch["labels"] for one in windows), strict=True):
        row[labels["none"]] = True
        row[labels["first"] : labels["first"] + len(labels["offsets"])] = True
    return log_probabilities(output.start_logits, allowed), log_probabilities(output.end_logits, allowed)


def _window_losses(output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the loss of each window, (windows,), 0 where its target is unknown; and whether it is known."""
    starts, ends = _places_in(output, batch)
    labels = [one for windows in batch["labels"] for one in windows]
    targets = torch.stack([one["targets"] for one in labels]).to(starts.device)
    known = targets[:, 0] >= 0
    # A place that is allowed stands in for an unknown one: others are infinitely improbable.
    nones = torch.tensor([[one["none"]] for one in labels], device=starts.device)
    places = torch.where(known[:, None], targets, nones)
    first, last = places[:, :1], places[:, 1:]
    return -(starts.gather(1, first) + ends.gather(1, last))[:, 0] / 2 * known, known


def _span_scores(output: Any, batch: Batch) -> list[SpanScores]:
    """Return what the model says of each window."""
    starts, ends = (values.detach().double().cpu().numpy() for values in _places_in(output, batch))
    found = []
    for start, end, labels in zip(starts, ends, (one for row in batch["labels"] for one in row), strict=True):
        offsets = labels["offsets"].cpu().numpy()
        inside = slice(labels["first"], labels["first"] + len(offsets))
        none = labels["none"]
        found.append(SpanScores(offsets, start[inside], end[inside], float(start[none] + end[none])))
    return found
