"""A plan says before the start what a run then takes, and leaves nothing behind."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.cli import main
from regraft.errors import RequestError
from regraft.planning.measuring import copied_version
from regraft.planning.session import plan_session
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.training.planner import Planner
from regraft.training.session import train_local
from support.language_models import byte_tokenizer
from support.plan_specs import SPECS
from support.processes import CountingHarness, on_ranks
from support.tiny import document

HIDDEN, INNER, LAYERS, WORDS = 4096, 11008, 32, 32000
"""Llama 7B."""


def test_a_plan_leaves_nothing_and_its_bytes_are_those_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = document(tmp_path, method="lora")
    found = plan_session(RunSpec.resolve(written))
    assert not (tmp_path / "store").exists()
    assert (found.plan.steps, found.plan.evaluations, found.plan.rows) == (16, 2, {"train": 60, "eval": 30})
    assert found.plan.moving == 2 * 2 * 2 * 8 * 32 + 3 * 32 + 3  # query and value of two blocks, and the head
    assert found.document()["time"] is None
    outcome = train_local(RunSpec.resolve(written))
    record = Runs(open_store(written["store"])).find(outcome.run) or {}
    assert record["plan"]["checkpoint_bytes"] == pytest.approx(record["outcome"]["checkpoint_bytes"], rel=0.03)
    assert record["outcome"]["work"]["steps"] == 16 and record["outcome"]["command_s"] > 0
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(written))
    assert main(["plan", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "the last 1 plans of checkpoint were off by" in shown and "1 runs on the same base" in shown
    assert regraft.plan(written).document()["run"] == outcome.run


def test_measured_steps_give_a_time(tmp_path: Path) -> None:
    found = plan_session(RunSpec.resolve(document(tmp_path)), measure=True).document()["time"]
    assert found["low"] < found["seconds"] < found["high"] and found["of"] == "12 measured steps"
    assert not (tmp_path / "store").exists()


def test_measured_steps_learn_from_a_registered_teacher(tmp_path: Path) -> None:
    written = document(tmp_path, method="feature-extraction", epochs=1, baselines=False)
    train_local(RunSpec.resolve({**written, "name": "teacher"}))
    loss = {"type": "distill", "teacher": "model:teacher", "temperature": 2.0, "weight": 1.0}
    found = plan_session(RunSpec.resolve({**written, "losses": [loss]}), measure=True).document()["time"]
    assert found["seconds"] > 0
    home, copies = open_store(written["store"]), open_store(str(tmp_path / "copies"))
    copied = copied_version("model:teacher", home, copies)
    keys = {stat.key for stat in copies.list(copied.prefix)}
    assert keys <= {stat.key for stat in home.list(copied.prefix)} and f"{copied.prefix}delta.safetensors" in keys


def test_the_smallest_change_that_fits_is_named(tmp_path: Path) -> None:
    written = document(tmp_path)
    whole = plan_session(RunSpec.resolve(written)).plan
    lora = plan_session(RunSpec.resolve({**written, "method": "lora"})).plan
    assert lora.checkpoints < whole.checkpoints
    with pytest.raises(RequestError, match=r"budget.store_gb: .*write method: \{type: freeze, depth: 50%\}"):
        plan_session(RunSpec.resolve({**written, "budget": {"store_gb": (whole.checkpoints - 1e5) / 1e9}}))
    with pytest.raises(RequestError, match=r"budget.store_gb: .*write method: \{type: freeze, depth: 75%\}"):
        plan_session(RunSpec.resolve({**written, "budget": {"store_gb": lora.checkpoints / 1e9}}))
    with pytest.raises(RequestError, match="no smaller form of this run fits"):
        plan_session(RunSpec.resolve({**written, "budget": {"memory_gb": 0.001}}))


@pytest.mark.slow
def test_halved_micro_batches_are_the_first_change_for_less_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What libraries hold grows while earlier tests' leftovers are in this process, by more than the tiny model takes.
    monkeypatch.setattr("regraft.planning.session.process_bytes", lambda: 400_000_000)
    spec = RunSpec.resolve(document(tmp_path, batch_size=32))
    whole = plan_session(spec).plan
    half = plan_session(spec.override({"training.accumulation": 2})).plan
    assert half.memory.device_total < whole.memory.device_total
    budget = {"memory_gb": whole.memory.device_total * (1 - 1e-4) / 1e9}
    with pytest.raises(RequestError, match=r"budget.memory_gb: .*write training.accumulation: 2"):
        plan_session(RunSpec.resolve({**document(tmp_path, batch_size=32), "budget": budget}))


def run_spec(written: Mapping[str, Any], folder: Path) -> str:
    """Train a spec, on ranks of this machine where it names several workers; return the run's name."""
    workers = written["compute"]["workers"]
    here = {**written, "compute": {**written["compute"], "workers": 0}}
    if workers > 1:
        on_ranks(workers, here, str(folder / "rows.txt"), CountingHarness)
    else:
        train_local(RunSpec.resolve(here))
    return RunSpec.resolve(here).run


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_checkpoints_have_the_planned_bytes(name: str, tmp_path: Path) -> None:
    written = SPECS[name](tmp_path)
    planned = plan_session(RunSpec.resolve(written)).plan
    run = run_spec(written, tmp_path)
    store = open_store(written["store"])
    newest = Checkpoints(store, run).listed()[-1]
    real = sum(stat.size for stat in store.list(newest.prefix))
    files = {entry.name: entry.size for entry in newest.manifest.files}
    print(f"{name}: planned {planned.checkpoint.total:,}, real {real:,}, {planned.checkpoint.total / real - 1:+.2%}")
    assert planned.checkpoint.delta == files["delta.safetensors"]
    assert planned.checkpoint.optimizer == files["optimizer.safetensors"]
    assert planned.checkpoint.total == pytest.approx(real, rel=0.02)
    assert planned.kept >= len(Checkpoints(store, run).listed())


def llama(folder: Path) -> Path:
    """Make a base of Llama 7B's shapes: its files end after the header, and the rest is a hole."""
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN}
    config |= {"intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 32, "vocab_size": WORDS}
    config |= {"num_key_value_heads": 32, "max_position_embeddings": 4096, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    byte_tokenizer().save_pretrained(folder)
    shapes = {"model.embed_tokens.weight": [WORDS, HIDDEN], "lm_head.weight": [WORDS, HIDDEN]}
    shapes["model.norm.weight"] = [HIDDEN]
    for layer in range(LAYERS):
        inside = f"model.layers.{layer}"
        shapes |= {f"{inside}.self_attn.{one}_proj.weight": [HIDDEN, HIDDEN] for one in "qkvo"}
        shapes |= {f"{inside}.mlp.{one}_proj.weight": [INNER, HIDDEN] for one in ("gate", "up")}
        shapes[f"{inside}.mlp.down_proj.weight"] = [HIDDEN, INNER]
        shapes |= {f"{inside}.{one}_layernorm.weight": [HIDDEN] for one in ("input", "post_attention")}
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * (shape[0] * shape[1] if len(shape) == 2 else shape[0])
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + at)
    return folder


def texts(path: Path, rows: int, length: int) -> str:
    path.write_text("\n".join(json.dumps({"text": "a" * length}) for _ in range(rows)))
    return str(path)


def of_7b(folder: Path, method: str, **compute: Any) -> dict[str, Any]:
    (folder / "mirror" / "meta").mkdir(parents=True)
    llama(folder / "mirror" / "meta" / "llama-7b")
    return {
        "name": "seven",
        "base": "meta/llama-7b",
        "task": {"type": "text-generation", "block_size": 511},
        "method": method,
        "data": {"train": texts(folder / "train.jsonl", 40, 510), "eval": texts(folder / "eval.jsonl", 4, 510)},
        "training": {"batch_size": 4, "epochs": 1, "lr": 1e-4},
        "compute": {"workers": 0, "precision": "fp32", **compute},
        "store": str(folder / "store"),
    }


MATRICES = LAYERS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER)
BLOCKS = MATRICES + LAYERS * 2 * HIDDEN
WHOLE = BLOCKS + 2 * WORDS * HIDDEN + HIDDEN
"""6,738,415,616 parameters."""


@pytest.mark.slow
def test_lora_on_7b_is_planned_from_the_header_as_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = of_7b(tmp_path, "lora")
    monkeypatch.setenv("REGRAFT_HUB_MIRROR", str(tmp_path / "mirror"))
    plan_session(RunSpec.resolve(document(tmp_path / "warm")))  # imports and first uses of libraries
    began = time.process_time()
    plan = plan_session(RunSpec.resolve(written)).plan
    spent = time.process_time() - began
    factors = LAYERS * 2 * 2 * 8 * HIDDEN  # A and B of rank 8 for query and value
    assert WHOLE == 6_738_415_616
    assert (plan.parameters, plan.moving) == (WHOLE + factors, factors)
    device = plan.memory.device
    assert device["weights"] == pytest.approx(4 * (WHOLE + factors), rel=1e-6)
    assert (device["gradients"], device["optimizer"]) == (4 * factors, 8 * factors)
    assert plan.memory.host["checkpoint copy"] == 12 * factors
    assert plan.checkpoint.total == pytest.approx(12 * factors, rel=0.005)
    # Of a token, a layer keeps both norms' inputs, what query and value read, queries, keys, values, their result, and
    # in the feed-forward the gate, its activation and the other factor.
    tokens = 4 * 511
    kept = 4 * tokens * LAYERS * (7 * HIDDEN + 3 * INNER)
    assert device["activations"] == pytest.approx(kept, rel=0.05)
    # The loss reads logits, and keeps their logarithms.
    assert device["logits"] == pytest.approx(2 * 4 * tokens * WORDS, rel=0.02)
    print(f"7B LoRA planned in {spent:.2f} s of CPU")
    assert spent <= 2


@pytest.mark.slow
def test_full_7b_in_eight_shards_is_planned_from_the_header_as_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = of_7b(tmp_path, "full", workers=8, strategy="fsdp")
    written["training"] |= {"batch_size": 8}
    monkeypatch.setenv("REGRAFT_HUB_MIRROR", str(tmp_path / "mirror"))
    plan_session(RunSpec.resolve(document(tmp_path / "warm")))
    began = time.process_time()
    plan = plan_session(RunSpec.resolve(written)).plan
    spent = time.process_time() - began
    assert (plan.parameters, plan.moving, plan.workers) == (WHOLE, WHOLE, 8)
    device = plan.memory.device
    assert device["weights"] == pytest.approx(4 * WHOLE / 8, rel=1e-6)
    assert device["gradients"] == device["exchange"] == 4 * WHOLE // 8
    assert device["optimizer"] == 8 * WHOLE // 8
    # Outside the blocks: both tables and the last norm stay gathered.
    assert device["gathered"] == pytest.approx(4 * (WHOLE - BLOCKS), rel=1e-3)
    # One row a worker: every matrix keeps what it reads, which two of three share.
    tokens = 511
    assert device["activations"] + device["logits"] < 4 * tokens * (LAYERS * (20 * HIDDEN + 5 * INNER) + 5 * WORDS)
    assert plan.checkpoint.total == pytest.approx(12 * WHOLE, rel=1e-4)
    print(f"7B full planned in {spent:.2f} s of CPU")
    assert spent <= 2


def test_a_model_that_asks_for_values_is_planned_without_activations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Planner, "passes", lambda *_: None)
    found = plan_session(RunSpec.resolve(document(tmp_path)))
    assert not found.plan.passes and "activations could not be counted" in found.memory_rows()[-1][2]
