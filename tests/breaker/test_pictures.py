"""Pictures of strangers are bounded by what they cost: each is refused or answered, and others are not held up."""

from __future__ import annotations

import io
import random
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.contracts import BadCell
from regraft.contracts.column import column_of
from regraft.errors import DataError
from regraft.media.pixels import cost
from regraft.media.pixels.decoding import plain_picture
from regraft.media.pixels.images import open_rgb, upright_size
from support.costly_pictures import COSTLY, DOUBTFUL, SAVED, harmless, noise, saved
from unit.endpoint.model_store import Endpoint, ModelStore

TASKS = ("image-classification", "object-detection", "semantic-segmentation")
Maker = Callable[[random.Random], bytes]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    made = ModelStore(tmp_path_factory.mktemp("pictures"))
    for task in TASKS:
        made.add(task)
    return made


def ask(endpoint: Endpoint, task: str, body: bytes) -> int:
    try:
        return endpoint.ask(f"/models/{task}", body, headers={"content-type": "image/*"}).status
    except (BrokenPipeError, ConnectionResetError):
        assert len(body) > 1 << 20  # refused by its length, before it was read
        return 413


@pytest.mark.parametrize("make", COSTLY, ids=lambda make: make.__name__)
def test_a_costly_picture_is_refused_where_data_are_read(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    body, started = make(random.Random(1)), time.monotonic()
    if make.__name__ == "large":
        return  # as much as the data may have
    (tmp_path / "a.png").write_bytes(body)
    with pytest.raises(BadCell) as refused:
        column_of("image").read_cell("a.png", str(tmp_path))
    assert "cannot be used" in str(refused.value)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("make", COSTLY, ids=lambda make: make.__name__)
def test_a_costly_picture_is_refused_by_every_task(make: Maker, served: ModelStore) -> None:
    body = make(random.Random(2))
    with served.open() as endpoint:
        for task in TASKS:
            assert ask(endpoint, task, body) in (413, 422)


@pytest.mark.parametrize("kind", SAVED)
def test_a_harmless_picture_has_the_pixels_that_it_had(kind: str) -> None:
    body = saved(noise((40, 30), random.Random(3)), kind)
    assert np.array_equal(np.asarray(open_rgb(plain_picture(body))), np.asarray(open_rgb(body)))


def test_a_picture_that_takes_too_long_is_ended_and_the_next_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from regraft.media.pixels import decoding

    monkeypatch.setattr(decoding, "REQUEST", decoding.Bound(seconds=0.0001, megabytes=512, wait_s=2))
    large = saved(noise((1500, 1500), random.Random(4)), "TIFF", compression="tiff_lzw")
    with pytest.raises(cost.CostlyPicture, match="takes more than"):
        plain_picture(large)
    monkeypatch.undo()
    assert Image.open(io.BytesIO(plain_picture(large))).format == "PNG"


def test_a_picture_that_takes_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from regraft.media.pixels import decoding

    monkeypatch.setattr(decoding, "REQUEST", decoding.Bound(seconds=20, megabytes=8, wait_s=2))
    with pytest.raises(DataError):
        plain_picture(saved(Image.new("RGB", (4000, 4000)), "TIFF", compression="tiff_lzw"))


def test_scans_of_ordinary_pictures_are_within_the_bounds() -> None:
    body = saved(noise((3000, 2000), random.Random(5)), "JPEG", progressive=True)
    cost.refuse_structure(body, "it")
    cost.refuse_structure(body + b"\xff\xda" * 1000, "it")  # what follows the end is not decoded
    assert upright_size(body) == (3000, 2000)


def run_through(endpoint: Endpoint, count: int, seed: int) -> list[int]:
    draw, statuses = random.Random(seed), []
    for number in range(count):
        make = draw.choice((harmless, *COSTLY, *DOUBTFUL))
        statuses.append(ask(endpoint, TASKS[number % 3], make(draw)))
        assert 200 <= statuses[-1] < 300 or 400 <= statuses[-1] < 500, (number, make.__name__)
    return statuses


def test_generated_pictures_are_refused_or_answered(served: ModelStore) -> None:
    with served.open() as endpoint:
        assert ask(endpoint, TASKS[0], harmless(random.Random(0))) == 200
        statuses = run_through(endpoint, 25, seed=14)
        assert {200, 413} <= set(statuses)
        assert ask(endpoint, TASKS[0], harmless(random.Random(0))) == 200


@pytest.mark.slow
def test_two_thousand_generated_pictures_leave_others_alone(served: ModelStore) -> None:
    canary = saved(noise((32, 32), random.Random(0)), "PNG")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with served.open() as endpoint:
        alone = [_timed(endpoint, canary) for _ in range(100)]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (4 << 30), hard))
        try:
            run_through(endpoint, 2000, seed=2000)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        after = [_timed(endpoint, canary) for _ in range(100)]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"p99 {_p99(alone):.4f} s alone, {_p99(after):.4f} s after; {grown >> 10} MB more at most")
    assert grown < 500 << 10


def _timed(endpoint: Endpoint, body: bytes) -> float:
    started = time.monotonic()
    assert ask(endpoint, TASKS[0], body) == 200
    return time.monotonic() - started


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]
