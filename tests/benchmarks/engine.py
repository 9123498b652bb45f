"""The cost of many models on one base: the engine compared with adapter switching and with the bare base.

python tests/benchmarks/engine.py

Models of random deltas on MiniLM (LoRA of rank 8 on queries and values, heads alone), from text to label, one thread,
in turns, in batches of 32 rows of 32 different models. The outputs are compared first.

- `switching`: the same 32 adapters in one PEFT model, `set_adapter` for each model's rows;
- `bare`: the base with one head for all rows;
- `many`: batches of 32 drawn from 256 models, beside batches of 32 drawn from 16;
- `heads`: one text for 20 models that differ in their heads, beside the same text for one of them;
- `memory`: a process with 20 models, beside a process with one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import record
import torch
from clock import Clock, Spent, compared
from embed import BASE
from peft import LoraConfig, get_peft_model
from safetensors.torch import save
from trained import SHARED

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.delta import delta_tensors
from regraft.bases.locate import locate, processor_files
from regraft.contracts import Method, Task
from regraft.serving.engine.base_weights import move_model
from regraft.serving.engine.engine import Engine, RowRequest
from regraft.store.objects import open_store
from regraft.store.registry import Registry

GOALS = {"switching": 2.0, "bare": 0.75, "many": 0.75, "heads": 1.5, "memory": 1.2}
"""Lower limits of the ratio of requests per second; upper limits of time (`heads`) and bytes (`memory`)."""
LABELS = ("negative", "positive")
LORA = {"type": "lora", "rank": 8, "alpha": 16}
TASK = {"type": "text-classification", "max_length": 128}
TOLERANCE = 1e-5
Turn = Callable[[], Any]


def main() -> int:
    """Measure, print and write; return 1 if a goal is missed."""
    options = arguments()
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REGRAFT_CACHE"] = str(Path(folder) / "cache")
        store = options.store or str(Path(folder) / "store")
        if options.resident:
            print(json.dumps({"rss": resident(store, options.resident, options.base)}))
            return 0
        lora = published(store, options.base, "lora", LORA, max(options.many, options.models))
        heads = published(store, options.base, "head", "feature-extraction", options.heads)
        engine = Engine(store, device="cpu", precision=options.precision)
        for name in (*lora, *heads):
            engine.open(name, "v1")
        found = {
            "switching": switching(engine, lora[: options.models], options),
            "bare": bare(engine, lora[: options.models], options),
            "many": many(engine, lora, options),
            "heads": same_text(engine, heads, options),
            "memory": memory(store, lora, options),
        }
    reached = {name: judged(name, figures["value"]) for name, figures in found.items()}
    for name, figures in found.items():
        print(f"{name}: {figures['value']:.3f} (goal {GOALS[name]}): {'reached' if reached[name] else 'MISSED'}")
    sizes = {name: value for name, value in vars(options).items() if name not in ("results", "store", "resident")}
    name = "engine" if options.precision == "fp32" else f"engine-{options.precision}"
    record.write(name, {"goals": GOALS, "sizes": sizes, **found, "reached": reached}, options.results)
    return 0 if all(reached.values()) else 1


def judged(name: str, value: float) -> bool:
    """Return whether a ratio meets its goal."""
    return value <= GOALS[name] if name in ("heads", "memory") else value >= GOALS[name]


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--models", type=int, default=32, help="adapters, and rows of a batch (default: 32)")
    parser.add_argument("--many", type=int, default=256, help="adapters of the large pool (default: 256)")
    parser.add_argument("--few", type=int, default=16, help="adapters of the small pool (default: 16)")
    parser.add_argument("--heads", type=int, default=20, help="models that differ in their heads (default: 20)")
    parser.add_argument("--words", type=int, default=24, help="words of a text, about (default: 24)")
    parser.add_argument("--batches", type=int, default=4, help="batches of a turn (default: 4)")
    parser.add_argument("--pairs", type=int, default=7, help="turns of each side (default: 7)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), default="fp32")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the JSON files")
    parser.add_argument("--store", help=argparse.SUPPRESS)
    parser.add_argument("--resident", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def published(store: str, base: str, stem: str, method: Any, count: int) -> list[str]:
    """Publish `count` models with random deltas; return their names."""
    registry, found = Registry(open_store(store)), locate(base)
    task, how = Task.parse(TASK), Method.parse(method)
    assert isinstance(task, Task) and isinstance(how, Method)
    adapted = adapt(found, Adaptation(task=task, method=how, labels=LABELS, seed=0))
    files = {f"processor/{path.name}": path for path in processor_files(found)}
    names = []
    for number in range(count):
        draw = torch.Generator().manual_seed(number)
        delta = {
            name: 0.05 * torch.randn(tensor.shape, generator=draw) for name, tensor in delta_tensors(adapted).items()
        }
        meta = {
            "task": task.model_dump(mode="json"),
            "method": how.model_dump(mode="json"),
            "labels": list(LABELS),
            "base": {"reference": base, "hash": found.hash},
            "seed": 0,
        }
        names.append(f"{stem}-{number}")
        registry.publish(names[-1], {"delta.safetensors": save(delta), **files}, meta)
    return names


def texts(count: int, words: int) -> list[str]:
    """Return texts of about so many words, from half to one and a half times the number."""
    lines = (SHARED / "data" / "sst2" / "train.tsv").read_text(encoding="utf-8").splitlines()
    corpus = " ".join(line.partition("\t")[0] for line in lines).split()
    draw, made = random.Random(0), []
    for _ in range(count):
        length = draw.randint(words // 2, words + words // 2)
        start = draw.randrange(len(corpus) - length)
        made.append(" ".join(corpus[start : start + length]))
    return made


def answers_of(engine: Engine, names: Sequence[str], inputs: Sequence[str]) -> list[Any]:
    """Return the engine's answers, from text to label."""
    return engine.answer([engine.encode(RowRequest(n, "v1", {"text": t})) for n, t in zip(names, inputs, strict=True)])


def in_turns(ours: Turn, theirs: Turn, pairs: int) -> dict[str, Any]:
    """Time both sides in pairs, with alternating order."""
    turns: dict[str, list[Spent]] = {"ours": [], "theirs": []}
    for side in (ours, theirs):
        side()
    for number in range(pairs):
        both = (("ours", ours), ("theirs", theirs))
        for name, side in both[:: 1 if number % 2 else -1]:
            clock = Clock()
            side()
            turns[name].append(clock.read())
    return compared(turns["ours"], turns["theirs"])


def batches(names: Sequence[str], options: argparse.Namespace) -> list[tuple[list[str], list[str]]]:
    """Return batches of as many rows as `--models`, each row for a model drawn from all."""
    draw, rows = random.Random(1), options.models
    inputs = texts(rows * options.batches, options.words)
    found = []
    for start in range(0, len(inputs), rows):
        pool = list(names) * (rows // len(names) + 1)
        chosen = draw.sample(list(names), rows) if len(names) >= rows else pool[:rows]
        found.append((chosen, inputs[start : start + rows]))
    return found


def answered(engine: Engine, work: Sequence[tuple[list[str], list[str]]]) -> Turn:
    """Run one turn of the engine."""
    return lambda: [answers_of(engine, names, inputs) for names, inputs in work]


def rate(figures: dict[str, Any]) -> dict[str, Any]:
    """Return the comparison with the ratio of requests per second."""
    return {**figures, "value": round(1 / figures["wall"]["ratio"], 3)}


class Switching:
    """One PEFT model with all adapters, used as usual: group rows by model, switch, compute."""

    def __init__(self, engine: Engine, names: Sequence[str]) -> None:
        loaded = engine.open(names[0], "v1").loaded
        self.task, self.context = loaded.task, loaded.context
        plain = Method.parse("full")
        assert isinstance(plain, Method)
        adapted = adapt(loaded.frame.adapted.base, Adaptation(task=self.task, method=plain, labels=LABELS, seed=0))
        targets = [f"{adapted.anatomy.prefix}.{name}" for name in loaded.factors or ()]
        settings = {"r": LORA["rank"], "lora_alpha": LORA["alpha"], "modules_to_save": ["classifier"]}
        self.model: Any = None
        for name in names:
            config = LoraConfig(target_modules=targets, **settings)
            if self.model is None:
                self.model = get_peft_model(adapted.model, config, adapter_name=name)
            else:
                self.model.add_adapter(name, config)
            self._fill(name, dict(engine.open(name, "v1").loaded.delta), adapted.anatomy.prefix)
        self.model.eval()

    def _fill(self, name: str, delta: dict[str, torch.Tensor], prefix: str) -> None:
        state = dict(self.model.named_parameters())
        with torch.no_grad():
            for key, tensor in delta.items():
                bare, leaf = key.rpartition(".")[0], key.rpartition(".")[2]
                inside = f"{prefix}.{bare}.{name}" if "lora_" in bare else f"{bare}.modules_to_save.{name}"
                state[f"base_model.model.{inside}.{leaf}"].copy_(tensor)

    def __call__(self, names: Sequence[str], inputs: Sequence[str]) -> list[Any]:
        groups: dict[str, list[int]] = defaultdict(list)
        for place, name in enumerate(names):
            groups[name].append(place)
        found: list[Any] = [None] * len(names)
        for name, places in groups.items():
            self.model.set_adapter(name)
            rows = [{"text": inputs[place], "row": 0} for place in places]
            examples = [self.task.encode(row, self.context, train=False) for row in rows]
            batch = self.task.collate(examples, self.context)
            with torch.inference_mode():
                output = self.model(**batch)
            for place, answer in zip(places, self.task.answers(output, batch, self.context), strict=True):
                found[place] = answer
        return found


def switching(engine: Engine, names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Compare with PEFT and a switch for each model."""
    other, work = Switching(engine, names), batches(names, options)
    apart = farthest(answers_of(engine, *work[0]), other(*work[0]))
    assert options.precision != "fp32" or apart <= TOLERANCE, f"the answers are {apart} apart"
    figures = in_turns(answered(engine, work), lambda: [other(*part) for part in work], options.pairs)
    return {**rate(figures), "apart": apart, "distinct_models": len(names)}


def farthest(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Return the largest difference of a probability."""
    assert [one["label"] for one in ours] == [one["label"] for one in theirs]
    return max(abs(one["score"] - two["score"]) for one, two in zip(ours, theirs, strict=True))


def bare(engine: Engine, names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Compare with the base with one head for all."""
    served = engine.open(names[0], "v1")
    plain = Method.parse("feature-extraction")
    assert isinstance(plain, Method)
    adapted = adapt(served.loaded.frame.adapted.base, Adaptation(task=served.task, method=plain, labels=LABELS, seed=0))
    weights, work = served.loaded.frame.weights, batches(names, options)
    move_model(adapted.model, weights.device, weights.dtype)

    def theirs() -> None:
        with weights.inference_context():
            for _, inputs in work:
                one_model(adapted, inputs)

    figures = in_turns(answered(engine, work), theirs, options.pairs)
    return {**rate(figures), "distinct_models": len(names)}


def one_model(adapted: Adapted, inputs: Sequence[str]) -> list[Any]:
    """Return answers for all rows by one model."""
    task, context = adapted.task, adapted.context
    batch = task.collate([task.encode({"text": text, "row": 0}, context, train=False) for text in inputs], context)
    return task.answers(adapted.forward(batch), batch, context)


def many(engine: Engine, names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Compare a large pool with a small one."""
    large, small = batches(names[: options.many], options), batches(names[: options.few], options)
    return {**rate(in_turns(answered(engine, large), answered(engine, small), options.pairs)), "of": options.many}


def same_text(engine: Engine, names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Compare one text for many heads with one text for one; only the engine, from encoded rows to answers."""
    [text] = texts(1, options.words)
    rows = [engine.encode(RowRequest(name, "v1", {"text": text})) for name in names]
    alone = [engine.answer([row])[0] for row in rows]
    apart = farthest(engine.answer(rows), alone)
    assert options.precision != "fp32" or apart <= TOLERANCE, f"the answers are {apart} apart"
    times = 5 * options.batches
    figures = in_turns(
        lambda: [engine.answer(rows) for _ in range(times)],
        lambda: [engine.answer(rows[:1]) for _ in range(times)],
        options.pairs,
    )
    return {**figures, "value": figures["wall"]["ratio"], "apart": apart, "models": len(names)}


def memory(store: str, names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Compare the memory of two processes, each with its models open and used."""
    bytes_of = {}
    for label, some in (("many", names[: options.heads]), ("one", names[:1])):
        command = [sys.executable, __file__, "--base", options.base, "--store", store, "--resident", *some]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        bytes_of[label] = int(json.loads(done.stdout.strip().splitlines()[-1])["rss"])
    return {"rss_bytes": bytes_of, "value": round(bytes_of["many"] / bytes_of["one"], 3), "models": options.heads}


def resident(store: str, names: Sequence[str], base: str) -> int:
    """Return the bytes of this process with the models open."""
    engine = Engine(store, device="cpu")
    answers_of(engine, names, ["a film that was good and long"] * len(names))
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    sys.exit(main())
