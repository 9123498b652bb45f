"""The last block computes only the first token where the head reads no other, and all tokens elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from regraft.serving.engine.cls_only import compute_cls_only
from regraft.serving.engine.dummy_rows import close
from regraft.serving.engine.engine import Engine, RowRequest
from regraft.serving.predictor import Predictor
from unit.serving.tiny import TEXTS, publish

CLASSIFY, TOKENS = "text-classification", "token-classification"


def seen_in_last_block(engine: Engine, name: str, text: str) -> tuple[int, int, Any]:
    """Return the tokens that the last block's attention and the layers behind it compute, and the answer."""
    row = {"tokens": text.split()} if engine.open(name, "v1").task.key() == TOKENS else {"text": text}
    found = engine.encode(RowRequest(name, "v1", row))
    adapted = found.loaded.frame.adapted
    block = adapted.model.get_submodule(adapted.anatomy.blocks[-1])
    seen: list[int] = []
    hooks = [
        block.get_submodule(part).register_forward_hook(lambda _, given, out: seen.append(out.shape[1]))
        for part in ("attention.self.query", "output.dense")
    ]
    try:
        (answer,) = engine.answer([found])
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0], seen[1], answer


def test_a_head_on_the_first_token_costs_no_other_in_the_last_block(bases: dict[str, Path], store: Path) -> None:
    publish(store, bases["cls"], CLASSIFY, "full", "all", seed=3)
    engine, alone = Engine(str(store), device="cpu"), Predictor.open(str(store), "all@v1")
    tokens, behind, answer = seen_in_last_block(engine, "all", TEXTS[0])
    assert tokens == len(TEXTS[0].split()) + 2 and behind == 1
    assert close(answer, alone.predict([{"text": TEXTS[0]}])[0], 1e-5)
    found = engine.answer([engine.encode(RowRequest("all", "v1", {"text": text})) for text in TEXTS])
    wanted = alone.predict([{"text": text} for text in TEXTS])
    assert all(close(one, other, 1e-5) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("base", "task"), [("mean", CLASSIFY), ("cls", TOKENS)], ids=["mean of tokens", "each token"])
def test_a_head_that_reads_more_gets_more(bases: dict[str, Path], store: Path, base: str, task: str) -> None:
    publish(store, bases[base], task, "full", "all", seed=3)
    engine = Engine(str(store), device="cpu")
    tokens, behind, _ = seen_in_last_block(engine, "all", TEXTS[0])
    assert tokens == behind > 1


def test_models_that_share_a_pass_keep_all_tokens(bases: dict[str, Path], store: Path) -> None:
    publish(store, bases["cls"], CLASSIFY, "feature-extraction", "head", seed=3)
    engine = Engine(str(store), device="cpu")
    tokens, behind, _ = seen_in_last_block(engine, "head", TEXTS[0])
    assert tokens == behind > 1


@pytest.mark.parametrize("base", ["squares", "shapes"])
def test_another_last_block_stays_as_it_is(bases: dict[str, Path], store: Path, base: str, pictures: list[str]) -> None:
    publish(store, bases[base], "object-detection", "full", "all", seed=3)
    engine = Engine(str(store), device="cpu")
    found = engine.encode(RowRequest("all", "v1", {"image": pictures[0]}))
    before = engine.answer([found])
    assert not compute_cls_only(found.loaded.frame)
    assert engine.answer([found]) == before


def test_a_frame_that_fails_to_show_it_stays_as_it_is(
    bases: dict[str, Path], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, bases["cls"], CLASSIFY, "full", "all", seed=3)
    monkeypatch.setattr("regraft.serving.engine.cls_only._first", lambda states: torch.zeros(1, 2))
    tokens, behind, _ = seen_in_last_block(Engine(str(store), device="cpu"), "all", TEXTS[0])
    assert tokens == behind > 1
