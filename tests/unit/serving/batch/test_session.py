"""Every row of a file gets its answer once and in order, whatever fails meanwhile."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import regraft
from doubles.fake_power_cut import FakePowerCut, die_at, dying
from regraft.errors import BaseError, DataError, LeaseHeld, NotFound, RegraftError, RequestError
from regraft.serving.batch import input_blocks
from regraft.serving.batch.input_blocks import InputBlocks
from regraft.serving.batch.session import BatchRequest, BatchResult, predict_here
from regraft.serving.predictor import Predictor
from regraft.serving.version_files import Fetched
from regraft.store.lease import Lease
from regraft.store.objects import open_store
from support.processes import in_child
from unit.serving.tiny import TEXTS, publish

ROWS = 23


@pytest.fixture
def published(store: Path, bases: dict[str, Path]) -> Path:
    publish(store, bases["cls"], "text-classification", "lora")
    return store


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["id", "text", "label"])
        out.writerows([f"r{number}", TEXTS[number % 4] + " a" * (number % 5), "gold"] for number in range(ROWS))
    return path


def asked(store: Path, texts: Path, out: str = "out.jsonl", **more: Any) -> BatchRequest:
    options: dict[str, Any] = {"block_rows": 4, "device": "cpu", **more}
    return BatchRequest("tiny", str(texts), str(texts.parent / out), str(store), **options)


def lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_rows_come_out_in_order_with_their_own_columns_and_the_answers_of_a_predictor(
    published: Path, texts: Path
) -> None:
    written = predict_here(asked(published, texts))
    assert (written.rows, written.failed, written.out) == (ROWS, 0, str(texts.parent / "out.jsonl"))
    found = lines(written.out)
    assert [line["row"] for line in found] == list(range(ROWS))
    assert [line["id"] for line in found] == [f"r{number}" for number in range(ROWS)]
    assert {line["label"] for line in found} == {"gold"}, "a target passes through beside the answer"
    wanted = Predictor.open(str(published), "tiny", device="cpu").predict([line["text"] for line in found])
    for line, answer in zip(found, wanted, strict=True):
        assert line["answer"]["label"] == answer["label"]
        assert line["answer"]["score"] == pytest.approx(answer["score"], abs=1e-5)
    assert left_over(texts.parent) == []


def test_parquet_has_the_types_of_the_answers(published: Path, texts: Path) -> None:
    written = predict_here(asked(published, texts, "out.parquet"))
    table = pq.read_table(written.out)
    assert table.column("row").to_pylist() == list(range(ROWS))
    answer = table.schema.field("answer").type
    assert {str(answer.field("label").type), str(answer.field("score").type)} == {"string", "double"}
    assert table.schema.metadata[b"regraft.model"] == b"tiny@v1"
    assert [line["answer"] for line in lines(predict_here(asked(published, texts)).out)] == table["answer"].to_pylist()


def test_cut_off_at_any_write_the_same_command_goes_on_to_the_same_bytes(published: Path, texts: Path) -> None:
    whole = Path(predict_here(asked(published, texts, "whole.jsonl")).out).read_bytes()
    request = asked(published, texts)
    for at in range(1, 16):  # 6 blocks of input, input.json, the job, 6 parts, and done.json before the rename
        with dying(at, kill=False), pytest.raises(FakePowerCut):
            predict_here(request, fresh=True)
        assert not Path(request.output).exists()
        predict_here(request)
        assert Path(request.output).read_bytes() == whole
        assert left_over(texts.parent) == []
        Path(request.output).unlink()


@pytest.mark.slow
def test_what_a_killed_process_had_finished_is_not_computed_again(
    published: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(published, texts)
    interrupted(request, 12)  # the blocks, input.json, the job and three parts exist
    counted: list[int] = []
    attempt = Predictor.attempt

    def counting(self: Predictor, rows: Any) -> Any:
        counted.append(len(rows))
        return attempt(self, rows)

    monkeypatch.setattr(Predictor, "attempt", counting)
    messages: list[str] = []
    predict_here(request, progress=lambda event: messages.append(str(getattr(event, "message", None))))
    assert "continues: 3 of 6 blocks of the unfinished output are answered" in messages
    assert sum(counted) == ROWS - 3 * 4
    assert [line["id"] for line in lines(request.output)] == [f"r{number}" for number in range(ROWS)]


def test_killed_between_the_rename_and_the_cleaning_it_ends_well(
    published: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import regraft.serving.batch.session as bulk

    request = asked(published, texts)
    empty = bulk.empty
    calls: list[int] = []

    def interrupted(store: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        empty(store)

    monkeypatch.setattr(bulk, "empty", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_here(request)
    monkeypatch.undo()
    content = Path(request.output).read_bytes()
    assert predict_here(request).rows == ROWS
    assert Path(request.output).read_bytes() == content
    assert left_over(texts.parent) == []


def interrupted(request: BatchRequest, at: int = 11) -> None:
    assert in_child(die_at, request, at) == -9


@pytest.mark.slow
def test_another_input_model_or_option_is_refused_by_name_and_fresh_begins_anew(published: Path, texts: Path) -> None:
    request = asked(published, texts)
    interrupted(request)
    content = texts.read_text()
    texts.write_text(content.replace("r9,", "changed,"))
    with pytest.raises(RequestError, match=r"changed from row 8 on since its output was begun.*--fresh"):
        predict_here(request)
    texts.write_text(content + "more,a b,gold\n")
    with pytest.raises(RequestError, match="changed from row 20 on"):
        predict_here(request)
    texts.write_text(content)
    with pytest.raises(RequestError, match="bad rows was fail, now skip"):
        predict_here(asked(published, texts, bad_rows="skip"))
    again = publish_again(published)
    with pytest.raises(RequestError, match=r"model was .*tiny@v1.* now .*tiny@v2"):
        predict_here(request)
    assert predict_here(request, fresh=True).rows == ROWS
    assert again == "tiny@v2" and left_over(texts.parent) == []


def publish_again(store: Path) -> str:
    base = Path(json.loads(json.dumps(Predictor.open(str(store), "tiny", device="cpu").meta["base"]))["reference"])
    version, _ = publish(store, base, "text-classification", "full")
    return str(version)


def test_an_output_that_is_there_is_left_alone_unless_fresh(published: Path, texts: Path) -> None:
    out = texts.parent / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(RequestError, match="exists already"):
        predict_here(asked(published, texts))
    assert out.read_text() == "mine" and left_over(texts.parent) == []
    assert predict_here(asked(published, texts), fresh=True).rows == len(lines(out)) == ROWS


def test_two_commands_for_one_output_do_not_mix(published: Path, texts: Path) -> None:
    request = asked(published, texts)
    work = open_store(str(texts.parent / ".out.jsonl.unfinished"))
    with Lease(work, "out.jsonl"), pytest.raises(LeaseHeld):
        predict_here(request)
    assert predict_here(request).rows == ROWS


WRONG: list[tuple[dict[str, Any], type[RegraftError], str]] = [
    ({"model": "tinny"}, NotFound, "'tiny'"),
    ({"model": "org/name"}, NotFound, "--features"),
    ({"model": "org/name", "features": True, "output": "o.parquet"}, BaseError, "'org/name'"),
    ({"model": "nothing-here", "features": True, "output": "o.parquet"}, NotFound, "neither a model"),
    ({"output": "out.xlsx"}, RequestError, "end with .jsonl, .csv, .tsv or .parquet"),
    ({"features": True}, RequestError, "ends with .parquet"),
    ({"output": "nowhere/out.jsonl"}, RequestError, "no folder"),
    ({"input": "missing.csv"}, DataError, "no such file"),
    ({"dtype": "bf16"}, RequestError, "models answer in fp32"),
    ({"columns": {"txt": "id"}}, RequestError, "Did you mean 'text'"),
    ({"columns": {"text": "body"}}, DataError, r"no column 'body'.*write in columns what they are called"),
]


@pytest.mark.parametrize("change, error, message", WRONG, ids=lambda item: str(item)[:40])
def test_what_is_asked_wrong_is_said_and_leaves_nothing(
    change: dict[str, Any], error: type[RegraftError], message: str, published: Path, texts: Path
) -> None:
    fields = {"model": "tiny", "input": str(texts), "output": "out.jsonl", **change}
    fields["output"], fields["input"] = (str(texts.parent / fields[name]) for name in ("output", "input"))
    with pytest.raises(error, match=message):
        predict_here(BatchRequest(**fields, store=str(published), device="cpu"))
    assert left_over(texts.parent) == []
    assert not Path(fields["output"]).exists()


def test_an_empty_input_is_refused(published: Path, texts: Path) -> None:
    texts.write_text("text\n")
    with pytest.raises(DataError, match="holds no rows"):
        predict_here(asked(published, texts))
    assert left_over(texts.parent) == []


def test_bad_rows_are_named_before_anything_is_computed_or_reported_in_their_lines(
    published: Path, texts: Path
) -> None:
    content = texts.read_text().splitlines()
    content[6], content[15] = "bad,  ,gold", "worse,,gold"
    texts.write_text("\n".join(content) + "\n")
    with pytest.raises(DataError, match=r"2 rows cannot be answered(.|\n)*in\.csv:7: text is empty") as caught:
        predict_here(asked(published, texts))
    assert "--bad-rows skip" in str(caught.value) and left_over(texts.parent) == []
    written = predict_here(asked(published, texts, bad_rows="skip"))
    found = lines(written.out)
    assert written.failed == 2 and written.document()["failed"] == 2
    assert [line["row"] for line in found if "answer" not in line] == [5, 14]
    assert "in.csv:7: text is empty" in found[5]["error"] and found[5]["id"] == "bad"
    assert len(found) == ROWS and all("error" not in line for line in found if "answer" in line)
    table = pq.read_table(predict_here(asked(published, texts, "out.parquet", bad_rows="skip")).out)
    assert [value is None for value in table["answer"].to_pylist()] == ["answer" not in line for line in found]
    assert table["error"].to_pylist()[14] == found[14]["error"]


def test_columns_are_found_by_option_and_by_the_name_they_had_in_training(
    published: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = texts.read_text()
    texts.write_text(content.replace("id,text,label", "id,body,label"))
    found = lines(predict_here(asked(published, texts, columns={"text": "body"})).out)
    assert found[0]["body"] == TEXTS[0] and "answer" in found[0]
    with pytest.raises(DataError, match="no column 'text'"):
        predict_here(asked(published, texts, "o.jsonl"))
    monkeypatch.setattr(Fetched, "spec", {"data": {"columns": {"text": "body", "label": "topic"}}})
    assert predict_here(asked(published, texts, "o.jsonl")).rows == ROWS
    texts.write_text(content)
    assert predict_here(asked(published, texts, "o2.jsonl")).rows == ROWS


def test_an_image_cut_short_is_reported_by_its_row(
    store: Path, bases: dict[str, Path], pictures: list[str], tmp_path: Path
) -> None:
    publish(store, bases["squares"], "object-detection", "full")
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(pictures[2]).read_bytes()[:-200])
    paths = [pictures[0], str(broken), pictures[1], pictures[3]]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"image": path}) + "\n" for path in paths))
    with pytest.raises(DataError, match=r"in\.jsonl:2.*--bad-rows skip"):
        predict_here(asked(store, tmp_path / "in.jsonl"))
    written = predict_here(asked(store, tmp_path / "in.jsonl", bad_rows="skip"), fresh=True)
    found = lines(written.out)
    assert ["error" in line for line in found] == [False, True, False, False]
    wanted = Predictor.open(str(store), "tiny", device="cpu").predict([{"image": path} for path in pictures])
    for answer, line in zip((wanted[0], wanted[1], wanted[3]), (found[0], found[2], found[3]), strict=True):
        assert json.loads(json.dumps(answer)) == line["answer"]


def test_columns_of_our_own_names_are_kept_under_others(published: Path, tmp_path: Path) -> None:
    rows = [{"text": "a b", "row": "mine", "answer": 3, "meta": {"x": [1, None]}}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = lines(predict_here(asked(published, tmp_path / "in.jsonl")).out)[0]
    assert (line["row"], line["input_row"], line["input_answer"], line["meta"]) == (0, "mine", 3, {"x": [1, None]})


def test_columns_of_several_kinds_become_json_text_in_parquet(published: Path, tmp_path: Path) -> None:
    kinds: list[Any] = [1, "x", None, [2], {"k": 1}, 2.5, True, "y", 3]
    rows = [{"text": "a", "mixed": kind, "list": [] if number < 4 else [{"a": 1}]} for number, kind in enumerate(kinds)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = pq.read_table(predict_here(asked(published, tmp_path / "in.jsonl", "out.parquet")).out)
    read = [
        value if value is None or value in ("x", "y") else json.loads(value) for value in table["mixed"].to_pylist()
    ]
    assert read == kinds
    assert table["list"].to_pylist() == [row["list"] for row in rows]


@pytest.mark.slow
def test_a_changed_part_is_found_out(published: Path, texts: Path) -> None:
    request = asked(published, texts)
    interrupted(request)
    part = min((texts.parent / ".out.jsonl.unfinished" / "parts").iterdir())
    part.write_bytes(part.read_bytes().replace(b"r1", b"rX"))
    with pytest.raises(RegraftError, match="run the command again"):
        predict_here(request)
    assert predict_here(request).rows == ROWS
    assert [line["id"] for line in lines(request.output)] == [f"r{number}" for number in range(ROWS)]


def test_no_more_than_a_block_of_the_input_is_held(
    published: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    behind: list[int] = []
    taken, put = input_blocks.read_rows, InputBlocks._put

    def counting(*arguments: Any) -> Any:
        for item in taken(*arguments):
            read.append(1)
            yield item

    def putting(self: InputBlocks, block: Any, path: Path) -> None:
        behind.append(len(read) - self.total)
        put(self, block, path)

    monkeypatch.setattr(input_blocks, "read_rows", counting)
    monkeypatch.setattr(InputBlocks, "_put", putting)
    predict_here(asked(published, texts))
    assert behind == [5, 5, 5, 5, 5, 3]


def test_the_python_face_and_its_progress(published: Path, texts: Path) -> None:
    events: list[dict[str, Any]] = []
    out = texts.parent / "face.jsonl"
    written: BatchResult = regraft.predict(
        "tiny@v1", texts, out, store=str(published), workers=0, progress=lambda event: events.append(event.document())
    )
    assert written.document() == {"rows": ROWS, "out": str(out), "seconds": written.seconds}
    assert [event["step"] for event in events if event["event"] == "step"][-1] == ROWS
    with pytest.raises(RequestError, match="csvv"):
        regraft.predict("tiny", texts, out, store=str(published), workers=0, format="csvv")


@pytest.mark.parametrize("document", ["job.json", "input.json"])
@pytest.mark.parametrize("text", ["", "[]", '{"rows": "x"}', "[" * 50_000, '{"identity": 3, "dtype": []}'])
def test_a_damaged_document_of_the_work_folder_is_named_with_the_way_on(
    published: Path, texts: Path, document: str, text: str
) -> None:
    request = asked(published, texts)
    with dying(11, kill=False), pytest.raises(FakePowerCut):
        predict_here(request)
    (texts.parent / ".out.jsonl.unfinished" / document).write_text(text)
    with pytest.raises(RegraftError, match=rf"{document}.*--fresh begins the output anew"):
        predict_here(request)
    assert predict_here(request, fresh=True).rows == ROWS
