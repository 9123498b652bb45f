"""One-shot characters: encoders trained on background alphabets, the 20 official runs of Omniglot (Lake et al., 2015).

python tests/benchmarks/omniglot.py develop --work FOLDER
python tests/benchmarks/omniglot.py encoder --seed 0 --work FOLDER
python tests/benchmarks/omniglot.py official --work FOLDER

`develop` leaves three background alphabets out and measures episodes within them: settings are chosen there. `official`
trains three encoders on all background characters and reads the official runs once; `encoder` trains one of them ahead,
so that they can train beside one another. Characters that both background
archives hold count once (242); each turned by 90, 180 and 270 degrees is a class of its own. A work folder holds what
is trained: the same command goes on from there. Data are read from `$REGRAFT_SHARED` (default: `../shared`).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from trained import SHARED, show

from regraft.bases.derived_base import find_base
from regraft.errors import DataError
from regraft.evaluation.episodes import evaluate_episodes, nearest_mean
from regraft.evaluation.options import EpisodeOptions, EvaluationOptions
from regraft.serving.encoder import Encoder
from regraft.serving.predictor import Predictor
from regraft.spec.document import parse_set
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.training.session import train_local

DATA = SHARED / "data" / "omniglot"
SPEC = record.HERE / "specs" / "omniglot.yaml"
ARCHIVES = ("images_background_small1.zip", "images_background_small2.zip")
LEFT_OUT = ("Balinese", "Early_Aramaic", "Greek")
SEEDS = (0, 1, 2)
PIXELS = 28
GOAL = 0.15
COSINE = False
"""Whether rows are compared by direction; chosen on the alphabets left out."""
Features = NDArray[np.float64]
Picture = Callable[[Sequence[Path]], Features]


def background() -> dict[tuple[str, str, str], bytes]:
    """Return the drawings of both archives by alphabet, character and file: one that both hold is there once."""
    found: dict[tuple[str, str, str], bytes] = {}
    for name in ARCHIVES:
        with zipfile.ZipFile(DATA / name) as archive:
            for entry in sorted(archive.namelist()):
                if entry.endswith(".png"):
                    _, alphabet, character, file = entry.split("/")
                    found[alphabet.replace("(", "").replace(")", ""), character, file] = archive.read(entry)
    return found


def small(drawing: bytes) -> Image.Image:
    """Return a drawing in the size that encoders read."""
    image = Image.open(io.BytesIO(drawing)).convert("L")
    return image.resize((PIXELS, PIXELS), Image.Resampling.BOX)


def write_background(folder: Path, left_out: Sequence[str]) -> None:
    """Write `train/CLASS` with four turned classes a character, and `ALPHABET/CHARACTER` of those left out."""
    if (folder / "done").exists():
        return
    for (alphabet, character, file), drawing in background().items():
        image = small(drawing)
        places = {0: folder / alphabet / character}
        if alphabet not in left_out:
            places = {turn: folder / "train" / f"{alphabet}.{character}.{turn}" for turn in (0, 90, 180, 270)}
        for turn, place in places.items():
            place.mkdir(parents=True, exist_ok=True)
            image.rotate(turn).save(place / file)
    (folder / "done").touch()


def write_base(folder: Path) -> None:
    """Write the configuration of the encoder: a small ResNet of three stages, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    written = yaml.safe_load(SPEC.read_text(encoding="utf-8"))["x-encoder"]
    for name in ("config", "preprocessor_config"):
        (folder / f"{name}.json").write_text(json.dumps(written[name]), encoding="utf-8")


def spec_of(work: Path, data: Path, seed: int, overrides: Mapping[str, object]) -> RunSpec:
    """Return the spec of one encoder."""
    written = yaml.safe_load(SPEC.read_text(encoding="utf-8"))
    del written["x-encoder"]
    written |= {"name": f"{data.name}-{seed}", "base": str(work / "base"), "store": str(work / "store")}
    written["data"]["train"] = str(data / "train")
    written["training"]["seed"] = seed
    return RunSpec.resolve(written, overrides=overrides)


def encoder(work: Path, seed: int, overrides: Mapping[str, object]) -> dict[str, Any]:
    """Train one encoder on all background characters; return its model and the seconds."""
    data = work / "whole"
    write_background(data, ())
    outcome = train_local(spec_of(work, data, seed, overrides), progress=show)
    return {"model": f"{outcome.model}@{outcome.version}", "seconds": round(outcome.seconds, 1)}


def develop(work: Path, overrides: Mapping[str, object]) -> dict[str, Any]:
    """Train one encoder without the alphabets left out; return accuracy within each of them, by both comparisons."""
    data = work / "develop"
    write_background(data, LEFT_OUT)
    spec = spec_of(work, data, SEEDS[0], overrides)
    outcome = train_local(spec, progress=show)
    found: dict[str, Any] = {}
    for comparison in ("distance", "direction"):
        drawn = EpisodeOptions(episodes=100, way=20, query=1, cosine=comparison == "direction")
        for alphabet in LEFT_OUT:
            options = EvaluationOptions(output=work / f"{alphabet}-{comparison}", episodes=drawn)
            result = evaluate_episodes(open_store(spec.store), outcome.model, str(data / alphabet), options=options)
            error = 1 - result.document["metrics"]["accuracy"]
            found.setdefault(comparison, {})[alphabet] = round(error, 4)
        found[comparison]["mean"] = round(float(np.mean(list(found[comparison].values()))), 4)
        print(comparison, found[comparison], flush=True)
    return {"error": found, "seconds": round(outcome.seconds, 1), "spec": spec.model_dump(mode="json", exclude=HIDDEN)}


HIDDEN = {"base": True, "store": True, "data": {"train"}}
"""Fields of a spec that hold paths of this machine."""


def write_runs(folder: Path) -> list[dict[str, Any]]:
    """Write the official runs; return of each the files of its classes, of its items, and each item's class."""
    with zipfile.ZipFile(DATA / "all_runs.zip") as archive:
        archive.extractall(folder)
    runs = []
    for run in sorted(folder.glob("run*")):
        pairs = [line.split() for line in (run / "class_labels.txt").read_text().splitlines() if line.strip()]
        classes = sorted({shown for _, shown in pairs})
        runs.append(
            {
                "classes": [folder / shown for shown in classes],
                "items": [folder / item for item, _ in pairs],
                "truth": np.array([classes.index(shown) for _, shown in pairs]),
            }
        )
    assert [len(run["items"]) for run in runs] == [20] * 20
    return runs


def errors(runs: Sequence[Mapping[str, Any]], features: Picture, *, cosine: bool) -> NDArray[np.float64]:
    """Return the error of each official run: every item goes to the class whose one picture is nearest."""
    found = []
    for run in runs:
        means, items = features(run["classes"]), features(run["items"])
        if cosine:
            means, items = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (means, items))
        found.append((nearest_mean(items, means, cosine=cosine) != run["truth"]).mean())
    return np.array(found)


def of_pixels(paths: Sequence[Path]) -> Features:
    """Return the pixels of drawings, 105 x 105 numbers each."""
    return np.stack([np.asarray(Image.open(path).convert("L"), np.float64).ravel() for path in paths])


def of_base(reference: Path, store: str) -> Picture:
    """Return the function that computes the features of an untouched base."""
    encoder = Encoder(find_base(open_store(store), str(reference)), device=torch.device("cpu"))

    def features(paths: Sequence[Path]) -> Features:
        rows = [{"row": number, "image": str(path)} for number, path in enumerate(paths)]
        return np.stack([np.asarray(one, np.float64) for one in encoder.vectors(rows)])

    return features


def of_model(name: str, store: str, folder: Path) -> Picture:
    """Return the function that computes the features of a registered encoder, in the size that it reads."""
    predictor = Predictor.open(store, name)

    def features(paths: Sequence[Path]) -> Features:
        rows = []
        for number, path in enumerate(paths):
            place = folder / path.parents[1].name / path.parent.name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            small(path.read_bytes()).save(place)
            rows.append({"row": number, "image": str(place)})
        vectors = predictor.features(rows)
        assert not any(isinstance(vector, DataError) for vector in vectors)
        return np.stack([vector.double().numpy() for vector in vectors if isinstance(vector, torch.Tensor)])

    return features


def official(work: Path, overrides: Mapping[str, object]) -> dict[str, Any]:
    """Train an encoder for each seed on all background characters; return the errors on the official runs."""
    data = work / "whole"
    write_background(data, ())
    specs = [spec_of(work, data, seed, overrides) for seed in SEEDS]
    outcomes = [train_local(spec, progress=show) for spec in specs]
    runs, store = write_runs(work / "runs"), specs[0].store
    found = {
        seed: errors(runs, of_model(outcome.model, store, work / "small"), cosine=COSINE)
        for seed, outcome in zip(SEEDS, outcomes, strict=True)
    }
    base = SHARED / "models" / "tf2_mobilenet_v2_1.0_224"
    controls = {
        "pixels": errors(runs, of_pixels, cosine=False),
        "MobileNetV2, untouched": errors(runs, of_base(base, store), cosine=True),
    }
    means = [float(each.mean()) for each in found.values()]
    return {
        "goal": {"mean error of three encoders": GOAL},
        "reached": float(np.mean(means)) <= GOAL,
        "error": round(float(np.mean(means)), 4),
        "deviation over encoders": round(float(np.std(means, ddof=1)), 4),
        "encoders": {str(seed): _figures(each) for seed, each in found.items()},
        "controls": {name: _figures(each) for name, each in controls.items()},
        "compared by": "direction" if COSINE else "distance",
        "seconds of training": [round(outcome.seconds, 1) for outcome in outcomes],
        "spec": specs[0].model_dump(mode="json", exclude=HIDDEN),
    }


def _figures(each: NDArray[np.float64]) -> dict[str, Any]:
    """Return the mean error over runs, with its 95 % interval over runs, and the error of each run."""
    half = 1.96 * float(each.std(ddof=1)) / len(each) ** 0.5
    mean = float(each.mean())
    return {
        "error": round(mean, 4),
        "interval": [round(mean - half, 4), round(mean + half, 4)],
        "runs": [round(float(one), 4) for one in each],
    }


def main() -> int:
    """Run one part of the benchmark; return 1 if it misses its goal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=("develop", "encoder", "official"))
    parser.add_argument("--seed", type=int, choices=SEEDS, default=SEEDS[0], help="of `encoder`")
    parser.add_argument("--work", type=Path, required=True, help="folder of data, encoders and the store")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a field of the spec")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the JSON files")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    work = options.work.resolve()
    write_base(work / "base")
    overrides = parse_set(options.set)
    if options.part == "encoder":
        print(encoder(work, options.seed, overrides))
        return 0
    figures = (develop if options.part == "develop" else official)(work, overrides)
    record.write(f"omniglot-{options.part}", figures, options.results)
    print(json.dumps({name: value for name, value in figures.items() if name != "spec"}, indent=1))
    return 0 if figures.get("reached", True) else 1


if __name__ == "__main__":
    sys.exit(main())
