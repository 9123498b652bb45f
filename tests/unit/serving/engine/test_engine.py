"""Each model answers as it does alone, whatever else is in the batch, and shared weights are in memory once."""

from __future__ import annotations

import logging
import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from regraft.errors import BaseError, Damaged, DataError, NotFound, RegraftError, RequestError, WrongBase
from regraft.serving.encoder import has_bf16
from regraft.serving.engine.dummy_rows import close
from regraft.serving.engine.engine import Engine, RowRequest
from regraft.serving.engine.precision import BOUND
from regraft.serving.predictor import Predictor
from regraft.store.folder import FolderStore
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from unit.serving.tiny import SPOKEN, publish

CLASSIFY = "text-classification"
WAYS: dict[str, Any] = {
    "head": "feature-extraction",
    "other-head": "feature-extraction",
    "means": "prototypes",
    "low": {"type": "lora", "rank": 2},
    "other-low": {"type": "lora", "rank": 2},
    "higher": {"type": "lora", "rank": 5, "alpha": 3, "rslora": True, "targets": "linear"},
    "frozen": {"type": "freeze", "depth": 1},
    "all": "full",
    "dora": {"type": "lora", "rank": 2, "dora": True},
    "biases": "bitfit",
    "vectors": "ia3",
}
SHARED = [name for name in WAYS if name not in ("all", "dora", "biases", "vectors")]


@pytest.fixture(scope="module")
def models(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model of every method on one base."""
    store = tmp_path_factory.mktemp("models")
    for number, (name, way) in enumerate(WAYS.items()):
        publish(store, bases["mean"], CLASSIFY, way, name, seed=number)
    return store


@pytest.fixture
def engine(models: Path) -> Engine:
    return Engine(str(models), device="cpu")


def ask(engine: Engine, *wanted: tuple[str, str]) -> list[Any]:
    return engine.answer([engine.encode(RowRequest(name, "v1", {"text": text})) for name, text in wanted])


def sentences(count: int, longest: int = 40) -> list[str]:
    draw, words = random.Random(1), SPOKEN.split()
    return [" ".join(draw.choices(words, k=1 + number * longest // count)) for number in range(count)]


def test_500_random_mixes_answer_as_each_row_alone(models: Path, engine: Engine) -> None:
    texts, draw = sentences(12), random.Random(2)
    alone = {
        (name, text): answer
        for name in WAYS
        for predictor in [Predictor.open(str(models), name, device="cpu")]
        for text in texts
        for answer in predictor.predict([text])
    }
    for _ in range(500):
        wanted = [(draw.choice(list(WAYS)), draw.choice(texts)) for _ in range(draw.randint(1, 12))]
        for pair, answer in zip(wanted, ask(engine, *wanted), strict=True):
            assert close(alone[pair], answer, 1e-5), (pair, wanted)


def rows_through(engine: Engine, module: str) -> list[int]:
    """Record the rows of every pass through a block of the base, in any model's frame."""
    seen: list[int] = []
    for weights in engine._loader.weights.values():
        for frame in {one.loaded.frame for one in engine._cache.versions()} | set(weights.prefix_frames):
            name = f"{frame.adapted.anatomy.prefix}.{module}".removeprefix(".")
            frame.adapted.model.get_submodule(name).register_forward_hook(
                lambda _, given, output: seen.append(len(given[0]))
            )
    return seen


def test_a_mixed_batch_goes_through_the_base_once(engine: Engine) -> None:
    ask(engine, *[(name, "a") for name in SHARED])
    seen = rows_through(engine, "encoder.layer.0.attention.self.query")
    ask(engine, *[(name, text) for name in SHARED for text in ("my card", "the app crashes when")])
    factors = sum(name in ("low", "other-low", "higher") for name in SHARED)
    assert seen == [2 * (1 + factors)]


def test_the_same_text_for_many_heads_is_computed_once(store: Path, bases: dict[str, Path]) -> None:
    for number in range(20):
        publish(store, bases["cls"], CLASSIFY, "feature-extraction", f"m{number}", seed=number)
    engine = Engine(str(store), device="cpu")
    wanted = [(f"m{number}", "how do i reset it") for number in range(20)]
    ask(engine, *wanted)
    seen = rows_through(engine, "encoder.layer.1.attention.self.query")
    answers = ask(engine, *wanted)
    assert seen == [1]
    assert len({answer["score"] for answer in answers}) == 20


def test_other_tasks_and_other_labels_share_the_pass(store: Path, bases: dict[str, Path]) -> None:
    for name, task, labels in (
        ("two", CLASSIFY, ("a", "b")),
        ("four", CLASSIFY, ("a", "b", "c", "d")),
        ("many", "text-multi-label", ("a", "b")),
        ("tags", "token-classification", None),
    ):
        publish(store, bases["mean"], task, "feature-extraction", name, labels=labels)
    publish(store, bases["mean"], CLASSIFY, "lora", "low", labels=("x", "y"))
    engine = Engine(str(store), device="cpu")
    rows: list[tuple[str, dict[str, Any]]] = [
        (name, {"text": text}) for name in ("two", "four", "many", "low") for text in ("a", "how do i reset it please")
    ]
    rows += [("tags", {"tokens": "my card was charged twice"}), ("tags", {"tokens": "how do i reset it please"})]
    items = [engine.encode(RowRequest(name, "v1", row)) for name, row in rows]
    before = engine.stats().passes
    found = engine.answer(items)
    assert engine.stats().passes == before + 1
    for (name, row), answer in zip(rows, found, strict=True):
        assert close(Predictor.open(str(store), name, device="cpu").predict([row])[0], answer, 1e-5), name


def test_models_of_a_base_hold_one_copy_of_it(engine: Engine, bases: dict[str, Path]) -> None:
    for name in WAYS:
        engine.open(name, "v1")
    [used] = engine.stats().bases
    whole = sum(tensor.nbytes for tensor in load_file(bases["mean"] / "model.safetensors").values())
    assert used.models == len(WAYS) and used.bytes <= whole
    [weights] = engine._loader.weights.values()
    held = {tensor.data_ptr() for tensor in weights._tensors.values()}
    for name in WAYS:
        loaded = engine.open(name, "v1").loaded
        loaded.frame.load_delta(loaded.delta)
        moved = {tensor.data_ptr() for tensor in loaded.delta.values()}
        for where, tensor in loaded.frame.adapted.model.state_dict().items():
            assert tensor.data_ptr() in held | moved, (name, where)


def test_a_delta_holds_only_what_moved(store: Path, bases: dict[str, Path]) -> None:
    publish(store, bases["mean"], CLASSIFY, "feature-extraction", "head")
    version, _ = publish(store, bases["mean"], CLASSIFY, "full", "all")
    folder = store / version.prefix
    moved, base = load_file(folder / "delta.safetensors"), load_file(bases["mean"] / "model.safetensors")
    still = [name for name in moved if name in base and "layer.1" not in name]
    assert still
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.name != "manifest.json"}
    delta = save({**moved, **{name: base[name] for name in still}})
    given = {name: path for name, path in files.items() if path.is_file() and "claim" not in name}
    Registry(open_store(str(store))).publish("some", {**given, "delta.safetensors": delta}, version.meta)
    engine = Engine(str(store), device="cpu")
    engine.open("head", "v1")
    whole, some = engine.open("all", "v1").bytes, engine.open("some", "v1").bytes
    assert whole - some == sum(base[name].nbytes for name in still)


def test_deltas_leave_by_least_use_and_rows_on_their_way_are_answered(models: Path) -> None:
    size = Engine(str(models), device="cpu").open("low", "v1").bytes
    engine = Engine(str(models), device="cpu", budget_bytes=2 * size)
    waiting = engine.encode(RowRequest("low", "v1", {"text": "a"}))
    wanted = engine.answer([waiting])
    for name in ("other-low", "low", "head", "other-head", "frozen"):
        engine.open(name, "v1")
    stats = engine.stats()
    assert "low@v1" not in stats.models and "frozen@v1" in stats.models
    assert stats.evictions and (stats.bytes <= 2 * size or len(stats.models) == 1)
    assert engine.answer([waiting]) == wanted
    assert ask(engine, ("low", "a")) == wanted
    assert engine.stats().loads > len(stats.models)


def test_a_store_that_was_made_anew_is_noticed(store: Path, bases: dict[str, Path]) -> None:
    publish(store, bases["cls"], CLASSIFY, "lora", "tiny", seed=1)
    engine = Engine(str(store), device="cpu")
    before, first = engine.open("tiny", "v1"), ask(engine, ("tiny", "a"))
    shutil.rmtree(store)
    assert engine.open("tiny", "v1") is before, "a store that went away is no empty store"
    publish(store, bases["cls"], CLASSIFY, "lora", "tiny", seed=2)
    after = engine.open("tiny", "v1")
    assert after.hash != before.hash and after.delta_sha256 != before.delta_sha256
    [answer] = ask(engine, ("tiny", "a"))
    assert answer == Predictor.open(str(store), "tiny", device="cpu").predict(["a"])[0] != first[0]


class Slow(FolderStore):
    """A store that is slow to return one model."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked, self.go = threading.Event(), threading.Event()

    def read_start(self, key: str, size: int) -> tuple[bytes, int]:
        if key.startswith("models/frozen/"):
            self.asked.set()
            assert self.go.wait(15)
        return super().read_start(key, size)


def test_a_model_that_loads_slowly_keeps_nobody_waiting_and_is_loaded_once(models: Path) -> None:
    slow = Slow(str(models))
    engine = Engine(slow, device="cpu")
    with ThreadPoolExecutor(3) as pool:
        opening = [pool.submit(engine.open, "frozen", "v1") for _ in range(2)]
        assert slow.asked.wait(15)
        assert engine.open("low", "v1") and all("label" in answer for answer in ask(engine, ("low", "a"), ("all", "a")))
        assert not any(future.done() for future in opening)
        before = engine.stats().loads
        slow.go.set()
        assert opening[0].result(60) is opening[1].result(60)
    assert engine.stats().loads == before + 1


def test_rows_are_encoded_in_many_threads(engine: Engine) -> None:
    texts = sentences(30)
    wanted = [engine.encode(RowRequest("low", "v1", {"text": text})).example for text in texts]
    asks = [RowRequest(("low", "other-low")[number % 2], "v1", {"text": text}) for number, text in enumerate(texts * 4)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(engine.encode, asks))
    assert [item.example for item in found] == wanted * 4
    assert {item.unit for item in found} == {"token"}
    assert [item.cost for item in found] == [len(item.example["input_ids"]) for item in found]


def test_one_bad_row_fails_alone(engine: Engine) -> None:
    good = [engine.encode(RowRequest(name, "v1", {"text": "my card"})) for name in ("head", "low", "all")]
    bad = [replace(item, example={**item.example, "input_ids": [10**6] * 4}, key=object()) for item in good]
    wanted = engine.answer(good)
    for one in bad:
        found = engine.answer([*good, one])
        assert isinstance(found[-1], RegraftError) and "could not be answered" in str(found[-1])
        assert close(wanted, found[:-1], 1e-5)


def test_what_does_not_fit_is_refused(engine: Engine) -> None:
    with pytest.raises(DataError, match="column 'text' is missing"):
        engine.encode(RowRequest("low", "v1", {}))
    with pytest.raises(DataError, match="text is empty"):
        engine.encode(RowRequest("low", "v1", {"text": " "}))
    with pytest.raises(NotFound, match="did you mean"):
        engine.encode(RowRequest("lo", "v1", {"text": "a"}))
    with pytest.raises(NotFound):
        engine.open("low", "v7")
    with pytest.raises(RequestError, match="an alias may move to another version"):
        engine.open("low", "latest")
    with pytest.raises(RequestError, match="allowed are auto, cpu"):
        Engine("anywhere", device="abacus")
    assert engine.answer([]) == []


def test_a_delta_that_was_changed_is_refused(store: Path, bases: dict[str, Path]) -> None:
    version, _ = publish(store, bases["cls"], CLASSIFY, "lora")
    path = store / version.prefix / "delta.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    engine = Engine(str(store), device="cpu")
    for _ in range(2):
        with pytest.raises(Damaged, match=r"delta\.safetensors"):
            engine.open("tiny", "v1")


def test_a_base_is_looked_for_where_it_is_now(store: Path, bases: dict[str, Path], tmp_path: Path) -> None:
    base = shutil.copytree(bases["cls"], tmp_path / "mine")
    version, _ = publish(store, base, CLASSIFY, "lora")
    shutil.rmtree(base)
    with pytest.raises(BaseError, match="pass base="):
        Engine(str(store), device="cpu").open("tiny", "v1")
    wanted = str(version.meta["base"]["hash"])
    assert ask(Engine(str(store), device="cpu", bases={wanted: str(bases["cls"])}), ("tiny", "a"))[0]["label"]
    with pytest.raises(WrongBase):
        Engine(str(store), device="cpu", bases={wanted: str(bases["mean"])}).open("tiny", "v1")


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_bf16_answers_as_fp32_within_its_bound(models: Path, precision: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "regraft.serving")
    exact, quick = Engine(str(models), device="cpu"), Engine(str(models), device="cpu", precision=precision)
    wanted = [(name, text) for name in WAYS for text in sentences(3)]
    items = [quick.encode(RowRequest(name, "v1", {"text": text})) for name, text in wanted]
    [used] = quick.stats().bases
    if precision == "auto":
        assert any("answers in" in line for line in caplog.messages), caplog.messages
    if precision == "bf16" or used.precision == "bfloat16":
        assert used.precision == "bfloat16"
        assert used.bytes < exact.open("head", "v1").loaded.frame.weights.nbytes
    assert has_bf16(torch.device("cpu")) or precision == "bf16" or used.precision == "float32"
    for one, other in zip(ask(exact, *wanted), quick.answer(items), strict=True):
        by_label = [{item["label"]: item["score"] for item in answer["scores"]} for answer in (one, other)]
        assert close(*by_label, 5 * BOUND), (one, other)


def test_it_says_what_is_served(engine: Engine) -> None:
    served = engine.open("low", "v1")
    assert (served.model, served.version, served.serves, str(served)) == ("low", "v1", "low_rank", "low@v1")
    assert served.task.key() == CLASSIFY and served.labels == ("billing", "bug", "other")
    assert served.hash == Registry(open_store(engine._store.url)).version("low", "v1").id
    assert len(served.delta_sha256) == 64 and served.meta["metrics"] == {"accuracy": 0.5}
    assert [engine.open(name, "v1").shares for name in ("head", "low", "frozen", "all", "dora")] == [True] * 3 + [
        False
    ] * 2
