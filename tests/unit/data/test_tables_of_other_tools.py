"""Tables as Excel, Spark, pandas and PowerShell write them."""

from __future__ import annotations

import csv as csv_module
from pathlib import Path
from typing import Any

import pytest

from doubles.fake_tasks import Reading, Sorting, Tagging
from regraft.contracts import Source, Task
from regraft.data.ingest import ingest
from regraft.data.sources.csv import Csv
from regraft.errors import DataError
from regraft.spec.sections import DataSpec


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def rows(path: Path, **fields: Any) -> list[tuple[dict[str, Any], str]]:
    """Return each row's values and its problem or what it is passed over as."""
    return [(raw.values, raw.problem or raw.ignored) for raw in Csv(**fields).read(path)]


def refusal(task: Task, path: Path, **data: Any) -> str:
    with pytest.raises(DataError) as refused:
        ingest(task, DataSpec.model_validate({"train": str(path), "eval": str(path), **data}), path.parent)
    return refused.value.message


GOOD = [({"text": "a", "label": "x"}, ""), ({"text": "b", "label": "y"}, "")]


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("r.csv", "sep=;\r\ntext;label\r\na;x\r\nb;y\r\n", "utf-8-sig"),
        ("r.csv", '"sep=;"\ntext;label\na;x\nb;y\n', "utf-8"),
        ("r.csv", "SEP=\t\r\ntext\tlabel\r\na\tx\r\nb\ty\r\n", "utf-16"),
        ("r.csv", "text,label\ra,x\rb,y\r", "utf-8"),
        ("r.tsv", "text\tlabel\r\na\tx\r\nb\ty\r\n", "utf-16"),
        ("r.csv", "\n \ntext,label\na,x\nb,y\n\n", "utf-8"),
        ("r.csv", '"text","label"\r\n"a","x"\r\n"b","y"\r\n', "utf-16"),
        ("r.csv", "text,label\na,x,,\nb,y,,\n", "utf-8"),
    ],
)
def test_what_excel_and_powershell_write_is_read(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    assert [row for row in rows(write(tmp_path / name, text, encoding)) if row[1] != "blank lines"] == GOOD


def test_the_written_delimiter_wins_over_the_files_own_line(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "sep=;\ntext|label\na|x\nb|y\n")
    assert rows(path, delimiter="|") == GOOD


def test_rows_without_any_value_are_passed_over_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "text,label\na,x\n   \n,\n;;\n,,,,\nb,y\n")
    found = rows(path)
    assert [values for values, note in found if not note] == [values for values, _ in GOOD]
    assert [note for _, note in found if note] == [
        "rows without any value",
        "rows without any value",
        "has 1 cell for 2 columns: put quotes around cells that contain the delimiter, or set data.format.quote: null "
        "if quotes are plain text",
        "rows without any value",
    ]


def test_blank_lines_of_one_column_are_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "text\na\n \n\nb\n")
    passed = [({}, "rows without any value"), ({}, "blank lines")]
    assert rows(path) == [({"text": "a"}, ""), *passed, ({"text": "b"}, "")]


@pytest.mark.parametrize("columns", [1, 2])
def test_a_row_of_quotes_without_anything_in_them_is_a_row(tmp_path: Path, columns: int) -> None:
    """pandas writes "" for what is missing in a table of one column."""
    names = ["text", "label"][:columns]
    cells = [",".join(['""'] * columns), ",".join(['"x"'] * columns)]
    path = write(tmp_path / "r.csv", "\n".join([",".join(names), *cells, cells[0], ""]))
    empty = (dict.fromkeys(names, ""), "")
    assert rows(path) == [empty, (dict.fromkeys(names, "x"), ""), empty]


def test_powershells_type_line_is_passed_over_and_counted(tmp_path: Path) -> None:
    head = "#TYPE System.Management.Automation.PSCustomObject\r\n"
    body = '"text","label"\r\n' + "".join(f'"row {n}","{"ab"[n % 2]}"\r\n' for n in range(20))
    path = write(tmp_path / "r.csv", head + body, "utf-16")
    [first, *_] = Csv().read(path)
    assert (first.ignored, first.where) == ("#TYPE lines of PowerShell", f"{path}:1")
    made = ingest(Sorting(), DataSpec(train=str(path), eval=str(path)), tmp_path)
    assert made.rows == {"train": 20, "eval": 20}
    assert f"passed over #TYPE lines of PowerShell: 2, the first {path}:1" in made.notes
    assert next(raw.where for raw in Csv().read(path) if not raw.ignored) == f"{path}:3"


SPARK = 'text,label\n"he said \\"hi\\", then left",x\n"C:\\new\\table",y\n"ends with \\\\",x\nplain \\d,y\n'


def test_sparks_escaped_quotes_are_read_with_the_setting_that_the_message_names(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", SPARK)
    [(_, problem), *_] = rows(path)
    assert "write in data.format quote: null" in problem
    assert "escape: '\\' if \\\" is a quote inside of a cell" in problem
    read = rows(path, escape="\\")
    assert [values["text"] for values, _ in read] == [
        'he said "hi", then left',
        "C:\\new\\table",
        "ends with \\",
        "plain \\d",
    ]
    assert not any(note for _, note in read)


def test_what_pandas_escapes_is_read_as_pandas_reads_it(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    texts = ['"quoted"', 'a "b", c', "back\\slash", 'end\\"', "two\nlines", ""]
    frame = pandas.DataFrame({"text": texts, "label": list("xyxyxy")})
    path = tmp_path / "r.csv"
    frame.to_csv(path, index=False, escapechar="\\", doublequote=False, quoting=csv_module.QUOTE_ALL)
    back = pandas.read_csv(path, escapechar="\\", doublequote=False, keep_default_na=False)
    assert [values["text"] for values, _ in rows(path, escape="\\")] == list(back["text"]) == texts


def test_a_quote_that_holds_lines_together_is_named_with_them(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", 'text,label\n"open,x\nb,y\n"also,x\nc,y\n')
    [(_, problem), good] = rows(path)
    assert "(lines 2 to 4, which a quote holds together)" in problem
    assert good == ({"text": "c", "label": "y"}, "")
    assert rows(path, quote=None)[0] == ({"text": '"open', "label": "x"}, "")


def test_a_nul_is_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "text,label\nfi\0ne,x\nb,y\n")
    [(_, problem), good] = rows(path)
    assert problem.startswith("holds a NUL character")
    assert good == GOOD[1]


def test_columns_that_are_not_read_may_have_any_name_or_none(tmp_path: Path) -> None:
    body = "".join(f"{'ab'[n % 2]},text {n},,,\n" for n in range(20))
    path = write(tmp_path / "spam.csv", "v1,v2,,,\n" + body)
    spec = DataSpec(train=str(path), eval=str(path), columns={"label": "v1", "text": "v2"})
    assert ingest(Sorting(), spec, tmp_path).rows["train"] == 20
    path = write(tmp_path / "twice.csv", "label,text,note,note\n" + "a,b,1,2\n" + "b,c,3,4\n")
    assert rows(path)[0][0] == {"label": "a", "text": "b", "note#1": "1", "note#2": "2"}


def test_a_doubled_column_that_is_read_must_be_chosen(tmp_path: Path) -> None:
    body = "".join(f"first {n},{'ab'[n % 2]},second {n}\n" for n in range(20))
    path = write(tmp_path / "r.csv", "text,label,text\n" + body)
    assert "the header names 'text' more than once: write text#1 for the first of them" in refusal(Sorting(), path)
    spec = DataSpec(train=str(path), eval=str(path), columns={"text": "text#2"})
    assert ingest(Sorting(), spec, tmp_path).rows["train"] == 20


@pytest.mark.parametrize(
    ("name", "text", "task", "message"),
    [
        ("r.csv", "text;label\na;x\n", Sorting(), 'write data.format: {type: csv, delimiter: ";"}'),
        ("r.csv", "text\tlabel\na\tx\n", Sorting(), 'write data.format: {type: csv, delimiter: "\\t"}'),
        ("r.tsv", "text,label\na,x\n", Sorting(), 'write data.format: {type: csv, delimiter: ","}'),
        ("r.csv", "review;stars\na;x\n", Sorting(), 'write data.format: {type: csv, delimiter: ";"}'),
        ("r.tsv", "EU\tB-ORG\nrejects\tO\n\nParis\tB-LOC\n", Tagging(), "write data.format: conll"),
        ("r.tsv", "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\n", Tagging(), "write data.format: conll"),
        ("r.txt", "EU B-ORG\nrejects O\n", Tagging(), "write data.format: conll"),
        ("r.txt", "text\tlabel\na\tx\n", Sorting(), 'write data.format: {type: csv, delimiter: "\\t"}'),
        ("r.csv", "review,label\na,x\n", Sorting(), "write data.columns: {text: review, label: label}"),
        ("r.csv", "review,stars\na,x\n", Sorting(), "write in data.columns what they are called here"),
    ],
)
def test_a_table_that_is_read_the_wrong_way_comes_with_the_right_way(
    tmp_path: Path, name: str, text: str, task: Task, message: str
) -> None:
    path = write(tmp_path / name, text)
    found = refusal(task, path)
    assert message in found
    if "data.format: " in message:
        import yaml  # the advice is a line of a spec

        form = yaml.safe_load(message.partition("data.format: ")[2])
        assert isinstance(Source.parse(form), Source)


def test_one_document_has_a_way_out_of_a_share(tmp_path: Path) -> None:
    path = write(tmp_path / "shakespeare.txt", "First Citizen:\nSpeak.\n\nAll:\nWe speak.\n\nSecond:\nNo.\n")
    with pytest.raises(DataError) as refused:
        ingest(Reading(), DataSpec(train=str(path)), tmp_path)
    assert refused.value.message == (
        "a share of 0.1 of 1 row leaves none to evaluate on: write data.format: {type: text, per: paragraph}, or per: "
        "line, so that a file has many rows, or name a file of rows in data.eval"
    )
    spec = DataSpec.model_validate({"train": str(path), "eval": 0.5, "format": {"type": "text", "per": "line"}})
    assert sum(ingest(Reading(), spec, tmp_path).rows.values()) == 6


@pytest.mark.parametrize(("train", "held", "other"), [("1", "1.0", "1"), ("true", "True", "true"), ("no", "No ", "no")])
def test_a_label_that_is_written_otherwise_in_evaluation_rows_is_reported(
    tmp_path: Path, train: str, held: str, other: str
) -> None:
    one = write(tmp_path / "t.csv", f"text,label\na,{train}\nb,z\n")
    two = write(tmp_path / "e.csv", f"text,label\na,{held}\n")
    with pytest.raises(DataError) as refused:
        ingest(Sorting(), DataSpec(train=str(one), eval=str(two)), tmp_path)
    assert f"is it {other!r}, written otherwise? Write it alike in all rows" in refused.value.message
    assert f"The training rows have {other!r}, 'z'" in refused.value.message


def test_labels_of_training_rows_that_are_probably_one_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "t.csv", "text,label\na,1\nb,1.0\nc,0\nd,007\ne,7\n")
    ingest(Sorting(), DataSpec(train=str(path), eval=str(path)), tmp_path)
    [warning] = caplog.messages
    assert "'1' and '1.0' are two labels: if they are one, write it alike in all rows" in warning
