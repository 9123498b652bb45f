"""The answers of every task are the same in an output file as from the predictor."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from regraft.contracts import MadeUp, Task, column_of
from regraft.serving.batch.session import BatchRequest, predict_here
from regraft.serving.engine.dummy_rows import close
from regraft.serving.predictor import Predictor
from support.depth_models import tiny_dpt
from support.image_bases import tiny_mobilenet
from support.image_text import tiny_clip
from support.language_models import tiny_language
from support.segmenters import tiny_segformer
from support.tiny import tiny_bert
from support.translators import translator
from unit.every.rows import base_of, method_of
from unit.serving import tiny

TEXTS = ["the lamp is on", "a refund please", "where can you update my account and my phone", "help"]
PAIRS = [{"text": text, "pair": TEXTS[number - 1]} for number, text in enumerate(TEXTS)]


@dataclass(frozen=True)
class Kit:
    """Everything that a task needs for an answer."""

    base: Callable[[Path], Path]
    rows: list[dict[str, Any]] | None = None
    """None: files of images, or of sounds."""
    fields: dict[str, Any] = field(default_factory=dict)


def speaker(folder: Path) -> Path:
    return translator(folder, "t5", TEXTS)


def writer(folder: Path) -> Path:
    tiny_language(folder, "llama")
    return folder


def listener(folder: Path) -> Path:
    return base_of("wav2vec2", folder).path


IN_TEXT = [{"text": text} for text in TEXTS]
KITS = {
    "audio-classification": Kit(listener),
    "text-classification": Kit(tiny_bert, IN_TEXT),
    "text-multi-label": Kit(tiny_bert, IN_TEXT),
    "text-regression": Kit(tiny_bert, IN_TEXT),
    "text-pair-classification": Kit(tiny_bert, PAIRS),
    "text-pair-regression": Kit(tiny_bert, PAIRS),
    "question-answering": Kit(tiny_bert, [{"question": row["text"], "context": row["pair"]} for row in PAIRS]),
    "token-classification": Kit(
        tiny_bert, [{"tokens": text.split() if number % 2 else text} for number, text in enumerate(TEXTS)]
    ),
    "masked-lm": Kit(tiny_bert, [{"text": f"{text} [MASK]"} for text in TEXTS]),
    "embeddings": Kit(tiny_bert, IN_TEXT),
    "text-generation": Kit(writer, IN_TEXT, {"max_new_tokens": 4}),
    "translation": Kit(speaker, [{"source": text} for text in TEXTS], {"max_new_tokens": 4}),
    "summarization": Kit(speaker, IN_TEXT, {"max_new_tokens": 4}),
    "image-embeddings": Kit(tiny_mobilenet),
    "image-classification": Kit(tiny_mobilenet),
    "image-multi-label": Kit(tiny_mobilenet),
    "image-regression": Kit(tiny_mobilenet),
    "object-detection": Kit(tiny.yolos, fields={"threshold": 0.0}),
    "semantic-segmentation": Kit(tiny_segformer),
    "anomaly-detection": Kit(tiny_mobilenet),
    "depth-estimation": Kit(tiny_dpt),
    "zero-shot-image-classification": Kit(tiny_clip),
}


def sound_rows(folder: Path) -> list[dict[str, Any]]:
    rows = [{"audio": str(folder / f"{number}.wav")} for number in range(3)]
    for number, row in enumerate(rows):
        Path(row["audio"]).write_bytes(column_of("audio").made_up(MadeUp(number, ("a",))))
    return rows


def image_rows(folder: Path) -> list[dict[str, Any]]:
    paths = [str(folder / f"{number}.png") for number in range(3)]
    for number, path in enumerate(paths):
        Image.new("RGB", (32, 32), (60 * number, 90, 200 - 40 * number)).save(path)
    return [{"image": path} for path in paths]


def alike(one: Any, other: Any) -> bool:
    """Return whether two values are equal, numbers up to the rounding of another batch."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == pytest.approx(other, abs=1e-5)) if isinstance(one, float) else close(one, other, 0)


@pytest.mark.parametrize("name", Task.names())
def test_answers_are_those_of_a_predictor_in_both_formats(name: str, store: Path, tmp_path: Path) -> None:
    if name not in KITS:
        pytest.fail(f"task {name} is new: say in KITS what it needs to answer")
    kit = KITS[name]
    known = Task.lookup(name).model_fields
    fields = {key: value for key, value in kit.fields.items() if key in known}
    tiny.publish(store, kit.base(tmp_path / "base"), {"type": name, **fields}, method_of(name))
    rows = kit.rows or (sound_rows if kit.base is listener else image_rows)(tmp_path)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = json.loads(json.dumps(Predictor.open(str(store), "tiny", device="cpu").predict(rows)))
    assert len(wanted) == len(rows)

    def asked(out: str) -> str:
        return predict_here(
            BatchRequest("tiny", str(tmp_path / "in.jsonl"), str(tmp_path / out), str(store), device="cpu")
        ).out

    found = [json.loads(line) for line in Path(asked("out.jsonl")).read_text().splitlines()]
    assert alike([line["answer"] for line in found], wanted)
    assert [{name: line[name] for name in row} for line, row in zip(found, rows, strict=True)] == rows
    assert alike(pq.read_table(asked("out.parquet"))["answer"].to_pylist(), wanted)
