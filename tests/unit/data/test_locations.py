"""Names of data in a spec: parts, several files as one, patterns, the hub."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from doubles.fake_tasks import Sorting
from regraft.contracts import Source
from regraft.data import locations
from regraft.data.ingest import ingest
from regraft.data.inputs import DataFile, find_data_files
from regraft.errors import DataError
from regraft.spec.document import absolute
from regraft.spec.sections import DataSpec


def files(written: str, folder: Path, **form: Any) -> list[DataFile]:
    source = Source.parse(form) if form else None
    assert source is None or isinstance(source, Source)
    return list(find_data_files(written, source, folder / "scratch"))


def rows(written: str, folder: Path, **form: Any) -> list[dict[str, Any]]:
    return [raw.values for file in files(written, folder, **form) for raw in file.rows()]


def archive(path: Path) -> Path:
    arrays: dict[str, Any] = {
        f"{part}_{name}": np.full(2, number) for number, part in enumerate(("train", "val")) for name in "yz"
    }
    np.savez(path, **arrays)
    return path


def test_a_part_is_named_behind_the_file(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz")
    assert rows(f"{path}#val", tmp_path) == [{"label": 1, "z": 1}] * 2
    assert rows(f"{path}#train", tmp_path, type="npz") == [{"label": 0, "z": 0}] * 2
    assert rows(str(path), tmp_path, type="npz", part="val") == rows(f"{path}#val", tmp_path)


def test_each_side_of_the_split_has_its_part(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, train_text=["a", "b"], train_y=[0, 1], val_text=["c"], val_y=[1])
    data = DataSpec(train=absolute(f"{path}#train"), eval=absolute(f"{path}#val"))
    assert ingest(Sorting(), data, tmp_path).rows == {"train": 2, "eval": 1}


def test_a_part_goes_with_every_file_of_a_pattern(tmp_path: Path) -> None:
    archive(tmp_path / "a.npz")
    archive(tmp_path / "b.npz")
    assert len(rows(f"{tmp_path}/*.npz#train", tmp_path)) == 4


def test_a_name_that_holds_the_sign_itself_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "issue#7.csv"
    path.write_text("text,label\na,b\n")
    assert rows(str(path), tmp_path) == [{"text": "a", "label": "b"}]
    archive(tmp_path / "c#.npz")
    assert len(rows(f"{tmp_path}/c#.npz#val", tmp_path)) == 2
    (tmp_path / "in#side").mkdir()
    archive(tmp_path / "in#side" / "a.npz")
    assert len(rows(f"{tmp_path}/in#side/*.npz#val", tmp_path)) == 2


def test_a_part_of_what_has_none_is_refused_with_those_that_do(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\na\n")
    with pytest.raises(DataError) as refused:
        files(f"{tmp_path}/a.csv#train", tmp_path)
    assert refused.value.where == f"{tmp_path}/a.csv"
    assert refused.value.message.startswith("#train names a part of it, and files of source csv have none (those of ")
    assert "npz, saved-dataset" in refused.value.message
    assert refused.value.message.endswith(" do): leave #train out")
    archive(tmp_path / "x.npz")
    with pytest.raises(DataError, match=r"#val is written and data\.format\.part is 'train': leave one of them out"):
        files(f"{tmp_path}/x.npz#val", tmp_path, type="npz", part="train")


def test_braces_are_read_side_by_side_where_no_source_reads_one_alone(tmp_path: Path) -> None:
    for name, text in (("t.en", "a\n"), ("t.de", "x\n"), ("t-en.txt", "a\n"), ("t-de.txt", "x\n")):
        (tmp_path / name).write_text(text)
    assert rows(f"{tmp_path}/t.{{en,de}}", tmp_path) == [{"en": "a", "de": "x"}]
    assert rows(f"{tmp_path}/t-{{en,de}}.txt", tmp_path, type="parallel") == [{"en": "a", "de": "x"}]
    assert rows(f"{tmp_path}/t-{{en,de}}.txt", tmp_path) == [{"text": "a\n"}, {"text": "x\n"}]
    assert rows(f"{tmp_path}/t.{{en,de}}", tmp_path, type="text") == [{"text": "a\n"}, {"text": "x\n"}]


def test_braces_that_name_nothing_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.en").write_text("a\n")
    with pytest.raises(DataError, match="there is no such file or folder") as refused:
        files(f"{tmp_path}/t.{{en,de}}", tmp_path)
    assert refused.value.where == f"{tmp_path}/t.de"
    with pytest.raises(DataError, match="2 pairs of braces are written; one is allowed"):
        files(f"{tmp_path}/{{a,b}}.{{en,de}}", tmp_path)
    (tmp_path / "{a,b}.csv").write_text("text\nx\n")
    assert rows(f"{tmp_path}/{{a,b}}.csv", tmp_path) == [{"text": "x"}]


def test_what_no_source_reads_is_reported_with_how_to_write_it(tmp_path: Path) -> None:
    (tmp_path / "rows.dat").write_text("text;label\na;b\n")
    with pytest.raises(DataError) as refused:
        files(f"{tmp_path}/rows.dat", tmp_path)
    message = str(refused.value)
    assert message.startswith(
        f"{tmp_path}/rows.dat: no source reads it by its name: write data.format: the name of one of them, or "
        "{type: name, ...} with its fields, as in format: {type: csv, delimiter: ';'} (`regraft show sources NAME` "
        "lists them). Sources are\n  - arrow: Arrow IPC (.arrow, .feather, .arrows, .ipc)\n  - "
    )
    assert all(f"\n  - {name}: " in message for name in Source.names())
    assert "\n  - images: Images in folders that are named after their labels (.jpg, " in message
    assert "\n  - saved-dataset: A folder that `save_to_disk` of the `datasets` library wrote\n" in message
    assert rows(f"{tmp_path}/rows.dat", tmp_path, type="csv", delimiter=";") == [{"text": "a", "label": "b"}]


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a data set in a mirror of the hub."""
    monkeypatch.setenv("REGRAFT_HUB_MIRROR", str(tmp_path / "mirror"))
    folder = tmp_path / "mirror/datasets/org/films"
    (folder / "data").mkdir(parents=True)
    for number in range(2):
        (folder / f"data/part-{number}.csv").write_text(f"text,label\n{number},a\nbad\n")
    (folder / "t.en").write_text("a\n")
    (folder / "t.de").write_text("x\n")
    (folder / "films.py").write_text("raise SystemExit")
    archive(folder / "x.npz")
    return folder


def test_files_on_the_hub_are_called_by_their_url(mirror: Path, tmp_path: Path) -> None:
    found = files("hf://datasets/org/films/data/*.csv", tmp_path)
    assert [file.name for file in found] == [f"hf://datasets/org/films/data/part-{number}.csv" for number in range(2)]
    bad = [raw for raw in found[1].rows() if raw.problem]
    assert [raw.where for raw in bad] == ["hf://datasets/org/films/data/part-1.csv:3"]
    assert len(rows("hf://datasets/org/films/x.npz#val", tmp_path)) == 2
    assert rows("hf://datasets/org/films/t.{en,de}", tmp_path) == [{"en": "a", "de": "x"}]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("hf://datasets/org/films/none.csv", "there is no such file or folder"),
        ("hf://datasets/org/films/data/*.json", "no file matches this pattern"),
        ("hf://datasets/org/films/t.{en,fr}", "there is no such file"),
        ("hf://datasets/org/other/a.csv", "is not in the mirror"),
        ("hf://datasets/org/films@v2/a.csv", "is not in the mirror"),
        ("hf://datasets/org/films/films.py", "names no data file: code and pickled objects are never fetched"),
        ("hf://datasets/org/films/../../x.csv", "names no data file"),
        ("hf://org/films/a.csv", r"is not an address on the hub: write hf://datasets/<org>/<name>\[@<revision>\]/"),
        ("hf://datasets/org/films", "no source reads it by its name"),
    ],
)
def test_what_is_not_on_the_hub_is_refused_by_what_was_written(
    mirror: Path, tmp_path: Path, written: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as refused:
        files(written, tmp_path)
    assert refused.value.where.startswith(written.partition("{")[0])


class Hub:
    """`snapshot_download` of a hub with one data set, in the layout of the real cache: links to blobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[dict[str, Any]] = []

    def __call__(self, name: str, **asked: Any) -> str:
        self.asked.append({"name": name, **asked})
        snapshot = self.folder / "snapshots/abc"
        for inside in ("train/a.png", "coco.json"):
            blob = self.folder / "blobs" / inside.replace("/", "-")
            blob.parent.mkdir(parents=True, exist_ok=True)
            (snapshot / inside).parent.mkdir(parents=True, exist_ok=True)
            blob.write_text(json.dumps(COCO))
            (snapshot / inside).unlink(missing_ok=True)
            (snapshot / inside).symlink_to(blob)
        return str(snapshot)


COCO = {
    "images": [{"id": 1, "file_name": "train/a.png"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}],
    "categories": [{"id": 1, "name": "cell"}],
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.delenv("REGRAFT_HUB_MIRROR", raising=False)
    hub = Hub(tmp_path / "cache")
    monkeypatch.setattr(locations, "snapshot_download", hub)
    return hub


def test_a_folder_on_the_hub_is_fetched_without_code_and_its_images_lie_here(hub: Hub, tmp_path: Path) -> None:
    [row] = rows("hf://datasets/org/cells@refs/convert/parquet/coco.json", tmp_path)
    assert row["image"] == str(tmp_path / "cache/snapshots/abc/train/a.png")
    [asked] = hub.asked
    assert (asked["name"], asked["repo_type"], asked["revision"]) == ("org/cells", "dataset", "refs/convert/parquet")
    assert asked["allow_patterns"][0] == "coco.json"
    assert {"*.py", "*.pkl", "*.pt"} <= set(asked["ignore_patterns"])
    [file] = files("hf://datasets/org/cells", tmp_path)
    assert (file.source.key(), file.name) == ("coco", "hf://datasets/org/cells")
    patterns = hub.asked[-1]["allow_patterns"]
    assert {"*.parquet", "*.png", "*.json", "*.xml"} <= set(patterns)
    assert not {"*", "", "*.py", "*.md"} & set(patterns)
    list(rows("hf://datasets/org/cells/train/*", tmp_path, type="text"))
    assert {"train/*.png", "train/*.jsonl"} <= set(hub.asked[-1]["allow_patterns"])


def test_a_hub_that_refuses_or_is_not_there_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGRAFT_HUB_MIRROR", raising=False)
    answer: Any = SimpleNamespace(headers={}, request=None, status_code=404)
    errors = [LocalEntryNotFoundError("offline"), RepositoryNotFoundError("no such thing", response=answer)]
    for error, message in zip(
        errors, ("the hub cannot be reached", "'org/x' cannot be downloaded from the hub"), strict=True
    ):

        def refuse(*_: Any, error: Exception = error, **__: Any) -> str:
            raise error

        monkeypatch.setattr(locations, "snapshot_download", refuse)
        with pytest.raises(DataError, match=message) as refused:
            files("hf://datasets/org/x/a.csv", tmp_path)
        assert refused.value.where == "hf://datasets/org/x/a.csv"
