"""JSON that is nested without end, in the files that others write: named, or read over; never a crash."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from regraft.bases.load import load_processor
from regraft.bases.locate import locate
from regraft.data.inputs import find_source
from regraft.data.tables import schema_features
from regraft.errors import BaseError, Damaged
from regraft.store.bounded_json import MOST_DEPTH, parse_json
from regraft.training.job import RunState
from unit.serving import tiny

DEEP = "[" * 100_000


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "sub/adapter_config.json"])
def test_a_base_with_deep_json_is_named(tmp_path: Path, name: str) -> None:
    folder = tiny.bert(tmp_path / "cls")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(DEEP)
    if name.startswith("sub/"):
        (folder / "config.json").unlink()
    with pytest.raises(BaseError):
        load_processor(locate(str(folder)), "text")


def test_deep_metadata_of_a_table_are_read_over() -> None:
    schema = pa.schema([("text", pa.string())], metadata={b"huggingface": DEEP.encode()})
    assert schema_features(schema) == {}


def test_a_deep_line_beside_pictures_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / "red" / f"{number}.png")
    (tmp_path / "metadata.jsonl").write_text(DEEP + "\n")
    find_source(tmp_path, "it")


@pytest.mark.parametrize("text", [DEEP, '{"a": ' * 5_000, "", "[]", '{"step": "x"}', '{"format": 1, "log": [1]}', "\0"])
def test_a_state_that_is_none_is_damage(text: str) -> None:
    with pytest.raises(Damaged, match=r"state\.json|checkpoint"):
        RunState.read(text)


def test_depth_is_counted_and_brackets_in_texts_are_not() -> None:
    assert parse_json(json.dumps({"text": "[" * 500})) == {"text": "[" * 500}
    fits = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert parse_json(fits) == json.loads(fits)
    with pytest.raises(ValueError, match=f"more than {MOST_DEPTH} levels deep"):
        parse_json(f"[{fits}]")
    wide = json.dumps([[]] * 5_000)
    assert parse_json(wide) == [[]] * 5_000
