"""A look at data finds source, columns, task and groups, says what shows them, and refuses what it cannot tell."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.data.look.look import DataLook, LookRequest, look_at
from regraft.errors import DataError, RequestError, UnknownPlugin
from support.depth_models import scenes
from support.image_bases import coloured
from support.rectangles import rectangles
from support.tiny import WORDS, tickets

CITIES = [
    "We",
    "flew",
    "from",
    "Oslo",
    "to",
    "Rome",
    *["and", "back", "home", "again", "before", "the", "long", "winter", "began"],
]


def table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]], delimiter: str = ",") -> Path:
    """Write a table; without names of columns where there are none."""
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, delimiter=delimiter)
        if columns:
            out.writerow(columns)
        out.writerows(rows)
    return path


def sentence(number: int) -> str:
    return " ".join(random.Random(number).choices(WORDS, k=8))


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def look(path: Path | str, **known: Any) -> DataLook:
    return look_at(LookRequest(str(path), **known))


def finding(found: DataLook, subject: str) -> str:
    return next(one.finding for one in found.conclusions if one.subject == subject)


def conll(folder: Path) -> Path:
    path = folder / "words.conll"
    tagged = [f"{word}\t{'B-city' if word in ('Oslo', 'Rome') else 'O'}" for word in CITIES + WORDS]
    path.write_text("\n\n".join("\n".join(tagged[number:]) for number in range(6)))
    return path


def chats(folder: Path) -> Path:
    turns = [[{"role": "user", "content": sentence(n)}, {"role": "assistant", "content": "yes"}] for n in range(12)]
    return lines(folder / "chats.jsonl", [{"messages": one} for one in turns])


def ratings(folder: Path) -> Path:
    return table(folder / "r.txt", (), [(n, n * 0.37, sentence(n)) for n in range(40)], "\t")


def pairs(folder: Path) -> Path:
    rows = [(sentence(n), sentence(n + 99), ("yes", "no")[n % 2]) for n in range(30)]
    return table(folder / "p.csv", ("premise", "hypothesis", "verdict"), rows)


def marks(folder: Path) -> Path:
    return table(folder / "m.csv", ("comment", "rude", "spam"), [(sentence(n), n % 2, n % 3 == 0) for n in range(30)])


def bars(folder: Path) -> Path:
    return table(folder / "b.csv", ("text", "tags"), [(sentence(n), "a|b" if n % 2 else "b") for n in range(30)])


def masks(folder: Path) -> Path:
    for place in ("images", "masks"):
        (folder / place).mkdir()
        for number in range(4):
            Image.fromarray(np.full((8, 8), number % 2, np.uint8)).save(folder / place / f"{number}.png")
    return folder


def depths(folder: Path) -> Path:
    return scenes(folder, images=4, seed=0)


def asked(folder: Path) -> Path:
    texts = [sentence(n) for n in range(30)]
    qas = [
        {"question": sentence(n + 50) + "?", "answers": [{"text": text[:4], "answer_start": 0}]}
        for n, text in enumerate(texts)
    ]
    articles = [{"title": "a", "paragraphs": [{"context": t, "qas": [q]} for t, q in zip(texts, qas, strict=True)]}]
    (folder / "squad.json").write_text(json.dumps({"data": articles}))
    return folder / "squad.json"


MADE: dict[str, Callable[[Path], Path]] = {
    "text-classification": lambda folder: tickets(folder / "t.csv", 30),
    "text-regression": ratings,
    "text-pair-classification": pairs,
    "text-multi-label": bars,
    "token-classification": conll,
    "question-answering": asked,
    "text-generation": chats,
    "image-classification": lambda folder: coloured(folder / "c", each=4, seed=0),
    "object-detection": lambda folder: rectangles(folder, images=4, seed=0),
    "semantic-segmentation": masks,
    "depth-estimation": depths,
}


@pytest.mark.parametrize("task", MADE)
def test_the_task_follows_from_the_rows_alone(task: str, tmp_path: Path) -> None:
    found = look(MADE[task](tmp_path))
    assert found.task.key() == task
    assert all(one.finding for one in found.conclusions) and found.rows
    assert json.loads(json.dumps(found.document()))["task"]["type"] == task


def test_columns_of_single_labels_are_one_column_of_labels(tmp_path: Path) -> None:
    found = look(marks(tmp_path))
    assert found.data["columns"] == {"text": "comment", "labels": ["rude", "spam"]}


def test_a_table_without_names_gets_names_its_delimiter_and_no_quotes(tmp_path: Path) -> None:
    found = look(ratings(tmp_path))
    names = ["column1", "column2", "column3"]
    assert found.data["format"] == {"type": "csv", "delimiter": "\t", "quote": None, "header": names}
    assert found.data["columns"] == {"text": "column3", "target": "column2"}, "the first column counts the rows"


def test_a_semicolon_is_found_and_a_usual_file_needs_no_format(tmp_path: Path) -> None:
    rows = [(sentence(n), "ab"[n % 2]) for n in range(20)]
    semicolons = look(table(tmp_path / "s.csv", ("text", "label"), rows, ";"))
    assert semicolons.data["format"] == {"type": "csv", "delimiter": ";"}
    assert "format" not in look(table(tmp_path / "c.csv", ("text", "label"), rows)).data


def test_folders_of_a_split_are_its_sides(tmp_path: Path) -> None:
    coloured(tmp_path / "train", each=3, seed=0)
    coloured(tmp_path / "val", each=2, seed=1)
    found = look(tmp_path)
    assert found.data == {"train": str(tmp_path / "train"), "eval": str(tmp_path / "val")}
    assert finding(found, "pictures") == "40 x 36"


def test_rows_of_a_patient_stay_together(tmp_path: Path) -> None:
    rows = [(sentence(n), "ab"[n % 2], f"p{n % 12}") for n in range(48)]
    found = look(table(tmp_path / "p.csv", ("text", "label", "patient_id"), rows))
    assert found.data["group"] == "patient_id"
    few = [(*row[:2], f"p{number % 3}") for number, row in enumerate(rows)]
    assert "group" not in look(table(tmp_path / "q.csv", ("text", "label", "patient_id"), few)).data


def test_language_balance_and_equal_rows_are_stated(tmp_path: Path) -> None:
    text = "the cat is on the table and it is not for you"
    found = look(table(tmp_path / "c.csv", ("text", "label"), [(f"{text} {n % 20}", "ab"[n > 3]) for n in range(40)]))
    assert finding(found, "language").startswith("probably English")
    assert "9 times as many" in finding(found, "balance")
    assert finding(found, "equal rows").startswith("20 repeat")


@pytest.mark.parametrize("task", ["text-classification", "text-regression"])
def test_whole_ratings_fit_two_tasks_and_the_flag_decides(task: str, tmp_path: Path) -> None:
    path = table(tmp_path / "r.csv", ("review", "stars"), [(sentence(n), n % 5 + 1) for n in range(50)])
    with pytest.raises(RequestError, match=r"--task text-classification or --task text-regression"):
        look(path)
    assert look(path, task=task).task.key() == task


def test_texts_that_belong_together_are_pairs_where_the_task_is_named(tmp_path: Path) -> None:
    rows = [(sentence(n), sentence(n + 40)) for n in range(30)]
    found = look(table(tmp_path / "p.csv", ("question", "reply"), rows), task="embeddings")
    assert found.task.key() == "embeddings" and set(found.data["columns"]) == {"text", "pair"}


REFUSED: dict[str, tuple[Sequence[str], Sequence[Sequence[object]], str]] = {
    "texts alone": (("text",), [(sentence(n),) for n in range(9)], "no labels are recognised.*--task masked-lm"),
    "no labels": (("id", "day"), [(n, f"2026-01-{n + 1:02d}") for n in range(9)], "no labels are recognised"),
    "one row a class": (("text", "label"), [(sentence(n), f"c{n}") for n in range(9)], "has one row"),
    "one class": (("text", "label"), [(sentence(n), "a") for n in range(9)], "needs two"),
    "all rows alike": (("text", "label"), [("a b c d", "ab"[n % 2]) for n in range(9)], "all 9 rows have the same"),
    "two columns of labels": (
        ("text", "colour", "shape"),
        [(sentence(n), "rgb"[n % 3], ("round", "flat")[n % 2]) for n in range(30)],
        "write --columns label=colour or --columns label=shape",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learned_is_one_message(case: str, tmp_path: Path) -> None:
    names, rows, message = REFUSED[case]
    path = table(tmp_path / "rows.csv", names, rows)
    with pytest.raises((DataError, RequestError), match=message) as error:
        look(path)
    assert error.value.exit_code == 2 and str(path) in str(error.value)


def test_pictures_without_labels_are_refused(tmp_path: Path) -> None:
    folder = coloured(tmp_path, each=2, seed=0) / "red"
    with pytest.raises(DataError, match="a folder of pictures for each class"):
        look(folder)


def test_a_written_column_decides_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    names, rows, _ = REFUSED["two columns of labels"]
    path = table(tmp_path / "rows.csv", names, rows)
    assert look(path, columns={"label": "shape"}).data["columns"] == {"label": "shape"}
    with pytest.raises(RequestError, match="Did you mean 'shape'"):
        look(path, columns={"label": "shapes"})
    with pytest.raises(UnknownPlugin, match="Did you mean"):
        look(path, task="text-classificaton")
