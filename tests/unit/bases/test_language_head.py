"""The output layer of a language model: the base's if its files hold it, else new."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedModel,
)

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.load import quiet
from regraft.bases.locate import locate, processor_files
from regraft.contracts import Method
from regraft.errors import Unsupported
from unit.bases.families import TinyText


class TinyLanguage(TinyText):
    auto: ClassVar[str] = "AutoModelForCausalLM"


def llama(*, bare: bool = False, tied: bool = False) -> Any:
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 12}
    config = LlamaConfig(vocab_size=30, max_position_embeddings=16, tie_word_embeddings=tied, **sizes)
    return LlamaModel(config) if bare else LlamaForCausalLM(config)


def made(folder: Path, model: PreTrainedModel, method: object) -> Adapted:
    torch.manual_seed(0)
    with quiet():
        model.save_pretrained(folder)
    how: Any = Method.parse(method)
    return adapt(
        locate(str(folder)), Adaptation(task=TinyLanguage(), method=how, labels=(), seed=0), processor=SimpleNamespace()
    )


def test_an_output_layer_that_the_files_hold_belongs_to_the_base(tmp_path: Path) -> None:
    model = llama()
    lora = made(tmp_path, model, "lora")
    assert lora.anatomy.head == ()
    assert all(".lora_" in name for name in lora.delta_names)
    assert "lm_head.weight" in made(tmp_path, model, "full").delta_names
    top = made(tmp_path, model, {"type": "freeze", "depth": "all"})
    assert "lm_head.weight" in top.delta_names and not any(".0." in name for name in top.delta_names)


def test_an_output_layer_that_the_files_lack_is_the_head(tmp_path: Path) -> None:
    model = llama(bare=True)
    assert made(tmp_path, model, "feature-extraction").delta_names == ("lm_head.weight",)
    assert "lm_head.weight" in made(tmp_path, model, "lora").delta_names


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_feature_extraction_says_that_a_whole_language_model_has_nothing_new(tied: bool, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"method: .*nothing new.*LlamaForCausalLM.*lora, freeze or full"):
        made(tmp_path, llama(tied=tied), "feature-extraction")


def test_a_tied_gpt2_has_no_head(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=30, n_positions=16))
    full = made(tmp_path, model, "full")
    assert full.anatomy.head == () and full.delta_names.count("wte.weight") == 1
    assert "lm_head.weight" not in full.delta_names


def test_a_chat_template_travels_with_the_processor(tmp_path: Path) -> None:
    with quiet():
        llama().save_pretrained(tmp_path)
    before = locate(str(tmp_path))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    after = locate(str(tmp_path))
    assert [path.name for path in processor_files(after)] == ["chat_template.jinja"]
    assert after.processor_hash != before.processor_hash and after.hash == before.hash
