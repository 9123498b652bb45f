"""Translation: a text in another language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from sacrebleu.metrics import BLEU, CHRF

from regraft.contracts import ApiForm, Kind, Record, Score, text_form
from regraft.tasks.outputs.seq2seq import Seq2Seq, matches, score_of


class Translation(Seq2Seq):
    """A text in another language, by a model with an encoder and a decoder (T5, BART, mBART, Marian, NLLB, M2M100).

    A row may have several references: the first is learned from, all of them count in the scores. Scores are
    sacreBLEU's (Post, 2018), in points of 100: `chrf` (chrF2, Popović, 2015) chooses the best checkpoint, `bleu` is
    reported with it. The model gets no new layers, so `feature-extraction` has no head to train: use lora, freeze or
    full.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset({"machine-translation", "mt"})
    score: ClassVar[Score] = Score("chrf", "max")
    columns: ClassVar[Mapping[str, Kind]] = {"source": "text", "target": "texts"}
    text_column: ClassVar[str] = "source"
    reference_column: ClassVar[str] = "target"
    answer_key: ClassVar[str] = "translation_text"
    default_lengths: ClassVar[tuple[int, int]] = (256, 256)

    bleu_tokens: Literal["13a", "intl", "zh", "char", "none"] = "13a"
    """How BLEU splits a translation into words: 13a for most languages, zh for Chinese, char for languages without
    blanks between words (Japanese, Thai)."""

    def api_form(self) -> ApiForm:
        """Return the form of one text."""
        return text_form("translation", self.answer_key)

    def scores(self, records: Sequence[Record]) -> dict[str, float]:
        """Return chrF and BLEU over all texts together."""
        return {name: score_of(metric, [item[name] for item in records]) for name, metric in self._metrics().items()}

    def compared(self, text: str, references: Sequence[str]) -> dict[str, Any]:
        """Return each metric's counts for one translation, and as `error` 100 - its chrF."""
        metrics = self._metrics()
        counts = {name: matches(metric, text, references) for name, metric in metrics.items()}
        return {**counts, "error": 100 - score_of(metrics["chrf"], [counts["chrf"]])}

    def _metrics(self) -> dict[str, Any]:
        return {"chrf": CHRF(), "bleu": BLEU(tokenize=self.bleu_tokens)}
