"""How many texts are cut is said from a sample of the rows, with its size, and names the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regraft.bases.load import BaseLoader, load_processor
from regraft.bases.locate import locate
from regraft.contracts import Context
from regraft.data import row_sample
from regraft.data.row_sample import cut_notes, fit_to_data, sample
from regraft.data.rows import Rows, RowWriter
from regraft.tasks.text_classification import TextClassification
from regraft.tasks.text_pair_classification import TextPairClassification
from regraft.tasks.token_classification import TokenClassification
from support.tiny import tiny_bert

LONG, SHORT = "lamp " * 30, "lamp " * 5


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    base = locate(str(tiny_bert(tmp_path_factory.mktemp("base"))))
    return Context(load_processor(base, "text"), (), BaseLoader(base).config)


def rows_of(folder: Path, task: Any, rows: list[dict[str, Any]]) -> Rows:
    path = folder / "rows.arrow"
    with RowWriter(path, task.input_columns()) as writer:
        for row in rows:
            writer.add(row, task.length(row))
    return Rows(path, task.input_columns())


def texts(count: int, long: int) -> list[dict[str, Any]]:
    return [{"text": LONG if number < long else SHORT, "label": "a"} for number in range(count)]


def test_rows_that_are_cut_are_counted_with_what_is_lost(tmp_path: Path, context: Context) -> None:
    task = TextClassification(max_length=16)
    notes = list(cut_notes(task, rows_of(tmp_path, task, texts(40, 30)), context, "training"))
    assert notes == [
        "30 of 40 training rows are longer than 16 tokens and are cut (50 % of their tokens are not read): "
        "task.max_length up to 64 reads more"
    ]


def test_nothing_is_said_where_nothing_is_cut(tmp_path: Path, context: Context) -> None:
    task = TextClassification()
    assert not list(cut_notes(task, rows_of(tmp_path, task, texts(5, 5)), context, "training"))


def test_a_base_that_reads_no_more_is_named(tmp_path: Path, context: Context) -> None:
    task = TextClassification()
    rows = rows_of(tmp_path, task, [{"text": "lamp " * 100, "label": "a"}])
    (note,) = cut_notes(task, rows, context, "evaluated")
    assert note.startswith("1 of 1 evaluated rows is longer than 64 tokens and is cut (37 % of its tokens")
    assert note.endswith("this base reads no more: write long texts as several rows, or name a base that reads more")


def test_both_texts_of_a_pair_and_all_words_count(tmp_path: Path, context: Context) -> None:
    pairs = TextPairClassification(max_length=16)
    rows = rows_of(tmp_path, pairs, [{"text": SHORT * 4, "pair": SHORT, "label": "a"}])
    assert "1 of 1 training rows is longer than 16 tokens" in next(cut_notes(pairs, rows, context, "training"))
    words = TokenClassification(max_length=16)
    rows = rows_of(tmp_path, words, [{"tokens": ["lamp"] * 20, "tags": ["O"] * 20}])
    assert "1 of 1 training rows is longer than 16 tokens" in next(cut_notes(words, rows, context, "training"))


def test_many_rows_are_counted_by_a_sample(tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sample, "MOST_ROWS", 20)
    task = TextClassification(max_length=16)
    rows = rows_of(tmp_path, task, texts(1200, 1200))
    (note,) = cut_notes(task, rows, context, "training")
    assert note.startswith("20 of a sample of 20 of 1,200 training rows are longer than 16 tokens")
    assert sample(rows) == sample(rows) == sorted(set(sample(rows)))


def test_a_sample_of_long_texts_holds_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sample, "MOST_CHARACTERS", 1000)
    rows = rows_of(tmp_path, TextClassification(), texts(60, 60))
    assert len(sample(rows)) == 20


def test_a_task_is_fitted_to_a_sample_of_its_rows(tmp_path: Path) -> None:
    task = TokenClassification()
    rows = rows_of(tmp_path, task, [{"tokens": ["Oslo-Bergen", "on."], "tags": ["O", "O"]}] * 30)
    fitted = fit_to_data(task, rows)
    assert isinstance(fitted, TokenClassification) and fitted.words is not None and fitted.words.cut == "blanks"
