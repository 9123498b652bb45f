"""Every way of training on every family of language models: trained weights, deltas, and merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.delta import apply_delta, canonical_name, delta_tensors
from regraft.bases.locate import Base, locate
from regraft.contracts import Batch, Method
from regraft.tasks.text_generation import TextGeneration
from support.language_models import FAMILIES, tiny_language

TASK = TextGeneration(block_size=32, max_new_tokens=4)
METHODS: dict[str, Any] = {
    "full": "full",
    "freeze": {"type": "freeze", "depth": 1},
    "freeze all": {"type": "freeze", "depth": "all"},
    "lora": "lora",
    "lora linear": {"type": "lora", "targets": "linear"},
    "lora attention": {"type": "lora", "targets": "attention"},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Base]:
    return {
        (family, tied): locate(str(tiny_language(tmp_path_factory.mktemp(family), family, tied=tied)))
        for family in FAMILIES
        for tied in (True, False)
    }


def adapted(base: Base, method: str, seed: int = 0) -> Adapted:
    parsed = Method.parse(METHODS[method])
    assert isinstance(parsed, Method)
    return adapt(base, Adaptation(task=TASK, method=parsed, labels=(), seed=seed))


def batch(made: Adapted) -> Batch:
    rows = [{"text": text, "row": number} for number, text in enumerate(["One.", "Two and three.", "Four"])]
    blocks = list(TASK.pack(rows, made.context.processor))
    return TASK.collate([TASK.encode(block, made.context, train=True) for block in blocks], made.context)


def state(made: Adapted) -> dict[str, Tensor]:
    prefix = made.anatomy.prefix
    return {canonical_name(name, prefix): value.detach().clone() for name, value in made.model.named_parameters()}


def step(made: Adapted) -> None:
    for parameter in made.model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.01
    given = batch(made)
    made.train_mode()
    total, _ = TASK.loss(made.forward(given), given, made.context)
    total.backward()
    torch.optim.AdamW([p for p in made.model.parameters() if p.requires_grad], lr=1e-2).step()
    made.eval_mode()


def logits(made: Adapted) -> Tensor:
    with torch.no_grad():
        found: Tensor = made.forward(batch(made)).logits
    return found


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_moves_the_delta_alone_which_gives_the_same_logits_and_merges(
    bases: dict[tuple[str, bool], Base], family: str, method: str, tied: bool
) -> None:
    made = adapted(bases[family, tied], method)
    before = state(made)
    step(made)
    moved = {name for name, tensor in state(made).items() if not torch.equal(tensor, before[name])}
    assert moved == set(made.delta_names)
    assert ("lm_head.weight" in moved) == (not tied and "lora" not in method)
    if "freeze" in method:
        assert not any("wte" in name or "embed_tokens" in name for name in moved)
    fresh = adapted(bases[family, tied], method, seed=9)
    apply_delta(fresh, delta_tensors(made))
    assert torch.equal(logits(fresh), logits(made))
    wanted, kind = logits(made), type(made.model)
    made.method.merge(made.model)
    torch.testing.assert_close(logits(made), wanted, rtol=1e-4, atol=1e-5)
    assert type(made.model) is kind and not any(".lora_" in name for name, _ in made.model.named_parameters())
