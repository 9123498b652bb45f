"""Schemes of tags that mark spans of words, each converted to IOB2 without loss.

All of them say O outside of spans and a prefix with a type inside: IOB2 (B, I), IOB1 (B only where two spans of one
type touch), BIOES or IOBES (E ends a span, S is a span of one word; BMES writes M for I), BILOU or BILUO (L, U), and IO
(the type alone, or I-type: words of one type in a row are one span).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

Scheme = Literal["iob2", "iob1", "bioes", "bilou", "io"]

OUTSIDE = "O"
_PREFIXED = re.compile(r"([BIMELSUW])[-_](.+)")
_LETTERS = {"bioes": "BIMESW", "bilou": "BILU", "iob1": "BI", "iob2": "BI"}
"""Prefixes that a scheme may write, besides O."""
_IOB2 = {"B": "B", "S": "B", "U": "B", "W": "B", "I": "I", "M": "I", "E": "I", "L": "I"}
_NAMES = {
    "bioes": "BIOES has O, B-<type>, I-<type>, E-<type> and S-<type>",
    "bilou": "BILOU has O, B-<type>, I-<type>, L-<type> and U-<type>",
    "iob1": "IOB1 has O, B-<type> and I-<type>",
}


class WrongTags(ValueError):
    """Tags that do not follow their scheme; the message names the first one and what is allowed."""


def to_iob2(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """Return tags of a scheme as IOB2. Raises WrongTags for tags that do not follow it; IOB2 is not checked."""
    if scheme == "iob2":
        return list(tags)
    if scheme == "io":
        return _from_io(tags)
    if scheme == "iob1":
        return _from_iob1(tags)
    _check_ends(tags, scheme)
    return [tag if tag == OUTSIDE else f"{_IOB2[tag[0]]}-{tag[2:]}" for tag in tags]


def iob2_problem(tags: Sequence[str]) -> str | None:
    """Return why tags are not IOB2, with the way to read them, or None.

    An I- that continues nothing is refused, not corrected: it may be a wrong tag, or another scheme.
    """
    before = OUTSIDE
    for number, tag in enumerate(tags, 1):
        if tag != OUTSIDE and not re.fullmatch(r"[BI]-.+", tag):
            return f"tag {number} is {tag!r}; IOB2 has O, B-<type> and I-<type>: {_way(tags, tag)}"
        if tag.startswith("I-") and before[1:] != tag[1:]:
            kind = tag[2:]
            return (
                f"tag {number} is {tag!r} after {before!r}; in IOB2 an entity begins with 'B-{kind}': correct the tag, "
                "or write data.format: {type: conll, scheme: iob1} if the whole file begins entities with I- "
                "(task: {type: token-classification, scheme: iob1} for files that are not CoNLL)"
            )
        before = tag
    return None


def _way(tags: Sequence[str], wrong: str) -> str:
    """Return what to write so that tags like these can be read."""
    task = "write task: {type: token-classification, scheme: "
    letters = {found[1] for tag in tags if (found := _PREFIXED.fullmatch(tag))}
    if re.fullmatch(r"[BI]_.+", wrong):
        return f"write {wrong[0]}-{wrong[2:]}"
    if letters & set("LU") and _PREFIXED.fullmatch(wrong):
        return f"{task}bilou}} if L- ends an entity and U- is one of one word"
    if letters & set("ESMW") and _PREFIXED.fullmatch(wrong):
        return f"{task}bioes}} if E- ends an entity and S- is one of one word"
    if _PREFIXED.fullmatch(wrong) or not wrong.strip():
        return "correct it"
    return (
        f"{task}io}} if words of one tag in a row are one entity, or {task}plain}} if tags are not spans (parts of "
        "speech): one tag a word"
    )


def _from_iob1(tags: Sequence[str]) -> list[str]:
    """Convert IOB1: an I- that does not continue an entity of its type becomes a B-."""
    return [
        f"B-{tag[2:]}" if tag.startswith("I-") and before[1:] != tag[1:] else tag
        for before, tag in zip([OUTSIDE, *tags], tags, strict=False)
    ]


def _from_io(tags: Sequence[str]) -> list[str]:
    """Convert IO: the first word of a type in a row becomes a B-, the others an I-."""
    types, other = [], _letters_of_another_scheme(tags)
    for number, tag in enumerate(tags, 1):
        found = _PREFIXED.fullmatch(tag)
        if found and found[1] in other:
            raise WrongTags(
                f"tag {number} is {tag!r}; IO has O and a type, or I-<type>, and no word for a beginning: write "
                "another scheme (iob2, iob1, bioes, bilou)"
            )
        if not tag.strip():
            raise WrongTags(f"tag {number} is empty; IO has O and a type for each word")
        types.append(found[2] if found and found[1] == "I" else tag)
    return [
        OUTSIDE if kind == OUTSIDE else f"{'I' if kind == before else 'B'}-{kind}"
        for before, kind in zip([OUTSIDE, *types], types, strict=False)
    ]


def _letters_of_another_scheme(tags: Sequence[str]) -> set[str]:
    """Return the letters that are prefixes, of tags of which those of IO are wanted.

    A letter before several types is one, and so are two letters before one type: B-PER, I-PER. Any other is the
    beginning of a type, as in E-mail and B-cell.
    """
    pairs = {(found[1], found[2]) for tag in tags if (found := _PREFIXED.fullmatch(tag))}
    types, letters = Counter(letter for letter, _ in pairs), Counter(kind for _, kind in pairs)
    return {letter for letter, kind in pairs if letter != "I" and (types[letter] > 1 or letters[kind] > 1)}


def _check_ends(tags: Sequence[str], scheme: Scheme) -> None:
    """Raise WrongTags unless each entity begins, continues and ends as the scheme writes it."""
    begun: str | None = None  # the type of the entity that the tag before has begun or continued
    before = "the beginning"
    for number, tag in enumerate([*tags, OUTSIDE], 1):
        found = None if tag == OUTSIDE else _PREFIXED.fullmatch(tag)
        shown = f"tag {number} is {tag!r}" if number <= len(tags) else "the sentence ends"
        if tag != OUTSIDE and (found is None or found[1] not in _LETTERS[scheme] or tag[1] != "-"):
            raise WrongTags(f"{shown}; {_NAMES[scheme]}")
        letter, kind = (found[1], found[2]) if found else (OUTSIDE, "")
        if (letter in "IMEL") != (begun is not None) or (begun is not None and kind != begun):
            end, one = ("L", "U") if scheme == "bilou" else ("E", "S")
            raise WrongTags(
                f"{shown} after {before}; in {scheme.upper()} an entity begins with B-, ends with {end}-, and is "
                f"{one}- if it is one word: correct the tag, or write another scheme (iob2, iob1, io)"
            )
        begun = kind if letter in "BIM" else None
        before = repr(tag)
