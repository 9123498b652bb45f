"""A predictor takes rows as Python callers hold them, or says what it takes."""

from __future__ import annotations

import io
from collections import namedtuple
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from PIL import Image

from regraft.contracts import Task
from regraft.errors import DataError
from regraft.serving.predictor import Predictor
from regraft.serving.row_checks import check_rows
from unit.every.rows import task_of
from unit.serving.tiny import publish

TEXT, IMAGE, PAIR = task_of("text-classification"), task_of("image-classification"), task_of("text-pair-classification")
TOKENS = task_of("token-classification")
TEXTS = ["one text", "another"]
ROWS = [{"text": text} for text in TEXTS]
Pair = namedtuple("Pair", ["text", "pair"])


@cache
def chat() -> Task:
    found = Task.parse({"type": "text-generation", "form": "chat"})
    assert isinstance(found, Task)
    return found


def texts(rows: Any, task: Task = TEXT, names: Mapping[str, Any] | None = None) -> list[Any]:
    return [{name: value for name, value in row.items() if name != "row"} for row in check_rows(task, rows, names)]


TABLE = {"text": TEXTS, "id": [1, 2], "label": ["a", "b"]}


@pytest.mark.parametrize(
    "rows",
    [
        TEXTS,
        tuple(TEXTS),
        iter(TEXTS),
        ROWS,
        np.array(TEXTS),
        pd.Series(TEXTS),
        pd.Series(TEXTS, index=["a", "b"]),
        pd.DataFrame(TABLE),
        pd.DataFrame(TABLE, index=["x", "y"]),
        pd.DataFrame({"text": TEXTS, 7: [0, 1]}),
        pd.DataFrame({"text": TEXTS}).itertuples(index=False),
        pa.table(TABLE),
        pa.RecordBatch.from_pydict(TABLE),
        pa.RecordBatchReader.from_batches(pa.table(TABLE).schema, pa.table(TABLE).to_batches()),
        pa.array(TEXTS),
        pa.chunked_array([TEXTS]),
        Dataset.from_dict(TABLE),
    ],
    ids=lambda rows: type(rows).__name__,
)
def test_tables_and_lists_are_rows(rows: Any) -> None:
    assert texts(rows) == ROWS


def test_one_row_needs_no_list() -> None:
    assert (
        texts("one text") == texts({"text": "one text"}) == texts(pd.DataFrame(TABLE).iloc[0].drop(["id"])) == ROWS[:1]
    )
    assert texts(Pair("a", "b"), PAIR) == texts([Pair("a", "b")], PAIR) == [{"text": "a", "pair": "b"}]


def test_words_come_as_lists_arrays_or_a_text() -> None:
    wanted = [{"tokens": ["w5", "w6"]}]
    frame = pa.table({"tokens": [["w5", "w6"]]}).to_pandas()
    assert texts([["w5", "w6"]], TOKENS) == texts([np.array(["w5", "w6"])], TOKENS) == texts(frame, TOKENS) == wanted
    assert texts("w5 w6", TOKENS) == [{"tokens": "w5 w6"}]


def test_a_chat_is_a_text_or_a_conversation() -> None:
    said = [{"role": "user", "content": "hello"}]
    for rows in ("hello", ["hello"], said, [said], [{"messages": said}], [{"messages": "hello"}], tuple(said)):
        assert texts(rows, chat()) == [{"messages": said}]
    assert texts(["hello", said], chat()) == [{"messages": said}] * 2


def test_names_of_the_training_files_are_names_too() -> None:
    names = {"text": "review", "label": "stars"}
    for rows in (
        [{"review": "one text"}],
        [{"text": "one text", "stars": 3}],
        pd.DataFrame({"review": ["one text"], "n": [1]}),
    ):
        assert texts(rows, names=names) == ROWS[:1]
    assert texts([{"example": {"en": "one text"}, "label": 1}], names={"text": "example.en"}) == ROWS[:1]
    with pytest.raises(DataError, match=r"a row has text \(in the training files review\)"):
        texts([{"revue": "a"}], names=names)
    with pytest.raises(DataError, match="Unknown column 'colour'"):
        texts([{"review": "a", "colour": "b"}], names=names)
    several: Any = {"text": ["title", "body"], "label": ["rude", "kind"]}
    assert texts([{"title": "one", "body": "text", "rude": 1, "kind": 0}], names=several) == [{"text": "one\ntext"}]
    assert texts(pd.DataFrame({"title": ["one"], "body": ["text"]}), names=several) == [{"text": "one\ntext"}]
    with pytest.raises(DataError, match="title: is 3"):
        texts([{"title": 3, "body": "text"}], names=several)
    with pytest.raises(DataError, match="in the training files title and body"):
        texts([{"title": "one"}], names=several)
    swapped = {"text": "pair", "pair": "text"}
    assert texts([{"text": "a", "pair": "b"}], PAIR, swapped) == [{"text": "a", "pair": "b"}], (
        "its own names come first"
    )


def test_a_predictor_knows_the_names_of_its_training_files(store: Path, bases: dict[str, Path]) -> None:
    publish(store, bases["cls"], "text-classification", "full")
    predictor = Predictor.open(str(store), "tiny", device="cpu")
    assert predictor.column_names == {}
    predictor.__dict__["column_names"] = {"text": "review"}
    frame = pd.DataFrame({"review": TEXTS, "stars": [1, 2]})
    assert predictor.predict(frame) == predictor.predict(TEXTS) == predictor.predict(iter(ROWS))
    assert torch.equal(predictor.logits(frame), predictor.logits(TEXTS))


@pytest.mark.parametrize(
    "rows, message",
    [
        (7, "an int is given; allowed is a list of rows, a table"),
        (None, "a NoneType is given"),
        (object(), "an object is given"),
        ({"a", "b"}, "has no order"),
        ([["w5"]], "column 'text' is a list; allowed is text"),
        ([b"bytes"], "decode it"),
        (b"bytes", "decode it"),
        (Path("a.txt"), "allowed is text"),
        (Image.new("RGB", (4, 4)), "an Image is given"),
        ([Image.new("RGB", (4, 4))], "column 'text' is an Image"),
        (pd.DataFrame({"text": ["a", None]}), "row 1: column 'text' is missing"),
        (pd.DataFrame({"text": ["a", float("nan")]}), "row 1: column 'text' is missing"),
        (pd.DataFrame({"text": pd.array(["a", None], dtype="string")}), "row 1: column 'text' is missing"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "two columns 'text'"),
        (pd.DataFrame({"txt": ["a"]}), "column 'text' is missing"),
        (np.array(7), "is given"),
    ],
)
def test_what_is_no_row_is_refused_in_words(rows: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_rows(TEXT, rows)
    assert message in str(caught.value)


# Pictures


def pixels_of(row: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(row["image"]).convert("RGB"))


COLOURED = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = COLOURED[..., 0]
CHANNELS_FIRST = np.ascontiguousarray(np.moveaxis(COLOURED, 2, 0))


@pytest.mark.parametrize(
    "value, wanted",
    [
        (Image.fromarray(COLOURED), COLOURED),
        (Image.fromarray(GREY), GREY),
        (Image.fromarray(COLOURED).convert("RGBA"), COLOURED),
        (Image.fromarray(COLOURED).convert("P"), Image.fromarray(COLOURED).convert("P").convert("RGB")),
        (Image.fromarray(GREY).convert("1"), Image.fromarray(GREY).convert("1").convert("RGB")),
        (Image.fromarray(COLOURED).convert("CMYK"), Image.fromarray(COLOURED).convert("CMYK").convert("RGB")),
        (COLOURED, COLOURED),
        (COLOURED[:, ::-1], COLOURED[:, ::-1]),
        (GREY, GREY),
        (GREY[..., None], GREY),
        (np.dstack([COLOURED, GREY]), COLOURED),
        (CHANNELS_FIRST, COLOURED),
        (torch.from_numpy(COLOURED), COLOURED),
        (torch.from_numpy(CHANNELS_FIRST), COLOURED),
        (torch.from_numpy(GREY.copy()), GREY),
    ],
)
def test_pictures_in_memory_keep_their_pixels(value: Any, wanted: Any) -> None:
    wanted = np.asarray(wanted)
    wanted = np.dstack([wanted] * 3) if wanted.ndim == 2 else wanted
    for rows in (value, [value], [{"image": value}], iter([value])):
        (row,) = check_rows(IMAGE, rows)
        assert (pixels_of(row) == wanted).all()


def test_several_pictures_are_a_list_or_an_array_of_four_dimensions() -> None:
    for rows in (np.stack([COLOURED] * 3), torch.from_numpy(np.stack([CHANNELS_FIRST] * 3)), [COLOURED] * 3):
        assert [pixels_of(row).tolist() for row in check_rows(IMAGE, rows)] == [COLOURED.tolist()] * 3


def test_a_picture_s_orientation_counts_as_in_a_file(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOURED).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        (row,) = check_rows(IMAGE, image)
    assert Image.Image.getexif(Image.open(row["image"])).get(0x0112) == 6


def test_files_are_pictures_too(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(COLOURED).save(file, "PNG")
    (tmp_path / "a.png").write_bytes(file.getvalue())
    stored = {"bytes": file.getvalue(), "path": None}
    for value in (
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        np.str_(tmp_path / "a.png"),
        file.getvalue(),
        file,
        stored,
    ):
        for rows in ([{"image": value}], *([] if value is stored else [value, [value]])):
            (row,) = check_rows(IMAGE, rows)
            assert (pixels_of(row) == COLOURED).all()


@pytest.mark.parametrize(
    "value, message",
    [
        (COLOURED / 255.0, "is an array of float64; allowed are pixels of 8 bits"),
        (torch.rand(3, 20, 30), "is an array of float32"),
        (torch.rand(3, 20, 30).bfloat16(), "is an array of bfloat16"),
        (COLOURED.astype(np.int64), "x.astype('uint8')"),
        (COLOURED.astype(np.uint16), "array of uint16"),
        (torch.zeros(3, 20, 3, dtype=torch.uint8), "either end"),
        (np.zeros((20, 30, 7), np.uint8), "neither end"),
        (np.zeros((0, 3), np.uint8), "has no pixels"),
        (np.array([["a", "b"]]), "is an array of <U1"),
        (Image.fromarray((COLOURED[..., 0] / 255).astype(np.float32)), "floating-point pixels"),
        (Image.fromarray(COLOURED[..., 0].astype(np.int32) * 1000), "grey levels"),
    ],
)
def test_pixels_of_no_certain_meaning_are_refused_with_the_way(value: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_rows(IMAGE, [COLOURED, value])
    assert (
        caught.value.where == "row 1" and "column 'image'" in caught.value.message and message in caught.value.message
    )


def test_pictures_in_memory_are_answered_as_their_files(
    store: Path, bases: dict[str, Path], pictures: list[str]
) -> None:
    publish(store, bases["squares"], {"type": "object-detection", "threshold": 0.0}, "full")
    predictor = Predictor.open(str(store), "tiny", device="cpu")
    opened = [Image.open(path) for path in pictures]
    wanted = predictor.predict(pictures)
    assert predictor.predict(opened) == predictor.predict([np.asarray(image) for image in opened]) == wanted
    assert predictor.predict(opened[0]) == wanted[:1] == predictor.predict(Path(pictures[0]))
