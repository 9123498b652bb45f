"""Language models end to end: from files to a version that generates text, and to an exported folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

import regraft
from regraft.cli.train import commands
from regraft.data.snapshot import open_snapshot
from regraft.errors import DataError, Unsupported
from regraft.serving.export import export
from regraft.serving.predictor import Predictor
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.tasks.inputs.chat_template import PLAIN
from regraft.training.registration import Outcome
from regraft.training.session import train_local
from support.language_models import tiny_language

CHATML = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
LETTERS = "abcdefgh"


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def document(folder: Path, base: Path, data: dict[str, str], task: Any, method: Any, **training: Any) -> dict[str, Any]:
    return {
        "name": "writer",
        "base": str(base),
        "task": {"type": "text-generation", "max_new_tokens": 6, **task},
        "method": method,
        "data": data,
        "training": {"steps": 60, "eval_steps": 60, "batch_size": 4, "lr": 2e-2, "warmup": 0.05, **training},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(folder / "store"),
    }


def alphabet(folder: Path) -> dict[str, str]:
    """Texts in which each letter follows from the one before it."""
    texts = [{"text": (LETTERS * 6)[start : start + 20 + start % 7]} for start in range(40)]
    return {"train": lines(folder / "train.jsonl", texts), "eval": lines(folder / "eval.jsonl", texts[:8])}


def talks(folder: Path) -> dict[str, str]:
    """Conversations in which the answer is the question's letter, in capitals, twice."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": letter * (1 + number % 3)},
                {"role": "assistant", "content": letter.upper() * 2},
            ]
        }
        for number in range(12)
        for letter in LETTERS
    ]
    return {"train": lines(folder / "train.jsonl", rows), "eval": lines(folder / "eval.jsonl", rows[:16])}


def train(written: dict[str, Any]) -> Outcome:
    return train_local(RunSpec.resolve(written))


@pytest.mark.parametrize(
    ("method", "tied"), [("full", True), ("lora", False), ("lora", True), ({"type": "freeze", "depth": 1}, False)]
)
def test_texts_are_learnt_written_and_exported(method: Any, tied: bool, tmp_path: Path) -> None:
    base = tiny_language(tmp_path / "base", tied=tied)
    generation = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps({**generation, "repetition_penalty": 1.25}))
    out = train(document(tmp_path, base, alphabet(tmp_path), {"block_size": 64}, method))
    assert set(out.metrics) == {"perplexity", "loss", "tokens"} and out.score == "perplexity"
    assert out.metrics["perplexity"] < (4 if method == "full" else 60)
    model = Predictor.open(out.store, "writer", device="cpu")
    texts = ["abc", "cdefgha", "h"]
    answers = model.predict(texts)
    assert [set(answer) for answer in answers] == [{"generated_text"}] * 3
    assert answers == [model.predict([text])[0] for text in texts]
    if method == "full":
        assert [answer["generated_text"] for answer in answers] == ["defgha", "bcdefg", "abcdef"]
    folder = export(out.store, "writer", tmp_path / "out").folder
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            here = model.adapted.model(**inputs).logits
            torch.testing.assert_close(loaded(**inputs).logits, here, rtol=1e-5, atol=1e-5)
    assert loaded.generation_config.repetition_penalty == 1.25
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert ("lm_head.weight" in file.keys()) != tied  # noqa: SIM118 (a safetensors file is no mapping)


def test_conversations_are_learnt_and_answered(tmp_path: Path) -> None:
    base = tiny_language(tmp_path / "base", template=CHATML)
    written = document(tmp_path, base, talks(tmp_path), {"form": "chat", "block_size": 100}, "full")
    out = train(written)
    snapshot = open_snapshot(open_store(out.store), Runs(open_store(out.store)).find(out.run)["data"])  # type: ignore[index]
    assert len(snapshot.train) < 50, "several conversations share a block"
    model = regraft.load("writer", store=out.store)
    asked = [{"messages": [{"role": "user", "content": letter * 2}]} for letter in "acg"]
    assert [answer["generated_text"] for answer in model.predict(asked)] == ["AA", "CC", "GG"]
    answered = {"messages": [*asked[0]["messages"], {"role": "assistant", "content": "no"}]}
    assert model.predict([answered]) == model.predict(asked[:1])
    assert "predict([{'messages': [{'role': 'user', 'content': '...'}]}])" in commands(RunSpec.resolve(written), out)[1]
    folder = export(out.store, "writer", tmp_path / "out").folder
    assert AutoTokenizer.from_pretrained(folder).chat_template == CHATML


@pytest.mark.parametrize("packing", [True, False])
def test_completions_are_learnt_with_and_without_packing(packing: bool, tmp_path: Path) -> None:
    rows = [{"prompt": f"{letter}=", "completion": letter.upper()} for letter in LETTERS * 12]
    data = {"train": lines(tmp_path / "train.jsonl", rows), "eval": lines(tmp_path / "eval.jsonl", rows[:8])}
    task = {"form": "completion", "packing": packing, "block_size": 32}
    out = train(document(tmp_path, tiny_language(tmp_path / "base", "gpt2", pad=False), data, task, "full"))
    assert out.metrics["tokens"] == 16, "a letter and the end, of each row"
    model = regraft.load("writer", store=out.store)
    assert [answer["generated_text"] for answer in model.predict(["b=", "f="])] == ["B", "F"]


def test_a_base_without_a_chat_template_is_refused_before_training(tmp_path: Path) -> None:
    written = document(tmp_path, tiny_language(tmp_path / "base"), talks(tmp_path), {"form": "chat"}, "full")
    with pytest.raises(Unsupported, match=r"task\.template: this base's tokenizer has no chat template: write `plain`"):
        train(written)
    out = train({**written, "task": {**written["task"], "template": "plain"}, "training": {"steps": 1}})
    folder = export(out.store, "writer", tmp_path / "out").folder
    assert AutoTokenizer.from_pretrained(folder).chat_template == PLAIN


def test_rows_in_which_nobody_answers_are_reported(tmp_path: Path) -> None:
    data = talks(tmp_path)
    mute = [{"messages": [{"role": "user", "content": "a"}]}] * 3
    data["eval"] = lines(tmp_path / "mute.jsonl", mute)
    base = tiny_language(tmp_path / "base", template=CHATML)
    with pytest.raises(DataError, match="eval rows hold too little"):
        train(document(tmp_path, base, data, {"form": "chat"}, "full"))


def test_feature_extraction_is_refused_with_what_to_write(tmp_path: Path) -> None:
    written = document(tmp_path, tiny_language(tmp_path / "base"), alphabet(tmp_path), {}, "feature-extraction")
    with pytest.raises(Unsupported, match=r"nothing new in this LlamaForCausalLM.*write lora, freeze or full"):
        train(written)
