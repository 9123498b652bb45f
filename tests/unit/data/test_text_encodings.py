"""Encodings of text files: by their mark, as written, and suggested by what fits."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from doubles.fake_tasks import Sorting
from regraft.contracts import Source
from regraft.data.ingest import ingest
from regraft.data.inputs import find_data_files
from regraft.data.metadata_table import MetadataTable
from regraft.data.sources.csv import Csv
from regraft.data.text_encoding import undecodable
from regraft.errors import DataError
from regraft.spec.sections import DataSpec

FRENCH = "Le café était déjà fermé à l'arrivée du garçon, hélas."
POLISH = "Zażółć gęślą jaźń, książka leży na półce, święta są już blisko."
RUSSIAN = "Поезд пришёл вовремя, но вагон был полон людей."
GREEK = "Το τρένο ήρθε στην ώρα του, αλλά ήταν γεμάτο."
JAPANESE = "電車は時間通りに来たが、車内はとても混んでいました。"
CHINESE = "火车准时到达，但是车厢里人很多，我们没有座位。"
KOREAN = "기차는 제시간에 왔지만 객차는 사람들로 가득했다."
TURKISH = "Tren zamanında geldi ama vagon çok kalabalıktı, şaşırdık, yağmur yağıyordu."


def rows_of(written: Path, form: Source | None = None) -> list[Any]:
    return [raw.values for file in find_data_files(str(written), form, written.parent) for raw in file.rows()]


def refused(path: Path, form: Source | None = None) -> DataError:
    with pytest.raises(DataError) as error:
        rows_of(path, form)
    return error.value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-marked", "utf-16-be-marked", "utf-32"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.jsonl", "rows.json", "rows.txt", "rows.conll"])
def test_a_marked_file_is_read_whatever_its_encoding(tmp_path: Path, encoding: str, name: str) -> None:
    text = {
        "csv": f'text,label\n"{FRENCH}",a\n',
        "jsonl": f'{{"text": "{FRENCH}", "label": "a"}}\n',
        "json": f'[{{"text": "{FRENCH}", "label": "a"}}]',
        "txt": FRENCH,
        "conll": "café O\n",
    }[name.removesuffix(".gz").partition(".")[2]]
    content = (("\ufeff" if encoding.endswith("-marked") else "") + text).encode(encoding.removesuffix("-marked"))
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    [row] = rows_of(tmp_path / name)
    assert row in ({"text": FRENCH, "label": "a"}, {"text": FRENCH}, {"tokens": ["café"], "tags": ["O"]})


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "cp1252"),
        (f"“{FRENCH}” – 5 €", "cp1252"),
        (f"{FRENCH} Il coûte £5, ou 4 € à Noël.", "cp1252"),
        (FRENCH, "mac-roman"),
        (FRENCH, "cp850"),
        (POLISH, "cp1250"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (GREEK, "cp1253"),
        (TURKISH, "cp1254"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc-jp"),
        (CHINESE, "gb18030"),
        (KOREAN, "euc-kr"),
    ],
)
def test_the_encoding_that_fits_is_named_and_reads_the_file(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(("text;label\n" + f"{text};a\n" * 3).encode(encoding))
    error = refused(path, Csv(delimiter=";"))
    assert error.where == f"{path}:2"
    named = error.message.partition("it looks like ")[2].partition(": write")[0]
    assert encoding in named, error.message
    assert named.startswith(encoding) or encoding == "cp1254", error.message
    assert f'write data.format: {{type: csv, delimiter: ";", encoding: {named.split()[0]}}}' in error.message
    assert rows_of(path, Csv(delimiter=";", encoding=encoding))[0]["text"] == text


@pytest.mark.parametrize(
    ("encoding", "name"), [("utf-16-le", "r.csv"), ("utf-16-be", "r.csv"), ("utf-16-le", "r.json")]
)
def test_utf_16_without_a_mark_is_not_read_as_text_with_nuls(tmp_path: Path, encoding: str, name: str) -> None:
    text = "text,label\nfine,a\n" if name.endswith("csv") else '[{"text": "fine", "label": "a"}]'
    (tmp_path / name).write_bytes(text.encode(encoding))
    form = None if name.endswith("csv") else Source.lookup("jsonl")()
    assert f"encoding: {encoding}" in refused(tmp_path / name, form).message
    kind = Source.lookup("csv" if name.endswith("csv") else "jsonl").model_validate({"encoding": encoding})
    assert rows_of(tmp_path / name, kind) == [{"text": "fine", "label": "a"}]


@pytest.mark.parametrize("packed", [False, True])
def test_byte_and_line_count_in_the_whole_file(tmp_path: Path, packed: bool) -> None:
    before = "text,label\n" + "".join(f"row {number},a\n" for number in range(120_000))
    content = before.encode() + "una façade,b\n".encode("cp1252")
    path = tmp_path / ("rows.csv.gz" if packed else "rows.csv")
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    error = refused(path)
    assert error.where == f"{path}:120002"
    assert f"is not UTF-8 text (byte {len(before) + 6}, line 120002); it looks like cp1252 ('una façade,b')" in str(
        error
    )


def test_a_letter_cut_by_a_piece_is_counted_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.data.text_encoding._PIECE", 7)
    content = "aéé\nbéé\nxéxé".encode() + b"\xe9,\n"
    (tmp_path / "x.txt").write_bytes(content)
    place = undecodable([tmp_path / "x.txt"], None)
    assert place is not None
    assert (place.line, place.byte, place.begin[:3], place.mixed) == (3, len(content) - 3, b"x\xc3\xa9", True)


def test_one_line_of_another_encoding_is_named_and_no_encoding_for_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(f"text,label\n{POLISH.replace(',', '')},a\n".encode() + "un garçon,b\n".encode("cp1252"))
    error = refused(path)
    assert error.where == f"{path}:3"
    assert "though the lines before are: correct this line ('un garçon,b')" in error.message


def test_a_wrong_encoding_is_named_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(f"text,label\n{FRENCH},a\n".encode())
    assert "is not ASCII text (byte 17, line 2)" in refused(tmp_path / "rows.csv", Csv(encoding="ascii")).message
    for written in ("ansi", "base64", "undefined"):
        with pytest.raises(ValidationError, match="no encoding that is known; usual ones are utf-8"):
            Csv(encoding=written)


def test_a_source_without_the_setting_does_not_name_it(tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_bytes('{"images": [], "annotations": [], "info": "é"}'.encode("cp1252"))
    error = refused(tmp_path / "instances.json", Source.lookup("coco")())
    assert error.message.endswith(": save it as UTF-8")
    assert "data.format" not in error.message


def test_the_file_of_several_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.en").write_text("One.\n")
    (tmp_path / "t.fr").write_bytes("Déjà.\n".encode("cp1252"))
    error = refused(tmp_path / "t.{en,fr}")
    assert error.where == f"{tmp_path / 't.fr'}:1"
    assert "{type: parallel, encoding: cp1252}" in error.message
    form = Source.parse({"type": "parallel", "encoding": "cp1252"})
    assert isinstance(form, Source)
    assert rows_of(tmp_path / "t.{en,fr}", form) == [{"en": "One.", "fr": "Déjà."}]


def test_a_table_of_labels_is_read_by_its_mark_and_its_error_has_a_place(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_bytes("name\tlabel\none.dcm\tété\n".encode("utf-16"))
    found = MetadataTable(path, "name").find("one")
    assert found is not None
    assert found["label"] == "été"
    path.write_bytes("name\tlabel\none.dcm\tété\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"is not UTF-8 text \(byte 19, line 2\)"):
        MetadataTable(path, "name")


def test_a_name_with_two_rows_that_differ_is_not_decided_by_the_last(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("name,label\none,a\none,b\ntwo,a\ntwo,a\n")
    table = MetadataTable(path, "name")
    assert table.find("one") is None
    assert "has several rows whose name is 'one', and they differ" in table.missing_message("one")
    assert table.find("two") == {"name": "two", "label": "a"}


def test_a_stored_source_has_no_new_field_at_its_default() -> None:
    assert Csv().model_dump(mode="json") == {"type": "csv", "delimiter": None, "quote": '"', "header": True}
    assert Csv(encoding="cp1252").model_dump(mode="json")["encoding"] == "cp1252"
    assert Source.lookup("jsonl")().model_dump(mode="json") == {"type": "jsonl"}


def test_the_run_reads_what_the_message_says(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_bytes("".join(["v1,v2\n", *(f"{'ab'[n % 2]},número {n}\n" for n in range(40))]).encode("cp1252"))
    spec = {"train": str(path), "eval": 0.25, "columns": {"label": "v1", "text": "v2"}}
    with pytest.raises(DataError, match=r"\{type: csv, encoding: cp1252\}"):
        ingest(Sorting(), DataSpec.model_validate(spec), tmp_path)
    spec["format"] = {"type": "csv", "encoding": "cp1252"}
    assert sum(ingest(Sorting(), DataSpec.model_validate(spec), tmp_path).rows.values()) == 40


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"text,label\na,b\n", mtime=0), "it is packed with gzip, so let its name end with .gz"),
        (b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00\xff\xfe", "save the sheet as CSV"),
        (b"PAR1\x15\x04\x15\xff", "write data.format: parquet"),
    ],
    ids=["gzip", "workbook", "parquet"],
)
def test_what_is_no_text_is_named_as_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    assert message in refused(tmp_path / "rows.csv").message


@pytest.mark.parametrize(
    ("name", "way"), [("rows.XLSX", "save the workbook's sheet as CSV"), ("rows.csv.zip", "unpack it")]
)
def test_a_name_that_no_source_reads_comes_with_a_way(tmp_path: Path, name: str, way: str) -> None:
    (tmp_path / name).touch()
    assert way in refused(tmp_path / name).message


def test_words_and_tags_are_read_in_latin_1_as_the_corpora_of_2002_are(tmp_path: Path) -> None:
    path = tmp_path / "esp.conll"
    path.write_bytes("La O\nCoruña B-LOC\n\nMartínez B-PER\n".encode("latin-1"))
    assert "{type: conll, encoding: cp1252}" in refused(path).message
    form = Source.parse({"type": "conll", "encoding": "cp1252"})
    assert isinstance(form, Source)
    assert [row["tokens"] for row in rows_of(path, form)] == [["La", "Coruña"], ["Martínez"]]
    assert "encoding" not in Source.lookup("conll")().model_dump()


@pytest.mark.parametrize("mark", ["\ufeff", ""])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "UTF_32BE", "utf-8"])
@pytest.mark.parametrize("name", ["r.csv", "r.csv.gz"])
def test_a_mark_is_no_text_where_the_encoding_is_written(tmp_path: Path, mark: str, encoding: str, name: str) -> None:
    content = f"{mark}text,label\né,x\n".encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert rows_of(path, Csv(encoding=encoding)) == [{"text": "é", "label": "x"}]
