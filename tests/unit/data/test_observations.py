"""What is passed over or doubtful is counted, and said once a kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regraft.contracts import Column, Raw, Source
from regraft.data.observations import Observations, remarks
from regraft.tasks.text_classification import TextClassification


def test_each_kind_is_one_sentence_with_its_count_and_first_place() -> None:
    observations = Observations()
    for number in range(1200):
        observations.pass_over("files named *.xmp", f"pics/{number}.xmp")
    observations.remark("longer than 8 tokens", "rows.csv:2")
    assert observations.lines() == (
        "passed over files named *.xmp: 1,200, the first pics/0.xmp",
        "longer than 8 tokens: 1 row, the first rows.csv:2",
    )


def test_a_row_without_remarks_says_nothing() -> None:
    task = TextClassification()
    assert remarks(task, {"text": "a"}, {}) == []


def test_tasks_and_columns_are_both_asked() -> None:
    class Doubtful(TextClassification):
        def remark(self, row: Any) -> str | None:
            return "short texts" if len(row["text"]) < 2 else None

    class Odd(Column):
        def read_cell(self, cell: object, folder: str) -> Any:
            return cell

        def remark(self, value: Any) -> str | None:
            return "odd values"

    assert remarks(Doubtful(), {"text": "a"}, {"text": Odd()}) == ["short texts", "odd values"]


class Listed(Source):
    """A source that passes over things."""

    def read(self, path: Path) -> Iterator[Raw]:
        yield Raw({}, f"{path}:1", ignored="comments")
        yield Raw({"text": "a"}, f"{path}:2")


def test_an_ignored_thing_is_no_row(tmp_path: Path) -> None:
    rows = list(Listed().read(tmp_path / "list"))
    assert [raw.ignored for raw in rows] == ["comments", ""]
