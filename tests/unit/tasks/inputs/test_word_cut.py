"""A plain text is cut into the words of corpora, by rule or as the training rows show, and no character is lost."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.text_styles import STYLES as WRITTEN
from regraft.tasks.inputs.word_cut import WordRule, as_text, words_of

PEOPLE = ("Anna", "Karl", "Ida", "Olaf", "Marta")
PLACES = ("Oslo", "Bergen", "Paris", "Tokyo")
STYLES = {
    "stops": ("{p} , who lives in {l} , called .", "Yesterday {p} left {l} ; nobody knew !"),
    "quotes": ('" {p} " said a man in {l} .', "\u201e {p} \u201c , said \u00ab {l} \u00bb .", "( {p} ) [ {l} ] ?"),
    "clitics": ("{p} 's bus to {l} was late .", "{p} \u2019s home is {l} , he 'll call .", "do n't call {p} !"),
    "dashes": ("{l} \u2013 {q} : {p} 's line .", "{p} / {q} went to {l} \u2026", "{l} \u2014 {p}"),
    "numbers": (
        "{p} paid $ 5.30 in {l} on 10:30 .",
        "{l} : 1,000 % of {p} ?",
        "U.S. Army , J. {p} met Dr. {q} in {l} .",
    ),
}


def sentence(style: str, draw: random.Random) -> list[str]:
    first, second = draw.sample(PEOPLE, 2)
    form = draw.choice(STYLES[style])
    return form.format(p=first, q=second, l=draw.choice(PLACES)).split()


def glued(words: list[str]) -> tuple[str, list[tuple[int, int]]]:
    """Write words as people do, and return each word's place: an implementation of its own."""
    text, spans, quoted = "", [], False
    for number, word in enumerate(words):
        before = words[number - 1] if number else ""
        closes = word in {",", ".", "!", "?", ")", "]", ";", ":", "%", "\u2026", "\u201c", "\u00bb", "n't"}
        closes |= word.startswith(("'", "\u2019")) or (word == '"' and quoted)
        opened = before in {"(", "[", "\u201e", "\u00ab", "$"} or (before == '"' and quoted)
        tight = word in {"/", "\u2013", "\u2014"} or before in {"/", "\u2013", "\u2014"}
        text += "" if not text or closes or opened or tight else " "
        quoted ^= word == '"'
        spans.append((len(text), len(text) + len(word)))
        text += word
    return text, spans


@pytest.mark.parametrize("style", STYLES)
def test_a_text_is_cut_into_the_words_that_it_was_written_of(style: str) -> None:
    draw = random.Random(3)
    for _ in range(60):
        words = sentence(style, draw)
        text, spans = glued(words)
        assert WordRule().spans(text) == spans, text


@pytest.mark.parametrize("style", STYLES)
def test_a_rule_of_training_rows_cuts_texts_into_their_words(style: str) -> None:
    draw = random.Random(5)
    rule = WordRule.of_words([sentence(style, draw) for _ in range(200)])
    for _ in range(60):
        words = sentence(style, draw)
        text, spans = glued(words)
        assert rule.spans(text) == spans, text


def test_words_with_signs_inside_stay_whole() -> None:
    text = "O'Brien met Jean-Luc of AT&T (a@b.com, http://t.co/x?y=1) at U.S.-based x_y; @user #tag "
    text += "\u0939\u093f\u0928\u094d\u0926\u0940"
    assert words_of(text, WordRule().spans(text)) == [
        "O'Brien", "met", "Jean-Luc", "of", "AT&T", "(", "a@b.com", ",", "http://t.co/x?y=1", ")", "at", "U.S.", "-",
        "based", "x_y", ";", "@user", "#tag", "\u0939\u093f\u0928\u094d\u0926\u0940",
    ]  # fmt: skip


def test_training_rows_with_hyphens_apart_cut_them_apart() -> None:
    rows = [["Oslo", "-", "Bergen", "."]] * 30
    assert WordRule().spans("Oslo-Bergen") == [(0, 11)]
    assert WordRule.of_words(rows).spans("Oslo-Bergen") == [(0, 4), (4, 5), (5, 11)]
    assert WordRule.of_words([["Jean-Luc", "left", "."]] * 30).spans("Jean-Luc.") == [(0, 8), (8, 9)]


def test_training_rows_cut_at_blanks_alone_cut_texts_so_too() -> None:
    rule = WordRule.of_words([["Anna", "lives", "in", "Oslo."], ["Yes,", "Karl", "left."]] * 20)
    assert rule == WordRule(cut="blanks")
    assert rule.spans(" Anna, left.") == [(1, 6), (7, 12)]


def test_training_rows_of_single_characters_cut_chinese_into_characters() -> None:
    rule = WordRule.of_words([list("\u6211\u4f4f\u5728\u5317\u4eac\u3002")] * 10)
    assert rule.cut == "characters"
    assert words_of("\u5728Oslo2\u5317\u4eac\u3002", rule.spans("\u5728Oslo2\u5317\u4eac\u3002")) == [
        "\u5728", "Oslo2", "\u5317", "\u4eac", "\u3002"
    ]  # fmt: skip


def test_training_rows_with_clitics_in_words_keep_them() -> None:
    assert WordRule.of_words([["I'm", "Olaf's", "friend"]] * 20).spans("Olaf's") == [(0, 6)]


MIXED = (["Olaf", "'s", "bus", ",", "I", "don't", "know", "."], ["We'll", "see", "Anna", "'s", "."]) * 20
"""Rows of a corpus that holds possessives as words, and other contractions in one piece, as WNUT17 does."""


def test_training_rows_with_possessives_alone_apart_cut_them_alone() -> None:
    rule = WordRule.of_words(MIXED)
    assert rule.clitics == "possessive"
    for text in (
        "I don't like Ida's (it's late), we'll see.",
        "I don\u2019t like Ida\u2019s (it\u2019s late), we\u2019ll see.",
    ):
        words = [word.replace("\u2019", "'") for word in words_of(text, rule.spans(text))]
        assert words == [
            "I", "don't", "like", "Ida", "'s", "(", "it", "'s", "late", ")", ",", "we'll", "see", "."
        ]  # fmt: skip
    assert WordRule.model_validate(rule.model_dump(mode="json")) == rule


def test_training_rows_with_elisions_in_words_keep_them() -> None:
    assert WordRule().spans("l'Italie") == [(0, 2), (2, 8)]
    assert WordRule.of_words([["l'Italie", "et", "d'autres"]] * 20).spans("l'Italie") == [(0, 8)]
    assert WordRule.of_words([["l'", "Italie", "et", "d'", "autres"]] * 20).spans("l'Italie") == [(0, 2), (2, 8)]


def test_a_slash_between_digits_says_nothing_about_words() -> None:
    rows = [["9/11", "and", "Oslo", "/", "Bergen"]] * 40
    assert words_of("Oslo/Bergen 9/11", WordRule.of_words(rows).spans("Oslo/Bergen 9/11")) == [
        "Oslo", "/", "Bergen", "9/11"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "emoji", ["\U0001f44d\U0001f3fd", "\U0001f1f3\U0001f1f4", "\U0001f469\u200d\U0001f4bb", "\u2764\ufe0f"]
)
def test_an_emoji_of_several_characters_is_one_word(emoji: str) -> None:
    text = f"Oslo{emoji}{emoji}!"
    words = words_of(text, WordRule().spans(text))
    assert (words[0], words[-1]) == ("Oslo", "!") and set(words[1:-1]) <= {emoji, emoji * 2}


ENTITIES = (
    "Anna Berg",
    "O'Brien",
    "Jean-Luc Roy",
    "AT&T",
    "U.S. Army",
    "St. Olaf",
    "@ann_b",
    "#Oslo",
    "New York",
    "4.5 Ltd",
)
FORMS = (
    "{a} , who lives in {b} , left {c} 's bus .",
    '" {a} " , said {b} ( {c} ) : why ?',
    "{a} - {b} ... and {c} ; it 's http://t.co/aB3x !",
    "`` {a} '' \u2013 {b} / {c} \u2026 do n't call .",
    "RT @bob : {a} ! {b} , {c} 's #topic ( see www.a.example ) .",
)


@pytest.mark.parametrize("style", WRITTEN)
@pytest.mark.parametrize("learned", [False, True])
def test_ends_of_entities_are_ends_of_words_in_every_style(style: str, learned: bool) -> None:
    draw = random.Random(11)

    def row() -> tuple[list[str], list[str]]:
        form, names = draw.choice(FORMS), dict(zip("abc", draw.sample(ENTITIES, 3), strict=True))
        words, tags = [], []
        for part in form.split():
            inner = names[part[1]].split() if part.startswith("{") else [part]
            words += inner
            tags += [("B-x" if not at else "I-x") if part.startswith("{") else "O" for at in range(len(inner))]
        return words, tags

    rule = WordRule.of_words([row()[0] for _ in range(100)]) if learned else WordRule()
    for _ in range(60):
        written = WRITTEN[style](*row())
        assert words_of(written.text, written.places) == list(written.words)
        spans = rule.spans(written.text)
        starts, ends = {start for start, _ in spans}, {end for _, end in spans}
        for at, tag in enumerate(written.tags):
            if tag == "B-x":
                assert written.places[at][0] in starts, written.text
            if tag != "O" and written.tags[at + 1 : at + 2] != ("I-x",):
                assert written.places[at][1] in ends, (written.text, written.words[at])


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_every_character_is_in_one_word_and_no_word_holds_a_blank(text: str) -> None:
    for rule in (WordRule(), WordRule(cut="blanks"), WordRule(cut="characters")):
        spans = rule.spans(text)
        words = words_of(text, spans)
        assert "".join(words) == "".join(text.split())
        assert all(words) and not any(character.isspace() for word in words for character in word)
        assert all(before[1] <= after[0] for before, after in pairwise(spans))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["Anna", ",", '"', "'s", "(", ")", "\u201e", "\u201c", ".", "$", "n't"]), max_size=12))
def test_words_written_as_a_text_are_where_it_says(words: list[str]) -> None:
    text, spans = as_text(words)
    assert words_of(text, spans) == words
    assert "  " not in text


def test_a_long_text_is_cut_in_linear_time() -> None:
    text = "Anna's (Oslo), " * 20_000
    assert len(WordRule().spans(text)) == 6 * 20_000


@pytest.mark.parametrize("part", ["a--", "a.)", "a+", "a@", "www.;", "a://", "aa@a.", "'", "a'"])
def test_the_work_grows_with_the_text_and_not_faster(part: str) -> None:
    def seconds(count: int) -> float:
        text, tries = part * count, []
        for _ in range(3):
            start = time.process_time()
            WordRule().spans(text)
            tries.append(time.process_time() - start)
        return min(tries)

    seconds(10)
    assert seconds(8000) < 10 * seconds(2000) + 0.05


def test_addresses_stay_one_word() -> None:
    for word in ("https://a.example/b?c=d", "www.a.example", "svn+ssh://a.b/c", "first.last+tag@mail.example.org"):
        assert words_of(f"see {word}, there", WordRule().spans(f"see {word}, there")) == ["see", word, ",", "there"]
