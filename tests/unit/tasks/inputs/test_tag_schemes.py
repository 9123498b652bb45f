"""Every scheme of tags is turned into IOB2 without loss, and what does not follow its scheme is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.tasks.inputs.tag_schemes import Scheme, WrongTags, iob2_problem, to_iob2

Entities = list[tuple[str, int]]
PARTS = st.lists(st.tuples(st.sampled_from(["O", "PER", "LOC-2"]), st.integers(1, 4)), max_size=8)


def written(parts: Entities, scheme: str) -> list[str]:
    """Write entities (type, words) in a scheme; words outside have the type O."""
    one, last = {"bioes": ("S", "E"), "bilou": ("U", "L")}.get(scheme, ("B", "I"))
    tags = []
    for kind, words in parts:
        if kind == "O":
            tags += ["O"] * words
        elif words == 1:
            tags.append(f"{one}-{kind}")
        else:
            tags += [f"B-{kind}", *[f"I-{kind}"] * (words - 2), f"{last}-{kind}"]
    return tags


@pytest.mark.parametrize("scheme", ["bioes", "bilou"])
@given(parts=PARTS)
def test_entities_keep_their_words_and_types(scheme: Scheme, parts: Entities) -> None:
    assert to_iob2(written(parts, scheme), scheme) == written(parts, "iob2")


@given(parts=PARTS)
def test_io_and_iob1_keep_entities_that_do_not_touch(parts: Entities) -> None:
    apart = [item for part in parts for item in (part, ("O", 1))]
    wanted = written(apart, "iob2")
    assert to_iob2([tag.partition("-")[2] or "O" for tag in wanted], "io") == wanted
    assert to_iob2([tag.replace("B-", "I-") for tag in wanted], "io") == wanted
    assert to_iob2([tag.replace("B-", "I-") for tag in wanted], "iob1") == wanted


def test_bmes_is_bioes_with_m() -> None:
    assert to_iob2(["B-a", "M-a", "E-a", "S-b"], "bioes") == ["B-a", "I-a", "I-a", "B-b"]


@pytest.mark.parametrize(
    ("tags", "scheme", "message"),
    [
        (["B-a", "O"], "bioes", "tag 2 is 'O' after 'B-a'; in BIOES an entity begins with B-, ends with E-"),
        (["E-a"], "bioes", "tag 1 is 'E-a' after the beginning"),
        (["B-a", "E-b"], "bioes", "tag 2 is 'E-b' after 'B-a'"),
        (["O", "B-a"], "bilou", "the sentence ends after 'B-a'; in BILOU .* ends with L-, and is U-"),
        (["U-a"], "bioes", "tag 1 is 'U-a'; BIOES has O"),
        (["NOUN"], "bilou", "tag 1 is 'NOUN'; BILOU has O"),
        (["B-a", "I-a"], "io", "tag 1 is 'B-a'; IO has O and a type"),
        (["O", "B-a", "B-b"], "io", "tag 2 is 'B-a'; IO has O and a type"),
        (["B-a", "E-a"], "io", "tag 1 is 'B-a'; IO has O and a type"),
        ([" "], "io", "tag 1 is empty"),
    ],
)
def test_tags_of_another_scheme_are_named(tags: list[str], scheme: Scheme, message: str) -> None:
    with pytest.raises(WrongTags, match=message):
        to_iob2(tags, scheme)


@pytest.mark.parametrize(
    ("tags", "way"),
    [
        (["S-a"], "scheme: bioes"),
        (["B-a", "E-a"], "scheme: bioes"),
        (["U-a"], "scheme: bilou"),
        (["B-a", "L-a"], "scheme: bilou"),
        (["PER", "PER"], "scheme: io} if .* scheme: plain} if"),
        (["B_PER"], "write B-PER"),
        (["O", "I-a"], "scheme: iob1"),
    ],
)
def test_the_message_names_the_way_to_read_other_schemes(tags: list[str], way: str) -> None:
    with pytest.raises(ValueError, match=way):
        raise ValueError(iob2_problem(tags))


def test_iob2_has_no_problem() -> None:
    assert iob2_problem(["O", "B-a", "I-a", "B-a", "B-b", "I-b"]) is None


def test_types_of_io_may_begin_like_prefixes() -> None:
    tags = ["E-mail", "E-mail", "O", "B-cell", "I-B-cell", "I-x", "U_boat"]
    assert to_iob2(tags, "io") == ["B-E-mail", "I-E-mail", "O", "B-B-cell", "I-B-cell", "B-x", "B-U_boat"]
