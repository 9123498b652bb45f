"""A run knows its rows: the same spec with other rows is another run of the name, and that is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from regraft.contracts import Event, Note, Stepped
from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.training.prepare import PreparedRun, RowsChanged
from regraft.training.session import run_session, train_local
from support.tiny import document

SENTINEL = "sentinel of the test,light"


def appended(lines: list[str]) -> list[str]:
    return [*lines, SENTINEL]


def removed(lines: list[str]) -> list[str]:
    return lines[:-1]


def moved(lines: list[str]) -> list[str]:
    return [lines[0], lines[2], lines[1], *lines[3:]]


def changed(lines: list[str]) -> list[str]:
    return [*lines[:5], lines[5].replace(" ", " not ", 1), *lines[6:]]


def rewritten(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def notes(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Note)]


@pytest.mark.parametrize("side", ["train", "eval"])
@pytest.mark.parametrize("change", [appended, removed, moved, changed])
def test_other_rows_are_another_run_of_the_name(
    tmp_path: Path, side: str, change: Callable[[list[str]], list[str]]
) -> None:
    spec = RunSpec.resolve(document(tmp_path, epochs=1, rows=24, eval_rows=12))
    assert train_local(spec).run == spec.run
    assert train_local(spec).already
    events: list[Event] = []
    rewritten(tmp_path / f"{side}.csv", change)
    again = train_local(spec, progress=events.append)
    assert (again.run, again.version, again.already) == (f"{spec.run}.2", "v2", False)
    assert f"the rows have changed since run {spec.run} began" in notes(events)[0]
    found = train_local(spec)
    assert (found.run, found.version, found.already) == (f"{spec.run}.2", "v2", True), "the newest run of the spec"


def test_notes_about_the_rows_are_given_once_where_they_changed(tmp_path: Path) -> None:
    written = document(tmp_path, epochs=1, rows=24, eval_rows=12)
    written["data"]["bad_rows"] = "skip"
    rewritten(tmp_path / "train.csv", lambda lines: [*lines, ",light"])
    spec = RunSpec.resolve(written)
    with pytest.raises(EndsAfter), run_session(spec):
        raise EndsAfter
    rewritten(tmp_path / "train.csv", appended)
    events: list[Event] = []
    with pytest.raises(EndsAfter), run_session(spec, progress=events.append) as prepared:
        assert isinstance(prepared, PreparedRun) and prepared.job.run == f"{spec.run}.2"
        raise EndsAfter
    said = notes(events)
    assert any("left out 1 training" in line for line in said)
    assert len(said) == len(set(said)), said
    kept = [line["message"] for line in map(json.loads, log_of(spec, f"{spec.run}.2")) if line["event"] == "note"]
    assert sorted(kept) == sorted(said)


def log_of(spec: RunSpec, run: str) -> list[str]:
    return Runs(open_store(spec.store)).read(run, "log.jsonl").decode().splitlines()


def test_same_keeps_to_the_run_that_there_is(tmp_path: Path) -> None:
    spec = RunSpec.resolve(document(tmp_path, epochs=1, rows=24, eval_rows=12))
    train_local(spec)
    rewritten(tmp_path / "train.csv", appended)
    kept = train_local(spec, same=True)
    assert (kept.version, kept.already) == ("v1", True)
    (tmp_path / "train.csv").unlink()
    assert train_local(spec, same=True).already, "its rows are not even looked for"
    with pytest.raises(RequestError, match="there is no such file"):
        train_local(spec)


class EndsAfter(Exception):
    """Ends a run in the middle."""


def test_an_unfinished_run_with_other_rows_is_left_as_it_is(tmp_path: Path) -> None:
    spec = RunSpec.resolve(document(tmp_path, epochs=2, rows=24, eval_rows=12, checkpoint_steps=1))
    runs = Runs(open_store(spec.store))

    def ends(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            runs.request_stop(spec.run)

    before = (tmp_path / "train.csv").read_text()
    with pytest.raises(RequestError, match="the rows have changed"):
        _interrupted(spec, tmp_path)
        train_local(spec, same=True)
    train_local(spec, progress=ends)
    assert Registry(runs.store).version("tiny", "v1").meta["lineage"]["run"] == f"{spec.run}.2"
    (tmp_path / "train.csv").write_text(before)
    assert runs.info(spec.run).state == "failed"


def _interrupted(spec: RunSpec, folder: Path) -> None:
    def ends(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 2:
            raise SystemExit

    with pytest.raises(SystemExit):
        train_local(spec, progress=ends)
    rewritten(folder / "train.csv", appended)


def test_numbers_go_on_and_no_run_is_taken_twice(tmp_path: Path) -> None:
    spec = RunSpec.resolve(document(tmp_path, epochs=1, rows=24, eval_rows=12))
    names = []
    for _ in range(3):
        names.append(train_local(spec).run)
        rewritten(tmp_path / "train.csv", appended)
    assert names == [spec.run, f"{spec.run}.2", f"{spec.run}.3"]


def test_the_error_is_a_wrong_request() -> None:
    assert issubclass(RowsChanged, RequestError) and RowsChanged.exit_code == 2
