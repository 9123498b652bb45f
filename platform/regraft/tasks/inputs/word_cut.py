"""A plain text as words: cut as corpora with one word a line are, and the inverse, words written as a plain text.

Such corpora write punctuation apart from words, and a model trained on them has seen it apart. Signs that stand inside
words there (Jean-Luc, O'Brien, U.S., 1,000) are known by rule, or from the training rows (`WordRule.of_words`).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from regraft.plugins import Frozen

Cut = Literal["blanks", "punctuation", "characters"]
Span = tuple[int, int]
"""The place of a word in a text: its first character, and the one after its last."""

USUAL_INNER = "-\u2010\u2011'\u2019.&_@\u00b7"
"""Signs that stand between the letters of one word where training rows say nothing else."""
_CANDIDATES = "-\u2010\u2011\u2013'\u2019.&_@\u00b7/:,+*#"
_HYPHENS = "-\u2010\u2011"
_LEADING = "@#"
_ENDS = ".,;:!?)"
_CLITIC = re.compile(r"(?:['\u2019](?:s|re|ve|ll|d|m)|n['\u2019]t)$", re.IGNORECASE)
_CLITIC_SIGN = re.compile(r"['\u2019](?:s|re|ve|ll|d|m)(?!\w)", re.IGNORECASE)
_POSSESSIVE = re.compile(r"['\u2019]s$", re.IGNORECASE)
_POSSESSIVE_SIGN = re.compile(r"['\u2019]s(?!\w)", re.IGNORECASE)
_ELISION = re.compile(r"(?:[ldjnsmtc\u00e7]|qu|jusqu|lorsqu|puisqu|quoiqu|dell|all|dall|nell|sull|un)['\u2019](?=\w)")
_ADDRESS = re.compile(
    r"(?:[a-z][a-z0-9+.-]{0,15}://|www\.)\S+|[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}", re.IGNORECASE
)
"""An address; without bounds, each sign of a long chunk would have the rest of the chunk searched again."""
_OPENING = frozenset(["(", "[", "{", "\u00ab", "\u201e", "\u2018", "``", "\u00bf", "\u00a1", "$", "\u00a3"])
_CLOSING = frozenset(["''", "\u201d", "\u00bb"])
_CLINGING = frozenset(".,;:!?)]}%\u00bb\u2026\u3001\u3002\uff0c\uff01\uff1f")
_EITHER = {'"': {'"'}, "'": {"'"}, "\u201c": {"\u201e"}}
"""Quotation marks that open or close, each with those that it closes."""
_TITLE = frozenset(
    ["Mr", "Mrs", "Ms", "Dr", "Prof", "St", "Jr", "Sr", "Inc", "Corp", "Co", "Ltd", "Gen", "Gov", "Sen", "Rep", "Lt"]
)
"""Words whose full stop belongs to them, unless a text ends there."""
_INITIALS = re.compile(r"(?:[^\W\d_]\.){2,}")
_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]")
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]{2}")
_SKINS = frozenset("\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")
"""Colours of skin, which belong to the emoji before them."""
_JOINER = "\u200d"
"""The character that makes one emoji of two."""
_SEEN = 20
"""Times that a sign must be seen in training rows to decide what is done with it."""


class WordRule(Frozen):
    """How plain texts are cut into words."""

    cut: Cut = "punctuation"
    """blanks: at blanks alone; punctuation: also around signs; characters: also around each Chinese or Japanese
    character."""
    inner: str = USUAL_INNER
    """Signs that may stand between the letters of one word."""
    leading: str = "@#"
    """Signs that begin a word: names and topics of social media."""
    clitics: bool | Literal["possessive"] = True
    """Whether Olaf's, don't and l'Italie are two words each; possessive: Olaf's and it's alone are."""

    @classmethod
    def of_words(cls, sentences: Iterable[Sequence[str]]) -> WordRule:
        """Return the rule by which texts are cut into words like those of the sentences."""
        seen = _Signs()
        for words in sentences:
            for word in words:
                seen.add(word)
        return seen.rule()

    def spans(self, text: str) -> list[Span]:
        """Return the place of each word of a text, in order."""
        if self.cut == "blanks":
            return [match.span() for match in re.finditer(r"\S+", text)]
        end = len(text.rstrip())
        found = [
            span
            for chunk in re.finditer(r"\S+", text)
            for span in self._words(text, chunk.start(), chunk.end(), last=chunk.end() >= end)
        ]
        return [part for span in found for part in _characters(text, span)] if self.cut == "characters" else found

    def _words(self, text: str, start: int, end: int, *, last: bool) -> list[Span]:
        """Return the words of a chunk without blanks; `last` says whether the text ends with it."""
        found: list[Span] = []
        at = start
        while at < end:
            word = self._word(text, at, end, last=last)
            found += self._divided(text, at, word) if word > at else []
            if word == at:
                word = _sign(text, at, end, _POSSESSIVE_SIGN if self.clitics == "possessive" else _CLITIC_SIGN)
                found.append((at, word))
            at = word
        return found

    def _word(self, text: str, at: int, end: int, *, last: bool) -> int:
        """Return where the word that begins at `at` ends; `at` itself for a sign that is no part of a word."""
        if address := _ADDRESS.match(text, at, end):
            return at + len(address[0].rstrip(".,;:!?)]}>\"'\u201d\u2019\u00bb"))
        first = at
        if text[at] in self.leading and at + 1 < end and not is_sign(text[at + 1]):
            at += 1
        while at < end and not is_sign(text[at]):
            at += 1
        while first < at < end - 1 and self._joined(text, at):
            at += 1
            while at < end and not is_sign(text[at]):
                at += 1
        return at + (
            first < at < end and text[at] == "." and _owns_stop(text[first:at], ends=not last and at + 1 == end)
        )

    def _joined(self, text: str, at: int) -> bool:
        """Return whether the sign at `at` joins the characters beside it to one word."""
        before, sign, after = text[at - 1], text[at], text[at + 1]
        if is_sign(after):
            return False
        if before.isdigit() and after.isdigit():
            return sign in ".,:/\u2044" or sign in self.inner
        if sign == "." and after.isupper() and at > 1 and text[at - 2].isalpha():
            return False  # the blank between two sentences is missing
        return sign in self.inner

    def _divided(self, text: str, start: int, end: int) -> list[Span]:
        """Return a word as one span, or as two where it holds another: Olaf's, l'Italie."""
        word, at = text[start:end], 0
        if self.clitics and (found := (_POSSESSIVE if self.clitics == "possessive" else _CLITIC).search(word)):
            at = found.start()
        elif self.clitics is True and (found := _ELISION.match(word)):
            at = found.end()
        return [(start, start + at), (start + at, end)] if at else [(start, end)]


@dataclass(slots=True)
class _Signs:
    """Counts of signs in the words of training rows."""

    alone: Counter[str] = field(default_factory=Counter)
    """Words that are one sign."""
    inside: Counter[str] = field(default_factory=Counter)
    """Words with the sign between other characters."""
    begun: Counter[str] = field(default_factory=Counter)
    """Words that begin with the sign."""
    ended: int = 0
    """Words with a full stop, a comma or a bracket at their end."""
    possessives: int = 0
    """Words such as 's, less those such as Olaf's."""
    contractions: int = 0
    """Words such as n't and l', less those such as don't and l'Italie."""
    han: int = 0
    """Words with Chinese or Japanese characters."""
    single: int = 0
    """Those of them that are one character."""

    def add(self, word: str) -> None:
        """Count one word."""
        if len(word) == 1:
            self.alone[word] += 1
        elif word and not _ADDRESS.fullmatch(word):
            self.inside.update(_joining(word))
            self.begun[word[0]] += word[0] in _LEADING
            self.ended += word[-1] in _ENDS and word[-2].isalnum() and not _INITIALS.fullmatch(word)
            self._add_clitic(word)
        if _HAN.search(word):
            self.han += 1
            self.single += len(word) == 1

    def _add_clitic(self, word: str) -> None:
        if found := _POSSESSIVE.search(word):
            self.possessives += 1 if found.start() == 0 else -1
        elif found := _CLITIC.search(word):
            self.contractions += 1 if found.start() == 0 else -1
        elif _ELISION.match(word):
            self.contractions -= 1
        elif _ELISION.match(f"{word}a"):
            self.contractions += 1

    def _clitics(self) -> bool | Literal["possessive"]:
        """Return which clitics are words: corpora may hold Olaf and 's as two, and don't as one."""
        if self.possessives >= _SEEN and self.contractions <= -_SEEN:
            return "possessive"
        return self.possessives + self.contractions > -_SEEN

    def rule(self) -> WordRule:
        """Return the rule that these counts suggest; what was seen too seldom is left to the usual rule."""
        if self.ended >= _SEEN and self.ended > sum(self.alone[sign] for sign in _ENDS):
            return WordRule(cut="blanks")
        by_character = self.han >= _SEEN and self.single > 0.9 * self.han
        return WordRule(
            cut="characters" if by_character else "punctuation",
            inner="".join(sign for sign in _CANDIDATES if _joins(sign, self.inside[sign], self.alone[sign])),
            leading="".join(sign for sign in _LEADING if self.alone[sign] <= self.begun[sign]),
            clitics=self._clitics(),
        )


def words_of(text: str, spans: Iterable[Span]) -> list[str]:
    """Return the words at those places of a text."""
    return [text[start:end] for start, end in spans]


def as_text(words: Sequence[str]) -> tuple[str, list[Span]]:
    """Return words as people write them, and the place of each: no blank before a comma, nor inside brackets."""
    text, spans, opened = "", [], set[str]()
    glued = True
    for word in words:
        closes = word in _CLOSING or (word in _EITHER and bool(opened & _EITHER[word]))
        if not (glued or closes or _clings(word)):
            text += " "
        spans.append((len(text), len(text) + len(word)))
        text += word
        glued = word in _OPENING or (word in _EITHER and not closes)
        if closes:
            opened -= _EITHER.get(word, set())
        elif word in _EITHER or word == "\u201e":
            opened.add(word)
    return text, spans


@cache
def is_sign(character: str) -> bool:
    """Return whether a character is punctuation or a symbol: neither a letter, nor a digit, nor a mark on one."""
    return unicodedata.category(character)[0] in "PS"


def _clings(word: str) -> bool:
    """Return whether a word is written without a blank before it."""
    return bool(_CLITIC.fullmatch(word)) or (bool(word) and set(word) <= _CLINGING)


def _joins(sign: str, inside: int, alone: int) -> bool:
    """Return whether a sign joins letters to one word, by how often it is inside words and how often it is one.

    A full stop, an apostrophe or an ampersand is a word of its own beside blanks, which says nothing about U.S., AT&T.
    """
    if sign in USUAL_INNER and sign not in _HYPHENS:
        return True
    if inside + alone < _SEEN:
        return sign in USUAL_INNER and not (alone and not inside)
    return inside * 5 >= alone


def _owns_stop(word: str, *, ends: bool) -> bool:
    """Return whether the full stop after a word belongs to it: U.S., J. Smith, Dr. Jones.

    `ends` says that a blank and more text follow the full stop.
    """
    if _INITIALS.fullmatch(f"{word}."):
        return True
    return ends and (word in _TITLE or (len(word) == 1 and word.isupper()))


def _joining(word: str) -> set[str]:
    """Return the signs that stand between the letters of a word; between two digits they say nothing."""
    return {
        sign
        for before, sign, after in zip(word, word[1:], word[2:], strict=False)
        if sign in _CANDIDATES and not (is_sign(before) or is_sign(after) or (before.isdigit() and after.isdigit()))
    }


def _sign(text: str, at: int, end: int, clitic: re.Pattern[str]) -> int:
    """Return where the sign at `at` ends: with marks that belong to it, and as often as it is repeated."""
    after = at + 1
    if found := clitic.match(text, at, end):
        return found.end()
    if _FLAG.match(text, at, end):
        return at + 2
    repeated = text[at] in ".-\u2013\u2014!?*=_~'`\u2026"
    while after < end and (
        (repeated and text[after] == text[at])
        or unicodedata.category(text[after]) in ("Mn", "Me", "Cf")
        or text[after] in _SKINS
        or text[after - 1] == _JOINER
    ):
        after += 1
    return after


def _characters(text: str, span: Span) -> list[Span]:
    """Return a word's Chinese and Japanese characters each by itself, and what is between them."""
    found, at = [], span[0]
    for place in range(*span):
        if _HAN.match(text[place]):
            found += [(at, place)] if at < place else []
            found.append((place, place + 1))
            at = place + 1
    return [*found, (at, span[1])] if at < span[1] else found
