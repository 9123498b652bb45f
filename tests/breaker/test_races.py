"""Pictures that change between any two reads: the result is that of what was hashed, or the file is named.

An audit hook stands at the real door: Python calls it before every open of a file. At a seeded moment the pictures
become others of the same name, size and time, replaced or rewritten in place, and some come back later.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import regraft
from regraft.columns.files import content
from regraft.contracts import columns_of
from regraft.data.snapshot import open_snapshot
from regraft.errors import RegraftError
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.training.session import train_local
from support.image_bases import tiny_resnet

PICTURES = 10
"""Of both sides together; three of them are for evaluation."""
EVALUATED = 3
Values = dict[bytes, np.ndarray]


@cache
def picture(number: int, swapped: bool) -> bytes:
    """Return a BMP; all of them have the same size, and a picture's other content the other colour."""
    pixels = np.random.default_rng(number + 100 * swapped).integers(0, 110, (36, 40, 3), dtype=np.uint8)
    pixels[..., (number + swapped) % 2 * 2] += 120
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    return file.getvalue()


@dataclass
class Door:
    """Counts the opens of pictures in a folder, and swaps contents before chosen ones."""

    folder: Path
    moments: dict[int, Callable[[], None]] = field(default_factory=dict)
    opens: int = 0
    busy: bool = False

    def seen(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or self.busy or not str(arguments[0]).startswith(f"{self.folder}/"):
            return
        if not str(arguments[0]).endswith(".bmp"):
            return
        self.opens += 1
        if swap := self.moments.get(self.opens):
            self.busy = True
            swap()
            self.busy = False


_watching: list[Door] = []
sys.addaudithook(lambda event, arguments: _watching[0].seen(event, arguments) if _watching else None)


@dataclass(frozen=True)
class Pictures:
    """The rows of a folder, whose pictures have one of two contents each."""

    folder: Path

    def path(self, number: int) -> Path:
        return self.folder / f"{number:02d}.bmp"

    def write(self, swapped: set[int]) -> None:
        """Lay the folder out anew, long ago."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        numbers = range(PICTURES)
        for side, chosen in (("train", numbers[:-EVALUATED]), ("eval", numbers[-EVALUATED:]), ("ask", numbers)):
            with (self.folder / f"{side}.csv").open("w", newline="") as file:
                rows = [(self.path(number).name, "red" if number % 2 else "blue") for number in chosen]
                csv.writer(file).writerows([("image", "label"), *rows])
        for number in numbers:
            self.path(number).write_bytes(picture(number, number in swapped))
            os.utime(self.path(number), (1e9, 1e9))

    def swap(self, numbers: set[int], swapped: bool, in_place: bool) -> None:
        """Give pictures the other content, or the first again, with the same name, size and time."""
        for number in sorted(numbers):
            path, data = self.path(number), picture(number, swapped)
            if in_place:
                with path.open("r+b") as file:
                    file.write(data)
            else:
                path.with_suffix(".new").write_bytes(data)
                os.replace(path.with_suffix(".new"), path)
            os.utime(path, (1e9, 1e9))


@dataclass
class World:
    """One folder of pictures with its base, and what a run makes of each content without a race."""

    root: Path
    pictures: Pictures
    clean: dict[frozenset[int], str] = field(default_factory=dict)
    values: Values = field(default_factory=dict)
    """By row's key, the frozen part's outputs of runs without a race."""

    def spec(self, store: Path, trunk: str = "disk") -> RunSpec:
        folder = self.pictures.folder
        return RunSpec.resolve(
            {
                "name": "raced",
                "base": str(self.root / "base"),
                "task": "image-classification",
                "method": "feature-extraction",
                "data": {"train": str(folder / "train.csv"), "eval": str(folder / "eval.csv")},
                "training": {"epochs": 2, "batch_size": 4, "lr": 0.05, "baselines": False, "optimizer": "sgd"},
                "compute": {"workers": 0, "cpus": 1, "trunk": trunk},
                "store": str(store),
            }
        )

    def without_a_race(self, swapped: frozenset[int]) -> str:
        """Return the hash of the delta that these contents give."""
        if swapped not in self.clean:
            self.pictures.write(set(swapped))
            store = self.root / f"clean-{len(self.clean)}"
            train_local(self.spec(store))
            self.clean[swapped] = delta(store)
            self.values |= stored(store)
        return self.clean[swapped]


def delta(store: Path) -> str:
    return str(Registry(open_store(str(store))).version("raced", "latest").meta["delta_sha256"])


def stored(store: Path) -> Values:
    """Return everything that the store keeps of the frozen part, by row."""
    found: Values = {}
    for path in store.glob("features/*/*/features.arrow"):
        table = pa.ipc.open_file(str(path)).read_all()
        for row, values in zip(table["row"].to_pylist(), table["values"].to_pylist(), strict=True):
            found[row] = np.frombuffer(values, np.float32)
    return found


def hashed(store: Path, run: str, pictures: Pictures) -> frozenset[int]:
    """Return the pictures whose other content a run's rows refer to."""
    opened = open_store(str(store))
    snapshot = open_snapshot(opened, str((Runs(opened).find(run) or {})["data"]))
    known = {str(pictures.path(n)): hashlib.sha256(picture(n, True)).hexdigest() for n in range(PICTURES)}
    files = [rows.stored(index)["image"] for rows in (snapshot.train, snapshot.eval) for index in range(len(rows))]
    other = {str(file) for file in files if file.sha256 == known[str(file)]}
    return frozenset(n for n in range(PICTURES) if str(pictures.path(n)) in other)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("races")
    made = World(root, Pictures(root / "pictures"))
    tiny_resnet(root / "base")
    for swapped in (frozenset[int](), frozenset(range(PICTURES))):
        made.without_a_race(swapped)
    return made


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of this test's own, which trust times at once."""
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "SETTLED_S", -1.0)


@pytest.fixture
def door(world: World) -> Iterator[Door]:
    _watching[:] = [Door(world.pictures.folder)]
    yield _watching[0]
    _watching.clear()


def planned(world: World, door: Door, draw: random.Random, opens: int, chosen: set[int] | None = None) -> str:
    """Choose moments, pictures and ways; return them in words."""
    first = draw.randint(1, opens)
    chosen = chosen or (set(range(PICTURES)) if draw.random() < 0.5 else {draw.randrange(PICTURES)})
    in_place, back = draw.random() < 0.5, draw.random() < 0.5
    door.moments = {first: lambda: world.pictures.swap(chosen, True, in_place)}
    if back:
        door.moments[first + draw.randint(1, opens)] = lambda: world.pictures.swap(chosen, False, in_place)
    return f"{sorted(chosen)} at open {first} of {opens}, in place {in_place}, later opens {sorted(door.moments)[1:]}"


def raced(door: Door, command: Callable[[], Any]) -> Any:
    """Run a command through its race; return its result, or None where it ended with a picture's name."""
    door.opens = 0
    try:
        return command()
    except RegraftError as error:
        assert ".bmp" in str(error), str(error)
        return None
    finally:
        door.moments = {}


def train_races(world: World, door: Door, folder: Path, seed: int) -> bool:
    """Race one training; return whether it named the picture."""
    draw = random.Random(seed)
    world.pictures.write(set())
    trunk = draw.choice(("disk", "disk", "off"))
    if draw.random() < 0.5:
        remembered(world)
    how, store = planned(world, door, draw, 45), folder / f"store-{seed}"
    spec = world.spec(store, trunk)
    result = raced(door, lambda: train_local(spec))
    for row, values in stored(store).items():
        np.testing.assert_allclose(values, world.values[row], rtol=0, atol=1e-4, err_msg=f"poisoned: {how}")
    if result is not None:
        swapped = hashed(store, result.run, world.pictures)
        assert delta(store) == world.without_a_race(swapped), f"a mixture: {how}"
    return result is None


def remembered(world: World) -> None:
    """Have the content cache know the pictures, as a second command finds them."""
    column = columns_of({"image": "image"})["image"]
    for number in range(PICTURES):
        column.read_cell(str(world.pictures.path(number)), "")


def test_a_training_among_changing_pictures_is_of_what_was_hashed(world: World, door: Door, tmp_path: Path) -> None:
    named = [train_races(world, door, tmp_path, seed) for seed in range(12)]
    assert any(named) and not all(named), "the moments reach before and after the hashing"


@pytest.mark.slow
def test_two_hundred_more_trainings(world: World, door: Door, tmp_path: Path) -> None:
    for seed in range(100, 300):
        train_races(world, door, tmp_path, seed)
        shutil.rmtree(tmp_path / f"store-{seed}", ignore_errors=True)


@pytest.fixture(scope="module")
def model(world: World) -> str:
    """The store of a version that answers."""
    world.without_a_race(frozenset())
    return str(world.root / "clean-0")


def answers(world: World, model: str, output: Path) -> list[float]:
    folder = world.pictures.folder
    regraft.predict("raced@v1", folder / "ask.csv", output, store=model, workers=0, fresh=True)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    scores = [{one["label"]: one["score"] for one in line["answer"]["scores"]} for line in lines]
    return [float(each["red"]) for each in scores]


def predict_races(world: World, model: str, door: Door, folder: Path, seeds: range) -> None:
    sides = []
    for swapped in (set[int](), set(range(PICTURES))):
        world.pictures.write(swapped)
        sides.append(answers(world, model, folder / "clean.jsonl"))
    for seed in seeds:
        draw = random.Random(seed)
        world.pictures.write(set())
        if draw.random() < 0.5:
            remembered(world)
        how = planned(world, door, draw, 25)
        found = raced(door, partial(answers, world, model, folder / f"raced-{seed}.jsonl"))
        for number, score in enumerate(found or []):
            right = [side[number] for side in sides]
            assert min(abs(score - one) for one in right) < 1e-5, f"row {number} is of neither content: {how}"


def test_answers_among_changing_pictures_are_of_one_content(
    world: World, model: str, door: Door, tmp_path: Path
) -> None:
    predict_races(world, model, door, tmp_path, range(6))


@pytest.mark.slow
def test_fifty_more_predictions(world: World, model: str, door: Door, tmp_path: Path) -> None:
    predict_races(world, model, door, tmp_path, range(100, 150))


def evaluated(world: World, model: str, output: Path) -> list[float]:
    """Return the rows' scores and the metrics, as evaluation.json has them."""
    folder = world.pictures.folder
    result = regraft.evaluate("raced@v1", folder / "ask.csv", output, store=model, resamples=10)
    return sorted(numbers(result.document["metrics"]))


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []


def evaluate_races(world: World, model: str, door: Door, folder: Path, seeds: range) -> None:
    for seed in seeds:
        draw = random.Random(seed)
        number = draw.randrange(PICTURES)
        right = []
        for swapped in (set[int](), {number}):
            world.pictures.write(swapped)
            right.append(evaluated(world, model, folder / f"clean-{seed}-{len(swapped)}"))
        assert right[0] != right[1], "the other content counts"
        world.pictures.write(set())
        how = planned(world, door, draw, 25, {number})
        found = raced(door, partial(evaluated, world, model, folder / f"raced-{seed}"))
        assert found is None or any(found == pytest.approx(one, abs=1e-6) for one in right), how


def test_an_evaluation_among_changing_pictures_is_of_one_content(
    world: World, model: str, door: Door, tmp_path: Path
) -> None:
    evaluate_races(world, model, door, tmp_path, range(2))


@pytest.mark.slow
def test_fifty_more_evaluations(world: World, model: str, door: Door, tmp_path: Path) -> None:
    evaluate_races(world, model, door, tmp_path, range(100, 150))
