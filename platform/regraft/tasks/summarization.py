"""Summarization: a short text for a long one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar, Literal

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer
from sacrebleu.metrics import CHRF
from sacrebleu.tokenizers.tokenizer_char import TokenizerChar
from sacrebleu.tokenizers.tokenizer_intl import TokenizerV14International
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from regraft.contracts import ApiForm, Kind, Record, Score, text_form
from regraft.tasks.outputs.seq2seq import Seq2Seq, matches, score_of

ROUGE = ("rouge1", "rouge2", "rougeL")


class Summarization(Seq2Seq):
    """A short text for a long one, by a model with an encoder and a decoder (T5, BART, Pegasus).

    A row may have several references: the first is learned from, and the best match among them counts for ROUGE.
    `rouge1`, `rouge2` and `rougeL` are the mean F-measures of rouge-score (Lin, 2004; what papers report) and `chrf` is
    sacreBLEU's, all in points of 100; `rougeL` chooses the best checkpoint. The model gets no new layers,
    so `feature-extraction` has no head to train: use lora, freeze or full.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset({"summarisation", "text-summarization", "abstractive-summarization"})
    score: ClassVar[Score] = Score("rougeL", "max")
    columns: ClassVar[Mapping[str, Kind]] = {"text": "text", "summary": "texts"}
    text_column: ClassVar[str] = "text"
    reference_column: ClassVar[str] = "summary"
    answer_key: ClassVar[str] = "summary_text"
    default_lengths: ClassVar[tuple[int, int]] = (1024, 128)

    words: Literal["english", "intl", "zh", "char"] = "english"
    """How ROUGE splits a text: english keeps a-z and 0-9 and takes Porter's stems, as published figures do, and drops
    other scripts; the others are sacreBLEU's: intl for words of any script, zh for Chinese, char for languages without
    blanks between words (Japanese, Thai)."""

    def api_form(self) -> ApiForm:
        """Return the form of one text."""
        return text_form("summarization", self.answer_key)

    def scores(self, records: Sequence[Record]) -> dict[str, float]:
        """Return the mean ROUGE of the summaries, and chrF over all of them together."""
        means = {name: fmean(record[name] for record in records) for name in ROUGE}
        return {**means, "chrf": score_of(CHRF(), [record["chrf"] for record in records])}

    def compared(self, text: str, references: Sequence[str]) -> dict[str, Any]:
        """Return one summary's ROUGE and chrF counts, and as `error` 100 - its ROUGE-L."""
        scorer = RougeScorer(ROUGE, tokenizer=_SPLITS[self.words])
        found = {name: 100 * score.fmeasure for name, score in scorer.score_multi(list(references), text).items()}
        return {**found, "chrf": matches(CHRF(), text, references), "error": 100 - found["rougeL"]}


class _LowercaseTokenizer(Tokenizer):  # type: ignore[misc]
    """A tokenizer of sacreBLEU with rouge-score's interface."""

    def __init__(self, split: Callable[[str], str]) -> None:
        self._split = split

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text in lower case, in order."""
        return self._split(text.lower()).split()


_SPLITS: dict[str, Tokenizer] = {
    "english": DefaultTokenizer(use_stemmer=True),
    "intl": _LowercaseTokenizer(TokenizerV14International()),
    "zh": _LowercaseTokenizer(TokenizerZh()),
    "char": _LowercaseTokenizer(TokenizerChar()),
}
