"""`text`: a base that reads tokens."""

from __future__ import annotations

from typing import ClassVar

from regraft.contracts.medium import Medium


class TextMedium(Medium):
    """Text, which the base's tokenizer turns into token numbers."""

    noun: ClassVar[str] = "a tokenizer"
    auto: ClassVar[str] = "AutoTokenizer"
    files: ClassVar[tuple[str, ...]] = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
    column: ClassVar[str] = "text"
    tokens: ClassVar[bool] = True
    serial: ClassVar[bool] = True
    wraps_scores: ClassVar[bool] = True
