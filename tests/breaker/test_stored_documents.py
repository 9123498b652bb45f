"""Documents of a store that hold anything at all: each is named as damaged, and hides nothing of the others.

Somebody who may write to the bucket puts there what they like, with right checksums. The generator is seeded; the
short share runs by default, five hundred with `-m slow`.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from regraft.cli import main
from regraft.errors import Damaged, RegraftError, RequestError
from regraft.serving.engine.engine import Engine, RowRequest
from regraft.serving.export import export
from regraft.store import checksummed, manifest
from regraft.store.documents import encode
from regraft.store.objects import ObjectStore, open_store
from regraft.store.registry import Registry
from regraft.store.registry_view import RegistryView
from regraft.store.runs import Runs
from unit.serving import tiny

GOOD = ("good-a", "good-b")
ROW = {"text": "my card was charged twice"}
ODD: tuple[Any, ...] = (None, True, -1, 0.5, 10**400, "x", "\u202egnp", [], ["x", 1], {}, {"x": []}, [[[["deep"]]]])
LISTS = '["lol","lol","lol","lol","lol","lol","lol","lol","lol"]'
BOMB = f"l0: &l0 {LISTS}\n" + "".join(
    f"l{number}: &l{number} [{','.join([f'*l{number - 1}'] * 9)}]\n" for number in range(1, 9)
)
VERSION: Mapping[str, tuple[type, ...]] = {
    "task": (dict,), "task.type": (str,), "method": (dict,), "method.type": (str,), "labels": (list,), "base": (dict,),
    "base.reference": (str,), "base.hash": (str,), "metrics": (dict,), "metrics.accuracy": (float, int, type(None)),
    "score": (dict,), "score.mode": (), "seed": (int,), "lineage": (dict,), "lineage.data": (dict,),
    "lineage.data.rows": (dict,), "versions": (dict,), "created": (str, type(None)),
    "delta_bytes": (int, type(None)), "seconds": (float, int, type(None)), "baselines": (dict,),
    "gain": (dict, type(None)), "dropout": (float, int, type(None)),
}  # fmt: skip
RUN: Mapping[str, tuple[type, ...]] = {
    "name": (str,), "state": (str,), "step": (int,), "updated": (float, int), "model": (str,),
    "version": (str, type(None)), "score": (dict, type(None)), "metrics": (dict, type(None)),
    "seconds": (float, int, type(None)), "rows": (dict,), "notes": (list, type(None)),
}  # fmt: skip
SEARCH: Mapping[str, tuple[type, ...]] = {
    "name": (str,), "state": (str,), "score": (dict, type(None)), "space": (dict,), "trials": (int, type(None)),
    "winner": (str, type(None)), "seconds": (float, int), "rows": (dict,),
}  # fmt: skip


def wrong(rng: random.Random, types: tuple[type, ...]) -> Any:
    """A value of none of the types; numbers that no integer or float of a document may be are wrong everywhere."""
    fits = [value for value in ODD if type(value) not in types or value in (-1, 10**400) or value == ["x", 1]]
    value = rng.choice([value for value in fits if not (value == -1 and float in types)])
    return deepcopy(value)


def put(document: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        document = document.setdefault(parent, {})
    document[last] = value


Damage = tuple[str, str]
"""A model, a run or a search, and what the message about it names."""


class Spoiler:
    """Puts damaged documents into a store that holds two good models."""

    def __init__(self, store: ObjectStore, seed: int) -> None:
        self.store, self.rng = store, random.Random(seed)
        good = Registry(store).version("good-a")
        self.files = {entry.name: store.get(good.prefix + entry.name) for entry in good.manifest.files}
        self.meta = dict(good.meta)

    def version(self, name: str, meta: Mapping[str, Any], files: Mapping[str, bytes] | None = None) -> None:
        made = manifest.Manifest("version", "0" * 32, (), {})
        entries = {**self.files, **(files or {})}
        manifest.commit_as(self.store, f"models/{name}/v1", entries, made)
        body = json.loads(self.store.get(f"models/{name}/v1/manifest.json"))
        body.pop("sha256")
        body["meta"] = {**meta, "name": name, "version": "v1"}
        self.store.put(f"models/{name}/v1/manifest.json", checksummed.dump(body))

    def wrong_type(self, name: str) -> str:
        key = self.rng.choice(sorted(VERSION))
        meta = deepcopy(self.meta)
        put(meta, key, wrong(self.rng, VERSION[key]))
        self.version(name, meta)
        return key.partition(".")[0]

    def wrong_manifest(self, name: str) -> str:
        self.version(name, self.meta)
        key = f"models/{name}/v1/manifest.json"
        data = self.store.get(key)
        body = {**json.loads(data), "meta": {"deep": nested(self.rng.choice((120, 300)))}}
        body.pop("sha256")
        kind = self.rng.randrange(6)
        spoiled = (
            data[: self.rng.randrange(len(data))],
            data.replace(b'"size": ', b'"size": 1', 1),
            b"[" * 100_000,
            b"\xff\xfe" + data,
            b"",
            checksummed.dump(body),
        )[kind]
        self.store.put(key, spoiled)
        return "manifest.json"

    def wrong_spec(self, name: str) -> str:
        text = self.rng.choice((
            BOMB + "data: {train: *l8}\n", "data: " + "[" * 5_000, "data: [1]\n", "- 1\n", "data: {columns: x}\n",
            "training: 5\n", "losses: {a: 1}\n", "plugins: x\n", "a: !!python/object:os.system x\n", "a: &a [*a]\n",
            "data: {train: 5}\n", "'", "\0", "training: &t {a: [" + "*t, " * 3 + "]}\n", "losses: [x]\n",
        ))  # fmt: skip
        self.version(name, self.meta, {"spec.yaml": text.encode()})
        return "spec.yaml"

    def wrong_delta(self, name: str) -> str:
        data = self.files["delta.safetensors"]
        spoiled = self.rng.choice((b"", b"\xff" * 8 + data[8:], data[:-5], data[:8] + b"{" * 400, b"\0" * 40))
        self.version(name, self.meta, {"delta.safetensors": spoiled})
        return "delta"

    def wrong_processor(self, name: str) -> str:
        file = self.rng.choice(("processor/tokenizer.json", "processor/tokenizer_config.json"))
        document = json.loads(self.files[file])
        spoiled = self.rng.choice((
            b"", b"[]", b"{", b"\xff\xfe", b'{"model": 3}', b"[" * 50_000,
            json.dumps({**document, "pre_tokenizer": {"type": "Nothing"}, "tokenizer_class": 3}).encode(),
        ))  # fmt: skip
        self.version(name, self.meta, {file: spoiled})
        return "processor"

    def wrong_run(self, name: str) -> str:
        key = self.rng.choice(sorted(RUN))
        document = {"name": name, "state": "registered", "model": "good-a", key: wrong(self.rng, RUN[key])}
        self.store.put(f"runs/{name}/run.json", sealed(document))
        self.store.put(f"runs/{name}/lease.json", sealed({"pid": "x", "until": wrong(self.rng, (float, int))}))
        self.store.put(f"runs/{name}/metrics.jsonl", b'[1]\n{"a": ' + b"[" * 9_000 + b"\n\xff\n5\n")
        return key

    def wrong_search(self, name: str) -> str:
        key = self.rng.choice(sorted(SEARCH))
        document = {"name": name, "state": "finished", key: wrong(self.rng, SEARCH[key])}
        self.store.put(f"searches/{name}/search.json", sealed(document))
        lines = [{"id": 3, "number": 0}, {"number": 1}, {"id": "t0001", "number": 1, "best": [1], "status": "finished"}]
        self.store.put(f"searches/{name}/trials.jsonl", "\n".join(map(json.dumps, [*lines, 5])).encode())
        return key

    def wrong_alias(self, name: str) -> str:
        self.version(name, self.meta)
        document = {"version": wrong(self.rng, (str, type(None))), "history": []}
        self.store.put(f"models/{name}/aliases/production.json", sealed(document))
        return "aliases/production.json"


def sealed(document: dict[str, Any]) -> bytes:
    return encode(document)


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


KINDS: Mapping[str, Callable[[Spoiler, str], str]] = {
    "type": Spoiler.wrong_type, "manifest": Spoiler.wrong_manifest, "spec": Spoiler.wrong_spec,
    "delta": Spoiler.wrong_delta, "processor": Spoiler.wrong_processor, "run": Spoiler.wrong_run,
    "search": Spoiler.wrong_search, "alias": Spoiler.wrong_alias,
}  # fmt: skip
LISTED = ("type", "manifest")
"""Kinds that `models list` itself sees; the others are seen when the version is opened."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.bert(tmp_path_factory.mktemp("bases") / "cls")


@pytest.fixture
def store(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A store with two good models, one of them with an alias."""
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a thousand small files: nothing here crashes
    for name in GOOD:
        tiny.publish(tmp_path / "store", base, "text-classification", "feature-extraction", name)
    found = open_store(str(tmp_path / "store"))
    Registry(found).promote("good-a", "v1", "production")
    yield found


def answers(engine: Engine, names: tuple[str, ...] = GOOD) -> list[Any]:
    return engine.answer([engine.encode(RowRequest(name, "v1", ROW)) for name in names])


def called(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def spoil(store: ObjectStore, count: int, seed: int) -> dict[str, tuple[str, str]]:
    """Put `count` damaged documents into the store; return kind and named part of each, by its name."""
    spoiler, made = Spoiler(store, seed), {}
    for number in range(count):
        kind = sorted(KINDS)[number % len(KINDS)]
        made[f"bad-{number:03d}"] = (kind, KINDS[kind](spoiler, f"bad-{number:03d}"))
    return made


def check_lists(store: ObjectStore, made: Mapping[str, tuple[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    models, text = called(capsys, "models", "list", "--store", store.url)
    found = {entry["name"]: entry for entry in models["models"]}
    assert all(found[name]["score"] == {"accuracy": 0.5} for name in GOOD)
    for name, (kind, part) in made.items():
        if kind in LISTED:
            assert part in found[name]["damaged"], (name, kind, part)
            assert name in text
        elif kind == "alias":
            assert part in found[name]["damaged_aliases"]["production"]
    listed, _ = called(capsys, "runs", "list", "--store", store.url)
    ways = {entry.get("run") or entry["search"]: entry for entry in (*listed["runs"], *listed["searches"])}
    for name, (kind, part) in made.items():
        if kind in ("run", "search"):
            assert ways[name]["state"] == "damaged" and part in ways[name]["damaged"], (name, kind, part)
    assert called(capsys, "gc", "--store", store.url)[0]["removed"] == []
    assert RegistryView(store).models()["good-a"].aliases == {"production": "v1"}


def check_opened(store: ObjectStore, made: Mapping[str, tuple[str, str]], before: list[Any], folder: Path) -> None:
    engine = Engine(store)
    for name, (kind, part) in made.items():
        if kind in ("type", "manifest", "delta", "processor"):
            with pytest.raises(RegraftError) as refused:
                engine.open(name, "v1")
            assert name in str(refused.value), (kind, part)
        elif kind == "alias":
            with pytest.raises(Damaged, match=r"production\.json"):
                Registry(store).version(name, "production")
            engine.open(name, "v1")
        elif kind == "spec":
            with pytest.raises(Damaged, match=r"spec\.yaml"):
                export(store, name, folder / name)
    assert answers(engine) == before
    assert export(store, "good-b", folder / "exported").folder.is_dir()
    assert not list(folder.glob(".*-*")), "an export that failed leaves nothing"


def check_damage(
    store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, *, seed: int
) -> None:
    before = answers(Engine(store))
    made = spoil(store, count, seed)
    check_lists(store, made, capsys)
    check_opened(store, made, before, tmp_path)
    assert Registry(store).promote("good-b", "v1", "production").version == "v1"
    assert Registry(store).version("good-a", "production").version == "v1"


@pytest.mark.parametrize("seed", [1])
def test_damaged_documents_are_named_and_hide_nothing(
    store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    check_damage(store, tmp_path, capsys, 40, seed=seed)


@pytest.mark.slow
def test_five_hundred_damaged_documents_are_named_and_hide_nothing(
    store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_damage(store, tmp_path, capsys, 500, seed=14)


def test_a_message_names_key_found_and_expected(store: ObjectStore) -> None:
    spoiler = Spoiler(store, 0)
    meta = deepcopy(spoiler.meta)
    put(meta, "metrics.accuracy", "high")
    put(meta, "seed", "0")
    spoiler.version("bad", meta)
    with pytest.raises(Damaged) as refused:
        _ = Registry(store).version("bad").meta
    assert "metrics.accuracy: found 'high' (text); expected a number" in str(refused.value)
    assert "seed: found '0' (text); expected a whole number" in str(refused.value)


def test_keys_of_later_editions_are_read_over(store: ObjectStore) -> None:
    spoiler = Spoiler(store, 0)
    spoiler.version("later", {**spoiler.meta, "signature": {"by": [1]}, "lineage": {"run": "r", "more": 1}})
    body = json.loads(store.get("models/later/v1/manifest.json"))
    body.pop("sha256")
    files = [{**entry, "mode": 420} for entry in body["files"]]
    store.put("models/later/v1/manifest.json", checksummed.dump({**body, "files": files, "signed": True}))
    assert answers(Engine(store), ("later",)) == answers(Engine(store), ("good-a",))


def test_a_version_that_could_not_be_read_again_is_not_published(store: ObjectStore) -> None:
    with pytest.raises(RequestError, match=r"metrics\.f1: found 'high' \(text\); expected a number"):
        Registry(store).publish("m", {}, {"metrics": {"f1": "high"}})
    assert Registry(store).versions("m") == []


@pytest.mark.parametrize("key", ["models/good-a/v1/manifest.json", "models/good-a/aliases/production.json"])
def test_a_document_that_is_too_large_is_not_read(store: ObjectStore, key: str) -> None:
    path = store.local(key)
    assert path is not None
    os.truncate(path, 5 << 30)  # sparse: five gigabytes that take no space
    with pytest.raises(Damaged, match=r"has 5\.4 GB; a document has at most"):
        _ = Registry(store).version("good-a", "production").meta


def test_folders_that_are_no_models_hide_no_model(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("Größe", "bad name", "x" * 90, "a..b"):
        store.put(f"models/{name}/v1/manifest.json", b"{}")
        store.put(f"models/{name}/aliases/{name}.json", b"{}")
    found, _ = called(capsys, "models", "list", "--store", store.url)
    assert [entry["name"] for entry in found["models"] if "damaged" not in entry] == list(GOOD)
    assert len(found["models"]) == len(GOOD) + 4
    assert set(GOOD) < set(RegistryView(store).models())


def test_text_that_is_no_unicode_is_damage(store: ObjectStore) -> None:
    store.put("runs/r/run.json", sealed({"name": "r", "model": "\ud800"}))
    with pytest.raises(Damaged, match="half of a pair of surrogates"):
        Runs(store).find("r")
    assert [info.state for info in Runs(store).list()] == ["damaged"]


def test_an_alias_that_gets_damaged_goes_on_meaning_what_it_meant(store: ObjectStore) -> None:
    view = RegistryView(store)
    assert view.models()["good-a"].aliases == {"production": "v1"}
    store.put("models/good-a/aliases/production.json", sealed({"version": 3}))
    assert view.models()["good-a"].aliases == {"production": "v1"}


class PanicException(BaseException):
    """A panic of an extension: its class can be imported from nowhere."""


def test_a_panic_of_a_library_is_damage_of_the_file(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(*_: Any, **__: Any) -> None:
        raise PanicException("called `Option::unwrap()` on a `None` value")

    engine = Engine(store)
    before = answers(engine)
    task = engine.open("good-a", "v1").task
    with monkeypatch.context() as patched:
        patched.setattr(type(task), "encode", give_up)
        with pytest.raises(Damaged, match=r"good-a@v1: its tokenizer or image processor cannot be used"):
            engine.encode(RowRequest("good-a", "v1", ROW))
    with monkeypatch.context() as patched:
        patched.setattr("regraft.serving.engine.version_loader.load", give_up)
        with pytest.raises(Damaged, match=r"delta\.safetensors cannot be used: the library that reads it gave up"):
            Engine(store).open("good-b", "v1")
    assert answers(engine) == before


def test_a_tokenizer_whose_pattern_never_ends_is_named(store: ObjectStore) -> None:
    """The tokenizer of the fault: a real panic of a real library, where this machine's build has it."""
    spoiler = Spoiler(store, 0)
    tokenizer = json.loads(spoiler.files["processor/tokenizer.json"])
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, tokenizer["pre_tokenizer"]]}
    settings = json.loads(spoiler.files["processor/tokenizer_config.json"]) | {"tokenizer_class": "TokenizersBackend"}
    files = {"processor/tokenizer.json": tokenizer, "processor/tokenizer_config.json": settings}
    spoiler.version("endless", spoiler.meta, {name: json.dumps(file).encode() for name, file in files.items()})
    engine = Engine(store)
    with pytest.raises(Damaged, match=r"endless@v1: its tokenizer or image processor cannot be used"):
        engine.encode(RowRequest("endless", "v1", {"text": "a" * 64 + "!"}))
    assert len(answers(engine)) == 2
