"""Prose: whether texts are written in a human language, and in which."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_FEWEST_WORDS = 2.5
"""Words of a text on average, below which cells are names and not texts."""
_FEWEST_LETTERS = 12
"""The same for scripts that write no blanks between words."""
_MOSTLY = 0.6
_SURE = 0.08
"""Share of words that must be among a language's commonest."""
_MOST_CHARACTERS = 200_000
_WORD = re.compile(r"[^\W\d_]+")
_COMMONEST = {
    "English": "the of and to in is that it for was on are with as be this have not but i you my",
    "German": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine ich es",
    "French": "de la le et les des en un une du est que dans pour qui pas il je au sur vous",
    "Spanish": "de la que el en y los del se las por un para con no una su es al lo me",
    "Italian": "di e il la che in un a per una sono non con del mi ma si come da le ho",
    "Portuguese": "de a o que e do da em um para com não uma os no se na por mais as eu",
    "Dutch": "de het een en van in is dat op te zijn met voor niet aan er om ik maar je",
}
"""The commonest words of some languages."""
_WORDS = {name: frozenset(text.split()) for name, text in _COMMONEST.items()}


@dataclass(frozen=True, slots=True)
class Prose:
    """Texts of several words."""

    words: float
    """Words of a text on average."""


def prose(texts: Sequence[str]) -> Prose | None:
    """Return the measure of texts; None where they are names, numbers, paths or documents for machines."""
    if not texts:
        return None
    words = sum(len(text.split()) for text in texts) / len(texts)
    text = "".join(texts)[:_MOST_CHARACTERS]
    visible = [letter for letter in text if not letter.isspace()]
    letters = sum(letter.isalpha() for letter in visible)
    if not visible or letters < _MOSTLY * len(visible) or text.lstrip().startswith(("{", "[{")):
        return None
    blanks_between = sum(letter.isascii() for letter in visible) * 2 > len(visible)
    if words < _FEWEST_WORDS and (blanks_between or letters < _FEWEST_LETTERS * len(texts)):
        return None
    return Prose(words)


def language_of(texts: Sequence[str]) -> str:
    """Return what is seen of the language of texts: its script, and a language that is probable."""
    text = " ".join(texts)[:_MOST_CHARACTERS].lower()
    scripts = Counter(_script(letter) for letter in text[:20_000] if letter.isalpha())
    if not scripts:
        return "no letters"
    script = scripts.most_common(1)[0][0]
    words = _WORD.findall(text)
    shares = {name: sum(word in common for word in words) / max(1, len(words)) for name, common in _WORDS.items()}
    best = max(shares, key=lambda name: shares[name])
    if script != "Latin" or shares[best] < _SURE:
        return f"{script} letters, of a language that is not recognised"
    return f"probably {best}: {shares[best]:.0%} of the words are among its commonest"


def _script(letter: str) -> str:
    """Return the script of a letter: the first word of its name in Unicode."""
    name = unicodedata.name(letter, "unknown").partition(" ")[0]
    return "Chinese" if name == "CJK" else name.capitalize()
