"""A run against S3 alone, killed twice and continued on another machine, ends as one that was never interrupted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
import transformers
from transformers import AutoTokenizer

import regraft
from regraft.cli import gc, main
from regraft.serving.predictor import Predictor
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.manifest import fetch_verified
from regraft.store.objects import ObjectStore, open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from support.processes import in_child, train_counted
from support.tiny import document, tiny_bert
from unit.store.conftest import REAL, root_on
from unit.store.conftest import moto_endpoint as moto_endpoint
from unit.training.test_resume import KILLS as TEN_KILLS
from unit.training.test_resume import effective

KILLS = (4, 9)
"""Steps, counted from 0, right after which to die: one step after a checkpoint was begun, so that it is uploaded."""
TEXTS = ["the lamp is off", "my invoice was not right please refund", "a new password for the account"]


@dataclass
class Run:
    """What a run killed and continued on S3 left, and the same run uninterrupted in a folder."""

    root: str
    """The s3:// url that base, data and store lie below."""
    store: ObjectStore
    spec: RunSpec
    folder: Path
    straight: ObjectStore
    exits: list[int]
    seen_after_kill: list[list[str]]
    """Of each kill: the keys below the run's checkpoints and below models."""


@pytest.fixture(scope="module", params=["moto", *(["real"] if REAL else [])])
def s3_root(request: pytest.FixtureRequest) -> Iterator[str]:
    """A url of its own on moto's server, and on the one that REGRAFT_TEST_S3 names (keys and endpoint by AWS_*)."""
    with root_on(request.param, request, "run") as root:
        yield root


@pytest.fixture(scope="module")
def s3_run(s3_root: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Base, data and store on S3; two kills, then another machine (an empty cache) goes on to the end."""
    folder = tmp_path_factory.mktemp("s3")
    tiny_bert(folder / "base", pooling=None)
    local = document(folder, method={"type": "freeze", "depth": 1}, checkpoint_steps=3, keep=2, baselines=True)
    assert in_child(train_counted, local, str(folder / "straight")) == 0
    there = on_s3(local, folder, s3_root)
    spec, store = RunSpec.resolve(there), open_store(there["store"])
    exits, seen = [], []
    with pytest.MonkeyPatch.context() as environment:
        for number, kill in enumerate((*KILLS, None)):
            environment.setenv("REGRAFT_CACHE", str(folder / f"machine-{number}"))
            exits.append(in_child(train_counted, there, str(folder / "journal"), kill))
            prefixes = (f"runs/{spec.run}/checkpoints/", "models/")
            seen.append([stat.key for prefix in prefixes for stat in store.list(prefix)])
        straight = open_store(local["store"])
        yield Run(s3_root, store, spec, folder, straight, exits, seen[: len(KILLS)])


def on_s3(local: dict[str, Any], folder: Path, root: str) -> dict[str, Any]:
    """The same spec with base, data and store in the bucket."""
    inputs = open_store(f"{root}/inputs")
    for path in [*(folder / "base").rglob("*"), folder / "train.csv", folder / "eval.csv"]:
        if path.is_file():
            inputs.put(path.relative_to(folder).as_posix(), path)
    data = {side: f"{root}/inputs/{side}.csv" for side in ("train", "eval")}
    return {**local, "base": f"{root}/inputs/base", "data": data, "store": f"{root}/store"}


@pytest.mark.skipif(
    not REAL, reason="REGRAFT_TEST_S3=s3://bucket[/prefix] (with AWS_ENDPOINT_URL and keys) names no real server"
)
def test_a_real_s3_server_is_among_the_servers_of_this_file() -> None:
    open_store(REAL).check()


def delta(store: ObjectStore) -> bytes:
    return store.get(f"{Registry(store).version('tiny').prefix}delta.safetensors")


def test_a_run_killed_twice_on_s3_ends_bit_identical_to_an_uninterrupted_one_in_a_folder(s3_run: Run) -> None:
    assert s3_run.exits == [-9, -9, 0]
    assert delta(s3_run.store) == delta(s3_run.straight)
    mine, theirs = (Registry(store).version("tiny").meta for store in (s3_run.store, s3_run.straight))
    for same in ("metrics", "baselines", "labels", "delta_sha256", "score"):
        assert mine[same] == theirs[same]
    assert mine["lineage"]["data"] == theirs["lineage"]["data"]
    assert mine["base"]["hash"] == theirs["base"]["hash"]


def test_each_attempt_on_s3_went_on_from_a_checkpoint_without_a_gap(s3_run: Run) -> None:
    attempts: dict[str, list[int]] = {}
    for line in (s3_run.folder / "journal").read_text().splitlines():
        process, step, *_ = line.split()
        attempts.setdefault(process, []).append(int(step))
    first, second, third = attempts.values()
    assert first == list(range(KILLS[0] + 1))
    assert second == list(range(second[0], KILLS[1] + 1))
    assert third == list(range(third[0], 16))
    # From the checkpoint that was being uploaded when the process was killed, if it arrived, or the one before.
    assert second[0] in (0, 3) and third[0] in (8, 9)


@pytest.mark.slow
def test_ten_kills_on_s3_leave_the_delta_and_the_log_of_an_uninterrupted_run_in_a_folder(
    s3_run: Run, tmp_path: Path
) -> None:
    if REAL and not s3_run.root.startswith(REAL):
        pytest.skip("the real server is killed at, which takes a minute; moto's is the same code")
    there = {**s3_run.spec.model_dump(mode="json"), "store": f"{s3_run.root}/ten"}
    for step in TEN_KILLS:
        assert in_child(train_counted, there, str(tmp_path / "journal"), step) == -9
    assert in_child(train_counted, there, str(tmp_path / "journal")) == 0
    store = open_store(there["store"])
    assert delta(store) == delta(s3_run.straight)
    mine, theirs = (Runs(place) for place in (store, s3_run.straight))
    (straight,) = theirs.list()  # named after other paths of the same files
    assert mine.read(s3_run.spec.run, "metrics.jsonl") == theirs.read(straight.name, "metrics.jsonl")
    assert effective(tmp_path / "journal") == effective(s3_run.folder / "straight")


def test_a_kill_on_s3_leaves_no_version_and_every_listed_checkpoint_whole(s3_run: Run, tmp_path: Path) -> None:
    for keys in s3_run.seen_after_kill:
        assert not [key for key in keys if key.startswith("models/")]
    assert any(key.endswith("/manifest.json") for key in s3_run.seen_after_kill[1])
    listed = Checkpoints(s3_run.store, s3_run.spec.run).listed()
    assert listed and listed[-1].step == 16
    for saved in listed:
        assert fetch_verified(s3_run.store, saved.prefix, tmp_path / saved.id).meta["step"] == saved.step
    assert Registry(s3_run.store).models() == ["tiny"]
    assert [str(version) for version in Registry(s3_run.store).versions("tiny")] == ["tiny@v1"]


def test_a_finished_run_on_s3_is_not_trained_again(s3_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = regraft.train(s3_run.spec)
    assert outcome.already and outcome.version == "v1"
    assert len(Registry(s3_run.store).versions("tiny")) == 1


def test_a_model_on_s3_is_loaded_exported_and_answers_the_same(s3_run: Run, tmp_path: Path) -> None:
    predictor = regraft.load("tiny", store=s3_run.store.url)
    elsewhere = Predictor.open(s3_run.straight, "tiny")
    assert torch.equal(predictor.logits(TEXTS), elsewhere.logits(TEXTS))
    answers = predictor.predict(TEXTS)
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in elsewhere.predict(TEXTS)]
    out = tmp_path / "out"
    assert main(["models", "export", "tiny", str(out), "--store", s3_run.store.url]) == 0
    torch.testing.assert_close(by_transformers(out), predictor.logits(TEXTS), rtol=1e-5, atol=1e-5)


def by_transformers(folder: Path) -> torch.Tensor:
    """What transformers alone answers from an exported folder."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return torch.as_tensor(model(**batch).logits)


def test_an_alias_on_s3_is_moved_and_rolled_back(s3_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    first = Registry(s3_run.store).version("tiny")
    contents = {"delta.safetensors": delta(s3_run.store), "spec.yaml": b"{}"}
    second = Registry(s3_run.store).publish("tiny", contents, {**first.meta, "lineage": {"run": "another"}})
    at = ("--store", s3_run.store.url, "--json")

    def command(*words: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["models", *words, *at]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    command("promote", str(first), "production")
    command("promote", str(second), "production")
    assert Registry(s3_run.store).aliases("tiny") == {"production": "v2"}
    command("rollback", "tiny", "production")
    assert Registry(s3_run.store).aliases("tiny") == {"production": "v1"}
    assert regraft.load("tiny@production", store=s3_run.store.url).hash == first.id
    command("delete", str(second), "--yes")


def test_after_gc_nothing_on_s3_is_uncommitted(
    s3_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    half, version = f"runs/{s3_run.spec.run}/checkpoints/00000007-0badcafe/", "models/tiny/v9/"
    for key in (f"{half}delta.safetensors", f"{version}delta.safetensors", f"{version}claim.json"):
        s3_run.store.put(key, b"as a process that was killed left it")
    bucket, _, prefix = s3_run.store.url.removeprefix("s3://").partition("/")
    client: Any = boto3.client("s3")
    client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/{half}optimizer.safetensors")
    known = [saved.prefix for saved in Checkpoints(s3_run.store, s3_run.spec.run).listed()]
    monkeypatch.setattr(gc, "_DAY_S", -60.0)
    assert main(["gc", "--store", s3_run.store.url, "--json"]) == 0
    removed = json.loads(capsys.readouterr().out)["removed"]
    assert {half, version} <= set(removed)
    keys = [stat.key for stat in s3_run.store.list()]
    pattern = re.compile(r"(runs/[^/]+/checkpoints/[^/]+/|models/[^/]+/v\d+/)(.+)")
    parts = [found.groups() for key in keys if (found := pattern.fullmatch(key))]
    left = {at + name for at, name in parts if f"{at}manifest.json" not in keys}
    # A number once claimed is not given again, so what says that it was claimed stays, and nothing else.
    assert f"{version}claim.json" in left
    assert {key.rpartition("/")[2] for key in left} <= {"claim.json", "deleted.json"}
    assert [saved.prefix for saved in Checkpoints(s3_run.store, s3_run.spec.run).listed()] == known
    assert not client.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads")
    assert delta(s3_run.store) == delta(s3_run.straight)
