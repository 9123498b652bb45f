"""CoNLL files of many tools: what is a comment, a document, a number, a word, and which column is which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regraft.data.sources.conll import Conll
from regraft.errors import DataError

UNER = (
    "# sent_id = 1\n# text = Where is Oslo?\n1\tWhere\tO\t-\tuser\n2\tOslo\tB-LOC\t-\tuser\n\n"
    "# sent_id = 2\n1\tHi\tO\t-\tuser\n"
)
"""Universal NER (.iob2)."""
CONLL_U = (
    "# newdoc id = d1\n# sent_id = 1\n1-2\tdámelo\t_\t_\t_\t_\t_\t_\t_\t_\n1\tda\tdar\tVERB\tV\t_\t0\troot\t_\t_\n"
    "2\tme lo\tyo\tPRON\tP\tCase=Acc\t1\tobj\t_\tSpaceAfter=No\n2.1\te\t_\t_\t_\t_\t_\t_\t_\t_\n"
)
CONLL_2003 = (
    "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nsent VBD B-VP O\n\n-DOCSTART- -X- -X- O\n\nBonn NNP B-NP B-LOC\n"
)
LABEL_STUDIO = "-DOCSTART- -X- O\nEU -X- _ B-ORG\nrejects -X- _ O\n\nBonn -X- _ B-LOC\n"
SPACY = "I|O like|O London|B-GPE\nYes|O\n"
GERMEVAL = "#\thttp://x [2009]\n1\tSchartau\tB-PER\tO\n2\tsagte\tO\tO\n"
ONTONOTES = "#begin document (bc/x); part 000\nbc 0 0 I O\nbc 0 1 Oslo B-GPE\n\n#end document\n"


def read(source: Conll, folder: Path, text: str, name: str = "x.conll") -> tuple[list[Any], list[str], list[str]]:
    """Return the values of the rows, the problems of bad rows, and the kinds of what is passed over."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    raws = list(source.read(path))
    rows = [raw.values for raw in raws if not raw.problem and not raw.ignored]
    return rows, [raw.problem for raw in raws if raw.problem], [raw.ignored for raw in raws if raw.ignored]


def test_word_numbers_and_comments_are_no_words(tmp_path: Path) -> None:
    rows, problems, passed = read(Conll(), tmp_path, UNER)
    assert rows == [{"tokens": ["Where", "Oslo"], "tags": ["O", "B-LOC"]}, {"tokens": ["Hi"], "tags": ["O"]}]
    assert not problems
    assert passed[0] == "columns of word numbers (words are read from column 1, tags from column 2, counted from 0)"
    assert passed[1:] == ["comment lines"] * 3


def test_conll_u_names_its_columns_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        read(Conll(), tmp_path, CONLL_U, "x.conllu")
    for text in ("token_column: 1", "tag_column: 3 (UPOS) is 'VERB'", "scheme: plain", "'da'"):
        assert text in str(refused.value)


def test_multiword_tokens_and_empty_nodes_are_counted_and_words_may_hold_blanks(tmp_path: Path) -> None:
    rows, problems, passed = read(Conll(token_column=1, tag_column=3), tmp_path, CONLL_U)
    assert rows == [{"tokens": ["da", "me lo"], "tags": ["VERB", "PRON"], "document": "d1"}]
    assert not problems
    assert sorted(set(passed)) == [
        "comment lines", "empty nodes, which are no words of the text", "multiword tokens, whose words follow them"
    ]  # fmt: skip


def test_two_columns_of_tags_are_both_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"several columns hold tags.*tag_column: 2 is 'B-PER'; tag_column: 3 is 'O'"):
        read(Conll(), tmp_path, GERMEVAL)
    assert read(Conll(token_column=1, tag_column=2), tmp_path, GERMEVAL)[0][0]["tags"] == ["B-PER", "O"]


@pytest.mark.parametrize("text", [CONLL_2003, LABEL_STUDIO])
def test_document_lines_are_borders_and_name_documents(tmp_path: Path, text: str) -> None:
    rows, problems, passed = read(Conll(), tmp_path, text)
    assert [row["tokens"][0] for row in rows] == ["EU", "Bonn"]
    assert [row["tags"][0] for row in rows] == ["B-ORG", "B-LOC"]
    assert rows[0]["document"] == "1" and not problems
    assert set(passed) == {"-DOCSTART- lines"}


def test_documents_of_ontonotes_have_their_names(tmp_path: Path) -> None:
    rows, _, passed = read(Conll(token_column=3), tmp_path, ONTONOTES)
    assert rows == [{"tokens": ["I", "Oslo"], "tags": ["O", "B-GPE"], "document": "bc/x"}]
    assert passed == ["comment lines"] * 2


def test_a_sentence_a_line_is_read_too(tmp_path: Path) -> None:
    rows, problems, _ = read(Conll(), tmp_path, SPACY, "x.iob")
    assert rows[0] == {"tokens": ["I", "like", "London"], "tags": ["O", "O", "B-GPE"]}
    assert len(rows) == 2 and not problems


def test_a_word_may_begin_with_the_sign_of_a_comment(tmp_path: Path) -> None:
    text = "# O\nOslo B-LOC\n\n#tag B-X\n\n# a note = here\nA O\n\n# id = 1\nB O\n# a longer remark\n\n#x\nC O\n"
    rows, problems, passed = read(Conll(), tmp_path, text)
    assert [row["tokens"] for row in rows] == [["#", "Oslo"], ["#tag"], ["A"], ["B"]]
    assert len(problems) == 1 and "has 1 column where the lines before have 2" in problems[0]
    assert passed == ["comment lines"] * 3


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("bioes", ["B-a", "E-a", "S-b", "O"]),
        ("bilou", ["B-a", "L-a", "U-b", "O"]),
        ("io", ["a", "a", "b", "O"]),
        ("iob1", ["I-a", "I-a", "I-b", "O"]),
        ("iob2", ["B-a", "I-a", "B-b", "O"]),
    ],
)
def test_each_scheme_is_turned_into_iob2(tmp_path: Path, scheme: Any, tags: list[str]) -> None:
    rows, problems, _ = read(Conll(scheme=scheme), tmp_path, "".join(f"w {tag}\n" for tag in tags))
    assert rows[0]["tags"] == ["B-a", "I-a", "B-b", "O"] and not problems


def test_tags_that_do_not_follow_their_scheme_are_a_bad_row(tmp_path: Path) -> None:
    rows, problems, _ = read(Conll(scheme="bioes"), tmp_path, "a S-x\n\nb E-x\n")
    assert len(rows) == 1
    assert "tag 1 is 'E-x'" in problems[0]


def test_a_heading_is_no_word_among_plain_tags(tmp_path: Path) -> None:
    text = "# Section\nOslo NOUN\nis VERB\n\n# Section\n# VERB\nnice ADJ\n# SYM\n\n# SYM\n1 NUM\n"
    rows, problems, passed = read(Conll(), tmp_path, text)
    assert [row["tokens"] for row in rows] == [["Oslo", "is"], ["#", "nice", "#"], ["#", "1"]]
    assert (problems, passed) == ([], ["comment lines"] * 2)


def test_a_line_with_a_tag_is_never_a_comment(tmp_path: Path) -> None:
    text = "#a= O\nOslo B-LOC\n\n#key=value B-X\n# O\n"
    rows, problems, passed = read(Conll(), tmp_path, text)
    assert [row["tokens"] for row in rows] == [["#a=", "Oslo"], ["#key=value", "#"]]
    assert (problems, passed) == ([], [])
