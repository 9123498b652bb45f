"""Sentences of words written as plain texts in five styles of punctuation; shared with the tests of how texts are cut.

Apart from `regraft.tasks.inputs.word_cut.as_text` on purpose: what is measured should not write its own questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Span = tuple[int, int]

_CLITICS = (
    "'s",
    "'m",
    "'re",
    "'ve",
    "'ll",
    "'d",
    "n't",
    "'t",
    "\u2019s",
    "\u2019m",
    "\u2019re",
    "\u2019ve",
    "\u2019ll",
)
_LETTERS = ("s", "m", "re", "ve", "ll", "d", "t", "S")
_BEFORE = (",", ".", "!", "?", ";", ":", ")", "]", "}", "%", "...", "..", "\u2026", "\u201d", "''", "\u00bb")
_AFTER = ("(", "[", "{", "\u201c", "\u00ab", "``", "$", "\u00a3", "\u20ac", "#")
_BOTH = ("/", "\u2014")
_DASHES = ("-", "--", "\u2013", "\u2014")
_DOTS = ("...", "..", "....", "\u2026")
_FACES = ("\U0001f602", "\u2764\ufe0f", "\U0001f525\U0001f525", "\U0001f44d\U0001f3fd")


@dataclass(frozen=True, slots=True)
class Written:
    """One sentence: its words, the same as a text, the place of each word in it, and the tags."""

    words: tuple[str, ...]
    text: str
    places: tuple[Span, ...]
    tags: tuple[str, ...]


def english(words: Sequence[str], tags: Sequence[str]) -> Written:
    """Write as English is: no blank before a comma, nor inside quotes and brackets."""
    return _glued(words, tags)


def spaced(words: Sequence[str], tags: Sequence[str]) -> Written:
    """Write a blank around each word, as before the signs of French and in the texts of many corpora."""
    return _glued(words, tags, everywhere=True)


def curly(words: Sequence[str], tags: Sequence[str]) -> Written:
    """Write English with the quotes and apostrophes of word processors."""
    changed, opened = [], False
    for word in words:
        if word in ('"', "``", "''"):
            opened = word == "``" or (word == '"' and not opened)
            word = "\u201c" if opened else "\u201d"
        changed.append(word if "://" in word else word.replace("'", "\u2019"))
    return _glued(changed, tags)


def joined(words: Sequence[str], tags: Sequence[str]) -> Written:
    """Write dashes and ellipses without blanks, also in place of commas and of full stops within the sentence."""
    changed = list(words)
    for at, word in enumerate(words):
        inside = 0 < at < len(words) - 1
        if word in _DASHES or (word == "," and inside):
            changed[at] = "\u2014"
        elif word in _DOTS or (word == "." and inside):
            changed[at] = "\u2026"
    return _glued(changed, tags, both=(*_BOTH, "\u2026"))


def tweet(words: Sequence[str], tags: Sequence[str]) -> Written:
    """Write a message: a name with a full stop before it, emoji after entities, a topic, an address in brackets."""
    changed, marks, glue = [".", "@ann_b"], ["O", "O"], {0}
    for at, (word, tag) in enumerate(zip(words, tags, strict=True)):
        changed.append(word)
        marks.append(tag)
        ends = tag != "O" and (at + 1 == len(tags) or not tags[at + 1].startswith("I-"))
        if ends and word[-1].isalnum():
            glue.add(len(changed) - 1)
            changed.append(_FACES[at % len(_FACES)])
            marks.append("O")
    changed += ["#Monday", "(", "http://t.co/aB3x", ")"]
    marks += ["O"] * 4
    return _glued(changed, marks, glue=glue)


STYLES: dict[str, Callable[[Sequence[str], Sequence[str]], Written]] = {
    "english": english,
    "spaced": spaced,
    "curly": curly,
    "joined": joined,
    "tweet": tweet,
}
"""The styles by name."""


def _glued(
    words: Sequence[str],
    tags: Sequence[str],
    *,
    both: Sequence[str] = _BOTH,
    glue: frozenset[int] | set[int] = frozenset(),
    everywhere: bool = False,
) -> Written:
    """Return words with blanks between them where the style has some; `glue` are places after which there is none."""
    text, places, quoted, tight = "", [], {'"': False, "'": False}, True
    for at, word in enumerate(words):
        closes = quoted.get(word, False)
        letter = word in _LETTERS and at > 0 and words[at - 1] in ("'", "\u2019")
        apostrophe = word in ("'", "\u2019") and at + 1 < len(words) and words[at + 1] in _LETTERS
        attached = word in _BEFORE or word in both or word.lower() in _CLITICS or letter or apostrophe or closes
        text += "" if not text or (not everywhere and (attached or tight or at - 1 in glue)) else " "
        places.append((len(text), len(text) + len(word)))
        text += word
        opens = word in quoted and not closes and not apostrophe
        name = word == "@" and (tags[at] != "O" or tags[at + 1 : at + 2] == ["O"])  # else it means `at`
        tight = word in _AFTER or word in both or apostrophe or opens or name
        if word in quoted and not apostrophe:
            quoted[word] = not closes
    return Written(tuple(words), text, tuple(places), tuple(tags))
