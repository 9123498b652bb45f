"""Language models on several ranks: sharded models train and generate like unsharded ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from regraft.contracts import Context
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.tasks.outputs.generation import generate, left_padded
from support.language_models import PROMPTS, byte_tokenizer, model_of, tiny_language, write_on_ranks
from support.processes import _context, free_port, on_ranks


def test_ranks_of_a_sharded_model_write_texts_of_different_lengths(tmp_path: Path) -> None:
    """None may stop while another still writes: it would wait for ever for weights to gather."""
    model = model_of("llama", tied=True).eval()
    context = Context(byte_tokenizer(), (), model.config)
    prompts = [torch.tensor(context.processor(text)["input_ids"]) for text in PROMPTS]
    free = [generate(model, left_padded([prompt], context), context, max_new_tokens=24)[0] for prompt in prompts]
    stop = next(token for place, token in enumerate(free[0][:12]) if place > 1 and token not in free[1])
    model.generation_config.eos_token_id = [0, stop]
    model.save_pretrained(tmp_path / "base")
    context.processor.save_pretrained(tmp_path / "base")
    port = free_port()
    ranks = [
        _context.Process(target=write_on_ranks, args=(rank, port, str(tmp_path / "base"), str(tmp_path)))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(90)
        process.kill()
    written = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(2)]
    assert written == [free[0][: free[0].index(stop)], free[1]]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "method"), [("ddp", "full"), ("fsdp", "lora")])
def test_two_ranks_come_to_the_perplexity_of_one(strategy: str, method: str, tmp_path: Path) -> None:
    def perplexity(world: int) -> float:
        folder = tmp_path / str(world)
        folder.mkdir()
        (folder / "rows.jsonl").write_text(
            "".join(json.dumps({"text": f"abc {'de' * (number % 9 + 1)} f"}) + "\n" for number in range(50))
        )
        document: dict[str, Any] = {
            "name": "ranks",
            "base": str(tiny_language(folder / "base")),
            "task": {"type": "text-generation", "block_size": 32, "max_new_tokens": 4},
            "method": method,
            "data": {"train": str(folder / "rows.jsonl"), "eval": str(folder / "rows.jsonl")},
            "training": {"epochs": 1, "batch_size": 5, "optimizer": "sgd", "lr": 0.05},
            "compute": {"workers": 0, "cpus": 1, "strategy": strategy},
            "store": str(folder / "store"),
        }
        on_ranks(world, document, str(folder / "journal"))
        store = Runs(open_store(document["store"]))
        (run,) = store.list()
        return float((store.find(run.name) or {})["metrics"]["perplexity"])

    assert perplexity(2) == pytest.approx(perplexity(1), rel=1e-5)
