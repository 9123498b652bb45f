"""Objects in S3 that change between any two reads: the result is that of what was hashed, or the object is named."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

import regraft
from breaker.test_races import EVALUATED, PICTURES, World, delta, picture
from breaker.test_races import caches as caches
from breaker.test_races import world as world
from regraft.columns.files import remote
from regraft.contracts import Event, Stepped
from regraft.data.snapshot import open_snapshot
from regraft.errors import RegraftError
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.store.s3 import S3Store
from regraft.training.session import train_local
from unit.store.conftest import BUCKET
from unit.store.conftest import moto_endpoint as moto_endpoint
from unit.store.conftest import moto_url as moto_url


class Swapping(S3Store):
    """A bucket in which pictures get their other content before chosen reads."""

    prefix = ""
    moments: dict[int, set[int]]
    reads = 0

    def swap(self, numbers: set[int]) -> None:
        for number in numbers:
            super().put(f"{self.prefix}/{number:02d}.bmp", picture(number, True))

    def _door(self) -> None:
        self.reads += 1
        self.swap(self.moments.get(self.reads, set()))

    def get(self, key: str) -> bytes:
        self._door()
        return super().get(key)

    def read(self, key: str, most: int | None = None) -> tuple[bytes, str]:
        self._door()
        return super().read(key, most)

    def tag(self, key: str) -> str:
        self._door()
        return super().tag(key)


@pytest.fixture
def bucket(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Swapping:
    """The pictures in S3, with their first content."""
    made = Swapping(BUCKET, "")
    made.prefix, made.moments = moto_url.removeprefix(f"s3://{BUCKET}/"), {}
    remote.beginning.cache_clear()
    monkeypatch.setattr(remote, "_bucket", lambda name: made)
    return made


def laid_out(bucket: Swapping) -> None:
    bucket.moments, bucket.reads = {}, 0
    for number in range(PICTURES):
        bucket.put(f"{bucket.prefix}/{number:02d}.bmp", picture(number, False))


def spec_of(world: World, bucket: Swapping, folder: Path, trunk: str) -> RunSpec:
    numbers = range(PICTURES)
    for side, chosen in (("train", numbers[:-EVALUATED]), ("eval", numbers[-EVALUATED:]), ("ask", numbers)):
        with (folder / f"{side}.csv").open("w", newline="") as file:
            urls = [(f"s3://{BUCKET}/{bucket.prefix}/{n:02d}.bmp", "red" if n % 2 else "blue") for n in chosen]
            csv.writer(file).writerows([("image", "label"), *urls])
    written = world.spec(folder / "store", trunk).model_dump(mode="json")
    return RunSpec.resolve(written | {"data": {side: str(folder / f"{side}.csv") for side in ("train", "eval")}})


def contents(store: Path, run: str) -> frozenset[int]:
    """Return the pictures whose other content a run's rows refer to."""
    opened = open_store(str(store))
    snapshot = open_snapshot(opened, str((Runs(opened).find(run) or {})["data"]))
    hashes = [rows.stored(n)["image"].sha256 for rows in (snapshot.train, snapshot.eval) for n in range(len(rows))]
    return frozenset(n for n in range(PICTURES) if hashlib.sha256(picture(n, True)).hexdigest() in hashes)


def races(world: World, bucket: Swapping, folder: Path, seeds: range) -> None:
    for seed in seeds:
        draw = random.Random(seed)
        laid_out(bucket)
        (folder / f"{seed}").mkdir()
        spec = spec_of(world, bucket, folder / f"{seed}", draw.choice(("disk", "off")))
        bucket.moments = {draw.randint(1, 60): set(range(PICTURES)) if seed % 2 else {draw.randrange(PICTURES)}}
        try:
            result = train_local(spec)
        except RegraftError as error:
            assert ".bmp" in str(error)
            continue
        assert delta(Path(spec.store)) == world.without_a_race(contents(Path(spec.store), result.run)), bucket.moments


def test_a_training_among_changing_objects_is_of_what_was_hashed(
    world: World, bucket: Swapping, tmp_path: Path
) -> None:
    races(world, bucket, tmp_path, range(2))


@pytest.mark.slow
def test_thirty_more_trainings_on_objects(world: World, bucket: Swapping, tmp_path: Path) -> None:
    races(world, bucket, tmp_path, range(100, 130))


def test_a_run_does_not_go_on_over_other_objects(world: World, bucket: Swapping, tmp_path: Path) -> None:
    laid_out(bucket)
    spec = spec_of(world, bucket, tmp_path, "off")
    swapped: list[bool] = []

    def replaced(event: Event) -> None:
        if isinstance(event, Stepped) and not swapped:
            swapped.append(True)
            bucket.swap(set(range(PICTURES)))

    with pytest.raises(RegraftError, match=rf"s3://{BUCKET}/\S+\.bmp holds other bytes"):
        train_local(spec, progress=replaced)
    again = train_local(spec)
    assert again.run == f"{spec.run}.2"
    assert delta(Path(spec.store)) == world.without_a_race(frozenset(range(PICTURES)))


def test_an_answer_is_never_of_another_object_than_was_hashed(world: World, bucket: Swapping, tmp_path: Path) -> None:
    world.without_a_race(frozenset())
    spec_of(world, bucket, tmp_path, "off")

    def answered(name: str) -> list[Any]:
        output = tmp_path / f"{name}.jsonl"
        regraft.predict("raced@v1", tmp_path / "ask.csv", output, store=world.root / "clean-0", workers=0)
        return [json.loads(line)["answer"] for line in output.read_text().splitlines()]

    laid_out(bucket)
    first = answered("first")
    reads, everything = bucket.reads, set(range(PICTURES))
    bucket.swap(everything)
    other = answered("other")
    for moment in (2, reads // 2, reads - 1):
        laid_out(bucket)
        bucket.moments = {moment: everything}
        try:
            found = answered(f"raced-{moment}")
        except RegraftError as error:
            assert ".bmp" in str(error)
            continue
        assert all(one in pair for one, pair in zip(found, zip(first, other, strict=True), strict=True)), moment
