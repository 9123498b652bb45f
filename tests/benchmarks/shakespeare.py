"""A small language model on Shakespeare: perplexity of both methods, of random weights, and before training.

python tests/benchmarks/shakespeare.py full lora random

Training uses the first nine tenths of the plays; perplexity is that of the last, per token of the base's tokenizer.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import record
import torch
from trained import SHARED, arguments, show
from transformers import AutoConfig, AutoModelForCausalLM

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.locate import locate, processor_files
from regraft.data.snapshot import open_snapshot
from regraft.methods.full import Full
from regraft.spec.document import parse_set
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.training.evaluate import evaluate
from regraft.training.harness import LocalHarness
from regraft.training.registration import Outcome
from regraft.training.session import train_local


@dataclass(frozen=True)
class Kind:
    """A spec and its largest allowed perplexity; None for a spec that is only a comparison."""

    spec: str
    most: float | None
    random: bool = False
    """Whether the base gets random weights."""


KINDS = {
    "full": Kind("shakespeare-full", 16.0),
    "lora": Kind("shakespeare-lora", 19.0),
    "random": Kind("shakespeare-full", None, random=True),
}


def main() -> int:
    """Train each requested kind; return 1 if one misses its goal."""
    options = arguments(__doc__, list(KINDS))
    return 0 if all([measure(name, options) for name in options.names]) else 1


def measure(name: str, options: argparse.Namespace) -> bool:
    """Train one kind in a folder of its own and record the result; return whether the goal is reached."""
    kind = KINDS[name]
    with tempfile.TemporaryDirectory(prefix="regraft-shakespeare-") as scratch:
        spec = resolved(kind, parse_set(options.set), Path(scratch))
        outcome = train_local(spec, progress=show)
        before = untrained(spec, outcome)
    reached = kind.most is None or outcome.metrics["perplexity"] <= kind.most
    figures = {
        "goal": {"perplexity": kind.most},
        "reached": reached,
        "metrics": outcome.metrics,
        "before": before,
        "seconds": round(outcome.seconds, 1),
        "delta_bytes": outcome.delta_bytes,
        "base_bytes": outcome.base_bytes,
        "task": spec.task.model_dump(mode="json"),
        "method": spec.method.model_dump(mode="json"),
        "training": spec.training.model_dump(mode="json"),
    }
    record.write(f"shakespeare-{name}", figures, options.results)
    print(
        f"{name}: perplexity {outcome.metrics['perplexity']:.2f}, before {before['perplexity']:.1f}, goal {kind.most}"
    )
    return reached


def resolved(kind: Kind, overrides: Mapping[str, object], scratch: Path) -> RunSpec:
    """Return the spec with the plays split in two, and with the shared base or one of random weights."""
    plays, base = SHARED / "data" / "tinyshakespeare" / "input.txt", SHARED / "models" / "tinyllama_stories260K"
    if not (plays.is_file() and base.is_dir()):
        raise SystemExit(f"no plays in {plays} or no base in {base}: set REGRAFT_SHARED to the folder that holds both")
    text = plays.read_text(encoding="utf-8")
    cut = text.index("\n\n", len(text) * 9 // 10)
    (scratch / "train.txt").write_text(text[:cut], encoding="utf-8")
    (scratch / "eval.txt").write_text(text[cut:].lstrip("\n"), encoding="utf-8")
    places = {
        "base": str(drawn(base, scratch / "base") if kind.random else base),
        "data.train": str(scratch / "train.txt"),
        "data.eval": str(scratch / "eval.txt"),
        "store": str(scratch / "store"),
    }
    return RunSpec.load(record.HERE / "specs" / f"{kind.spec}.yaml", overrides={**places, **overrides})


def drawn(base: Path, into: Path) -> Path:
    """Save the base's architecture and tokenizer with initial weights."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base)).save_pretrained(into)
    for path in processor_files(locate(str(base))):
        shutil.copyfile(path, into / path.name)
    return into


def untrained(spec: RunSpec, outcome: Outcome) -> dict[str, float]:
    """Return the metrics of the base on the same blocks."""
    store = open_store(outcome.store)
    snapshot = open_snapshot(store, (Runs(store).find(outcome.run) or {})["data"])
    adapted = adapt(locate(spec.base), Adaptation(task=spec.task, method=Full(), labels=(), seed=0))
    return evaluate(adapted, snapshot.eval, LocalHarness(), size=32, autocast=nullcontext())[0]


if __name__ == "__main__":
    sys.exit(main())
