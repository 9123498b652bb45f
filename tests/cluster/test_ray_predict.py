"""Batch prediction on Ray Data: the blocks of `predict_here` on actors, which may die."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import regraft
from regraft import plugins
from regraft.cluster.predict import predict
from regraft.errors import DataError, RequestError, RunError
from regraft.serving.batch.session import BatchRequest, predict_here
from support.tiny import WORDS, tiny_bert
from unit.serving.tiny import publish

DEADLY = '''
import os
import signal
from pathlib import Path

from pydantic import Field

from regraft.tasks.text_classification import TextClassification as Platform


class Deadly(Platform):
    """Ends whoever reads certain texts, each as often as it says."""

    folder: str = "."
    """Where the markers are."""

    def encode(self, row, context, *, train):
        text, _, times = row["text"].partition(" kill ")
        for number in range(int(times or 0)):
            marker = Path(self.folder) / f"{row['row']}-{number}"
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().encode({**row, "text": text}, context, train=train)
'''


@pytest.fixture
def deadly(tmp_path: Path) -> tuple[Path, str]:
    """A store with a model whose task kills, and the folder of the plugin."""
    name = "deadly_" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]
    (tmp_path / "mine" / "tasks").mkdir(parents=True)
    (tmp_path / "mine" / "tasks" / f"{name}.py").write_text(DEADLY)
    (tmp_path / "markers").mkdir()
    plugins.add_folder(tmp_path / "mine")
    tiny_bert(tmp_path / "base")
    task = {"type": name.replace("_", "-"), "folder": str(tmp_path / "markers")}
    publish(tmp_path / "store", tmp_path / "base", task, "full")
    return tmp_path / "store", str(tmp_path / "mine")


def rows_in(folder: Path, count: int, *, killing: dict[int, int] | None = None) -> Path:
    """Texts of several lengths; the rows in `killing` end their reader so often."""
    path = folder / "in.jsonl"
    with path.open("w") as file:
        for number in range(count):
            text = " ".join(WORDS[(number + step) % len(WORDS)] for step in range(1 + number % 17))
            kill = f" kill {killing[number]}" if killing and number in killing else ""
            file.write(json.dumps({"text": text + kill, "id": f"r{number}"}) + "\n")
    return path


def lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def request(store: Path, texts: Path, out: str, **more: Any) -> BatchRequest:
    return BatchRequest("tiny", str(texts), str(texts.parent / out), str(store), block_rows=8, device="cpu", **more)


@pytest.mark.slow
def test_two_actors_give_what_one_process_gives(on_ray: None, deadly: tuple[Path, str], tmp_path: Path) -> None:
    store, mine = deadly
    texts = rows_in(tmp_path, 50)
    here = predict_here(request(store, texts, "here.jsonl", plugins=(mine,)))
    events: list[dict[str, Any]] = []
    there = predict(
        request(store, texts, "there.jsonl", plugins=(mine,)),
        workers=2,
        progress=lambda event: events.append(event.document()),
    )
    assert Path(there.out).read_bytes() == Path(here.out).read_bytes()
    assert (there.rows, there.failed) == (50, 0)
    assert max(event["step"] for event in events if event["event"] == "step") == 50
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_three_killed_actors_leave_every_row_once_and_in_order(
    on_ray: None, deadly: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, mine = deadly
    texts = rows_in(tmp_path, 80, killing={3: 1, 35: 1, 67: 1})
    written = predict(request(store, texts, "out.jsonl", plugins=(mine,)), workers=2)
    assert len(list((tmp_path / "markers").iterdir())) == 3
    assert capfd.readouterr().out == "", "what Ray says of it is for -v"
    found = lines(written.out)
    assert [line["row"] for line in found] == list(range(80))
    assert [line["id"] for line in found] == [f"r{number}" for number in range(80)]
    assert Path(predict_here(request(store, texts, "here.jsonl", plugins=(mine,))).out).read_bytes() == (
        Path(written.out).read_bytes()
    )


@pytest.mark.slow
def test_a_row_that_kills_every_worker_ends_the_command_and_is_reported_by_its_block(
    on_ray: None, deadly: tuple[Path, str], tmp_path: Path
) -> None:
    store, mine = deadly
    texts = rows_in(tmp_path, 24, killing={13: 99})
    asked = request(store, texts, "out.jsonl", plugins=(mine,))
    with pytest.raises(RunError, match="rows 8 to 15 ended 5 workers"):
        predict(asked, workers=1)
    assert not Path(asked.output).exists()
    for number in range(99):
        (tmp_path / "markers" / f"13-{number}").touch()
    assert predict(asked, workers=1).rows == 24
    assert [line["row"] for line in lines(asked.output)] == list(range(24))


@pytest.mark.slow
def test_vectors_of_a_base_are_those_of_one_process(on_ray: None, tmp_path: Path) -> None:
    tiny_bert(tmp_path / "base")
    texts = rows_in(tmp_path, 30)
    asked = [
        BatchRequest(str(tmp_path / "base"), str(texts), str(tmp_path / out), features=True, block_rows=8, dtype="fp32")
        for out in ("here.parquet", "there.parquet")
    ]
    here, there = predict_here(asked[0]), predict(asked[1], workers=1)
    assert pq.read_table(here.out).equals(pq.read_table(there.out))
    assert pq.read_table(there.out).schema.field("features").type.list_size == 32


def test_what_is_asked_wrong_leaves_nothing(on_ray: None, deadly: tuple[Path, str], tmp_path: Path) -> None:
    store, mine = deadly
    texts = rows_in(tmp_path, 5)
    with pytest.raises(RequestError, match=r"64 is written; the cluster has"):
        predict(request(store, texts, "out.jsonl", plugins=(mine,)), workers=64)
    texts.write_text(texts.read_text() + '{"text": "", "id": "empty"}\n')
    with pytest.raises(DataError, match=r"in\.jsonl:6"):
        predict(request(store, texts, "out.jsonl", plugins=(mine,)), workers=1)
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "out.jsonl").exists()


@pytest.mark.slow
def test_a_command_says_only_what_is_its_own(deadly: tuple[Path, str], tmp_path: Path) -> None:
    store, mine = deadly
    texts = rows_in(tmp_path, 20, killing={11: 1})
    command = [sys.executable, "-m", "regraft", "predict", "tiny", str(texts), "--output", str(tmp_path / "out.jsonl")]
    command += ["--store", str(store), "--plugins", mine, "--workers", "1"]
    paths = os.pathsep.join([str(Path(regraft.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [line.split()[0] for line in done.stdout.splitlines() if line] == [
        "row",
        str(tmp_path / "out.jsonl"),
        "time",
    ]
