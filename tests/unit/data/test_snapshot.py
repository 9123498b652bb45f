"""Snapshots have the rows of the files, once, in order, and the same data give the same snapshot."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from doubles.fake_tasks import Finding, Rating, Seeing, Sorting, Tagging
from regraft.contracts import ordered_labels
from regraft.data import rows as rows_module
from regraft.data.rows import Rows, RowWriter
from regraft.data.snapshot import Snapshot, build_snapshot, open_snapshot
from regraft.errors import Damaged, NotFound
from regraft.spec.sections import DataSpec
from regraft.store.folder import FolderStore
from regraft.store.objects import Body, ObjectStore, open_store
from support.paths import ROOT

QUICK = settings(max_examples=40, deadline=None)
KINDS = {"text": "text", "label": "label"}


class RemoteFolder(FolderStore):
    """A store whose files cannot be mapped in place, like S3; counts the bytes that are read."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.fetched: list[str] = []
        self.stored: list[str] = []

    def local(self, key: str) -> Path | None:
        return None

    def fetch(self, key: str, path: Path) -> None:
        self.fetched.append(key.rpartition("/")[2])
        super().fetch(key, path)

    def put(self, key: str, body: Body) -> None:
        self.stored.append(key.rpartition("/")[2])
        super().put(key, body)


def lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def sentences(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"sentence {n}", "label": "ab"[n % 2]} for n in range(start, start + count)]


def everything(rows: Rows) -> list[dict[str, Any]]:
    return [rows.row(index) for index in range(len(rows))]


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


def built(store: ObjectStore, folder: Path, train: list[dict[str, Any]], **data: Any) -> Snapshot:
    spec = {"eval": 0.3, "train": lines(folder / "train.jsonl", train), **data}
    return build_snapshot(store, Sorting(), DataSpec.model_validate(spec))


def test_rows_come_back_as_they_were_written(store: ObjectStore, tmp_path: Path) -> None:
    held = lines(tmp_path / "eval.jsonl", [{"words": "neu ☃", "class": 2}])
    train: list[dict[str, Any]] = [
        {"words": "one", "class": 10, "id": 7},
        {"words": "", "class": " 2 "},
        {"words": "x" * 9, "class": 2.0},
    ]
    snapshot = built(store, tmp_path, train, eval=held, columns={"text": "words", "label": "class"})
    assert everything(snapshot.train) == [
        {"text": "one", "label": "10", "row": 0},
        {"text": "", "label": "2", "row": 1},
        {"text": "x" * 9, "label": "2", "row": 2},
    ]
    assert everything(snapshot.eval) == [{"text": "neu ☃", "label": "2", "row": 0}]
    assert snapshot.labels == ("2", "10")
    assert (snapshot.train.counts, snapshot.train.lengths.tolist()) == ({"2": 2, "10": 1}, [3, 0, 9])
    assert snapshot.train.lengths.dtype == np.int32
    assert snapshot.meta["rows"] == {"train": 3, "eval": 1}


def test_numbers_have_no_labels(store: ObjectStore, tmp_path: Path) -> None:
    rows = [{"text": str(n), "value": value} for n, value in enumerate([1, "2.5", -3e-3] * 5)]
    snapshot = build_snapshot(store, Rating(), DataSpec(train=lines(tmp_path / "a.jsonl", rows), eval=0.5))
    values = {row["text"]: row["value"] for side in (snapshot.train, snapshot.eval) for row in everything(side)}
    assert [values[str(n)] for n in range(3)] == [1.0, 2.5, -0.003]
    assert (snapshot.labels, snapshot.train.counts) == ((), {})


def test_images_are_kept_by_their_path_and_boxes_with_them(store: ObjectStore, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    rows: list[dict[str, Any]] = [
        {"image": "a.png", "boxes": [[0, 1, 2.5, 3]], "labels": [4]},
        {"image": str(tmp_path / "b.png"), "boxes": [], "labels": []},
    ]
    file = lines(tmp_path / "boxes.jsonl", rows)
    snapshot = build_snapshot(store, Finding(), DataSpec(train=file, eval=file))
    assert everything(snapshot.train) == [
        {"image": str(tmp_path / "a.png"), "boxes": [[0.0, 1.0, 2.5, 3.0]], "labels": ["4"], "row": 0},
        {"image": str(tmp_path / "b.png"), "boxes": [], "labels": [], "row": 1},
    ]
    assert (snapshot.labels, snapshot.train.counts) == (("4",), {"4": 1})


def test_words_and_tags_come_back_and_the_outside_tag_is_first(store: ObjectStore, tmp_path: Path) -> None:
    rows = [{"words": ["O", "a b"], "iob": ["O", "I-x"]}, {"words": ["c", "d"], "iob": [" B-x", "B-a"]}]
    file = lines(tmp_path / "words.jsonl", rows)
    columns = {"tokens": "words", "tags": "iob"}
    snapshot = build_snapshot(store, Tagging(), DataSpec(train=file, eval=file, columns=columns))
    assert everything(snapshot.train) == [
        {"tokens": ["O", "a b"], "tags": ["O", "I-x"], "row": 0},
        {"tokens": ["c", "d"], "tags": ["B-x", "B-a"], "row": 1},
    ]
    assert (snapshot.labels, snapshot.train.counts) == (("O", "B-a", "B-x", "I-x"), {})


def test_an_image_falls_on_the_same_side_wherever_its_folder_lies(store: ObjectStore, tmp_path: Path) -> None:
    sides = []
    for place in ("here", "there"):
        for number in range(40):
            folder = tmp_path / place / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), number).save(folder / f"{number}.png")
        snapshot = build_snapshot(store, Seeing(), DataSpec(train=str(tmp_path / place), eval=0.3))
        sides.append([Path(row["image"]).name for row in everything(snapshot.eval)])
    assert sides[0] == sides[1]


@QUICK
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=40), st.integers(1, 7))
def test_any_text_in_any_pieces_comes_back_by_index(texts: list[str], piece: int) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"regraft-pieces-{os.getpid()}.arrow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "BATCH_ROWS", piece)
        with RowWriter(path, {"text": "text"}) as writer:
            for text in texts:
                writer.add({"text": text}, len(text))
        rows = Rows(path, {"text": "text"})
        assert [row["text"] for row in everything(rows)] == texts
        assert rows.lengths.tolist() == [len(text) for text in texts]
    path.unlink()


def test_an_index_outside_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    rows = built(store, tmp_path, sentences(20)).train
    for index in (-1, len(rows)):
        with pytest.raises(IndexError):
            rows.row(index)
    assert rows.row(int(np.int64(3))) == rows.row(3)


@QUICK
@given(st.sets(st.text("abc-0123456789", min_size=1, max_size=5), min_size=1))
def test_labels_are_in_one_order_whatever_the_files(labels: set[str]) -> None:
    order = ordered_labels(labels)
    assert order == ordered_labels(sorted(labels, reverse=True))
    assert sorted(order) == sorted(labels)


def test_whole_numbers_are_ordered_as_numbers() -> None:
    assert ordered_labels(["10", "9", "-1"]) == ("-1", "9", "10")
    assert ordered_labels(["10", "9", "x"]) == ("10", "9", "x")


def test_a_row_stays_on_its_side_whatever_else_is_in_the_file(store: ObjectStore, tmp_path: Path) -> None:
    small = built(store, tmp_path, sentences(200), eval=0.25)
    more = [{"extra": 1, **row} for row in reversed(sentences(900))]
    large = built(store, tmp_path, more, eval=0.25)
    few, many = ({row["text"] for row in everything(snapshot.eval)} for snapshot in (small, large))
    assert few == {text for text in many if int(text.split()[1]) < 200}
    assert 0.2 < len(large.eval) / 900 < 0.3
    wider = built(store, tmp_path, sentences(200), eval=0.5)
    assert few < {row["text"] for row in everything(wider.eval)}


def test_equal_rows_never_stand_on_both_sides(store: ObjectStore, tmp_path: Path) -> None:
    snapshot = built(store, tmp_path, sentences(30) * 4, eval=0.3)
    train, held = ({row["text"] for row in everything(side)} for side in (snapshot.train, snapshot.eval))
    assert not train & held
    assert len(snapshot.train) + len(snapshot.eval) == 120


def test_the_fingerprint_is_of_the_rows_not_of_the_files(store: ObjectStore, tmp_path: Path) -> None:
    rows, held = sentences(10), lines(tmp_path / "held.jsonl", sentences(4, 50))
    first = built(store, tmp_path, rows, eval=held).fingerprint
    (tmp_path / "as.csv").write_text("label,note,words\n" + "".join(f"{r['label']},x,{r['text']}\n" for r in rows))
    table = DataSpec(train=str(tmp_path / "as.csv"), eval=held, columns={"text": "words"})
    lines(tmp_path / "held.jsonl", [{"words": row["text"], "label": row["label"]} for row in sentences(4, 50)])
    assert build_snapshot(store, Sorting(), table).fingerprint == first
    (tmp_path / "parts").mkdir()
    lines(tmp_path / "parts/1.jsonl", rows[:3])
    lines(tmp_path / "parts/2.jsonl", rows[3:])
    held = lines(tmp_path / "held.jsonl", sentences(4, 50))
    parts = DataSpec(train=str(tmp_path / "parts/*.jsonl"), eval=held)
    assert build_snapshot(store, Sorting(), parts).fingerprint == first


def test_any_change_of_the_rows_is_another_fingerprint(store: ObjectStore, tmp_path: Path) -> None:
    rows, held = sentences(10), lines(tmp_path / "held.jsonl", sentences(4, 50))
    variants = [rows, rows[::-1], rows[:-1], [*rows[:-1], {**rows[-1], "label": "a"}]]
    prints = {built(store, tmp_path, variant, eval=held).fingerprint for variant in variants}
    prints.add(built(store, tmp_path, rows, eval=lines(tmp_path / "held.jsonl", sentences(3, 50))).fingerprint)
    stretched = build_snapshot(store, Sorting(stretch=2), DataSpec(train=str(tmp_path / "train.jsonl"), eval=held))
    assert len(prints | {stretched.fingerprint}) == 6


def test_building_twice_does_not_write_twice(tmp_path: Path) -> None:
    store = RemoteFolder(str(tmp_path / "store"))
    first = built(store, tmp_path, sentences(20))
    assert sorted(store.stored) == ["eval.arrow", "train.arrow"]
    assert built(store, tmp_path, sentences(20)).fingerprint == first.fingerprint
    assert len(store.stored) == 2


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


def test_a_folder_stores_own_files_are_mapped(store: ObjectStore, tmp_path: Path, cache: Path) -> None:
    snapshot = built(store, tmp_path, sentences(20))
    assert everything(open_snapshot(store, snapshot.fingerprint).train) == everything(snapshot.train)
    assert not cache.exists()


def test_several_workers_of_a_machine_download_once(tmp_path: Path) -> None:
    store = RemoteFolder(str(tmp_path / "store"))
    snapshot = built(store, tmp_path, sentences(20))
    store.fetched.clear()
    start = threading.Barrier(4)

    def work(_: int) -> list[dict[str, Any]]:
        start.wait()
        return everything(open_snapshot(store, snapshot.fingerprint, tmp_path / "worker").train)

    with ThreadPoolExecutor(4) as workers:
        seen = list(workers.map(work, range(4)))
    assert sorted(store.fetched) == ["eval.arrow", "train.arrow"]
    assert all(rows == everything(snapshot.train) for rows in seen)


def test_a_damaged_copy_on_this_machine_is_fetched_again(tmp_path: Path, cache: Path) -> None:
    store = RemoteFolder(str(tmp_path / "store"))
    snapshot = built(store, tmp_path, sentences(20))
    copy = cache / snapshot.fingerprint / "train.arrow"
    expected = copy.read_bytes()
    flipped(copy)
    open_snapshot(store, snapshot.fingerprint)
    assert copy.read_bytes() == expected


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [flipped, Path.unlink])
def test_a_damaged_store_is_refused_by_name_and_repaired_by_the_data(
    store: ObjectStore, tmp_path: Path, harm: Any
) -> None:
    snapshot = built(store, tmp_path, sentences(20))
    stored = tmp_path / "store/data" / snapshot.fingerprint / "train.arrow"
    harm(stored)
    with pytest.raises(Damaged, match=r"train\.arrow"):
        open_snapshot(store, snapshot.fingerprint)
    again = built(store, tmp_path, sentences(20))
    assert everything(open_snapshot(store, again.fingerprint).train) == everything(snapshot.train)


def test_other_bytes_than_the_manifests_are_never_put_back(store: ObjectStore, tmp_path: Path) -> None:
    snapshot = built(store, tmp_path, sentences(20))
    flipped(tmp_path / "store/data" / snapshot.fingerprint / "train.arrow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "BATCH_ROWS", 3)  # as another version of Arrow would write the same rows
        with pytest.raises(Damaged, match=r"train\.arrow"):
            built(store, tmp_path, sentences(20))


def test_what_was_never_built_is_not_there(store: ObjectStore) -> None:
    with pytest.raises(NotFound):
        open_snapshot(store, "0" * 64)


def test_rows_go_to_another_process_as_their_path(store: ObjectStore, tmp_path: Path) -> None:
    rows = built(store, tmp_path, sentences(200)).train
    packed = pickle.dumps(rows)
    assert len(packed) < 500
    assert everything(pickle.loads(packed)) == everything(rows)
    assert pickle.loads(packed).counts == rows.counts


BUILDER = """
import sys
from doubles.fake_tasks import Sorting
from regraft.data.snapshot import build_snapshot
from regraft.spec.run import DataSpec
from regraft.store.objects import open_store
sys.stdin.readline()
snapshot = build_snapshot(open_store(sys.argv[1]), Sorting(), DataSpec(train=sys.argv[2]))
print(snapshot.fingerprint, len(snapshot.train), snapshot.train.row(7)["text"])
"""

GROWTH = """
import sys
from pathlib import Path
from support.peak_memory import peak
from doubles.fake_tasks import Sorting
from regraft.data.ingest import ingest
from regraft.spec.run import DataSpec
peaks = []
for train in sys.argv[1:]:
    ingested = ingest(Sorting(), DataSpec(train=train), Path(train).parent)
    peaks.append(peak() >> 20)
print(sum(ingested.rows.values()), peaks[1] - peaks[0])
"""


def process(code: str, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(["platform", "tests", os.environ.get("PYTHONPATH", "")])
    root = ROOT
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_builders_at_once_make_one_snapshot_that_a_third_process_opens(store: ObjectStore, tmp_path: Path) -> None:
    train = lines(tmp_path / "train.jsonl", sentences(3000))
    builders = [process(BUILDER, store.url, train) for _ in range(2)]
    outputs = [builder.communicate("go\n")[0] for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert outputs[0] == outputs[1]
    fingerprint, count, text = outputs[0].split(maxsplit=2)
    snapshot = open_snapshot(store, fingerprint)
    assert (len(snapshot.train), snapshot.train.row(7)["text"]) == (int(count), text.strip())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    files = []
    for count in (20_000, 200_000):
        path = tmp_path / f"{count}.csv"
        with path.open("w") as file:
            file.write("text,label\n")
            file.writelines(f"{number} {'word ' * 60},{number % 3}\n" for number in range(count))
        files.append(str(path))
    run = process(GROWTH, *files)
    rows, grown_mib = map(int, run.communicate()[0].split())
    assert rows == 200_000
    assert (tmp_path / "200000.csv").stat().st_size > 55 << 20
    assert grown_mib < 8
