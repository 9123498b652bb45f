"""Language models with tied input and output embeddings: a delta holds them once, and loading keeps them tied."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.delta import apply_delta, delta_tensors
from regraft.bases.locate import Base
from regraft.contracts import Batch, Method
from unit.bases.families import TinyText, batch_for, located, shake, step


class TinyLanguage(TinyText):
    auto: ClassVar[str] = "AutoModelForCausalLM"


class TinyTranslation(TinyText):
    auto: ClassVar[str] = "AutoModelForSeq2SeqLM"


TASKS: dict[str, TinyText] = {
    "bart": TinyTranslation(),
    "gpt2": TinyLanguage(),
    "marian": TinyTranslation(),
    "t5": TinyTranslation(),
}
TABLES = {"bart": "shared.weight", "gpt2": "wte.weight", "marian": "shared.weight", "t5": "shared.weight"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    return {name: located(name, tmp_path_factory.mktemp(name)) for name in TASKS}


def made(base: Base, name: str, method: object, seed: int = 0) -> Any:
    parsed: Any = Method.parse(method)
    return adapt(base, Adaptation(task=TASKS[name], method=parsed, labels=(), seed=seed), processor=SimpleNamespace())


def batch(name: str) -> Batch:
    given = batch_for("bert")
    return {**given, "decoder_input_ids": given["input_ids"]} if isinstance(TASKS[name], TinyTranslation) else given


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_delta_holds_the_table_once_and_loading_ties_it(
    bases: dict[str, Base], name: str, method: str, tmp_path: Path
) -> None:
    one = made(bases[name], name, method)
    shake(one.model)
    step(one, batch(name))
    tensors = {key: tensor.detach().contiguous() for key, tensor in delta_tensors(one).items()}
    save_file(tensors, tmp_path / "delta")  # which refuses tied tensors
    tables = [key for key in tensors if tensors[key].shape[0] == 30 and ".lora_" not in key]
    assert tables == ([TABLES[name]] if method == "full" else [])
    other = made(bases[name], name, method, seed=9)
    apply_delta(other, load_file(tmp_path / "delta"))
    assert other.model.get_output_embeddings().weight is other.model.get_input_embeddings().weight
    with torch.no_grad():
        assert torch.equal(one.forward(batch(name)).logits, other.forward(batch(name)).logits)


@pytest.mark.parametrize("name", TASKS)
def test_a_table_frozen_with_the_stem_stays_in_the_output_too(bases: dict[str, Base], name: str) -> None:
    frozen = made(bases[name], name, {"type": "freeze", "depth": 1})
    before = frozen.model.get_output_embeddings().weight.clone()
    step(frozen, batch(name))
    assert torch.equal(frozen.model.get_output_embeddings().weight, before)
    assert TABLES[name] not in delta_tensors(frozen)
