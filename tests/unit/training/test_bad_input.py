"""Wrong input ends with one clear message and the exit code, and leaves nothing half-written."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from doubles.fake_s3 import FakeS3, Request
from doubles.fake_training import CommandResult, Regraft
from regraft.bases.locate import locate
from regraft.bases.private_copy import SETTLED_S
from regraft.errors import RequestError
from regraft.store.checkpoints import Checkpoints
from regraft.store.manifest import fetch_verified
from regraft.store.objects import ObjectStore, open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.training.harness import LocalHarness
from regraft.training.memory_check import check_weights_fit, container_limits, weight_bytes
from support.processes import free_port, in_child, limited_command
from support.tiny import document
from unit.cli.conftest import nothing_left_behind as nothing_left_behind
from unit.cli.conftest import regraft as regraft
from unit.store.conftest import flaky as flaky

Document = dict[str, Any]
Train = Callable[..., CommandResult]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Document:
    """A spec that is right, on a base and data that are there."""
    return document(tmp_path_factory.mktemp("whole"), epochs=2, checkpoint_steps=3, keep=3)


@pytest.fixture
def wrong(whole: Document, tmp_path: Path) -> Document:
    """The same spec with a store of its own, to be spoilt."""
    return {**whole, "store": str(tmp_path / "store")}


@pytest.fixture
def train(regraft: Regraft, tmp_path: Path) -> Train:
    """Write a spec and train it through the command line."""

    def call(written: Document, *options: str) -> CommandResult:
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(written))
        return regraft("train", tmp_path / "spec.yaml", *options)

    return call


def refused(result: CommandResult, code: int, *expected: str) -> None:
    """One message on stderr that contains all `expected` texts, and the exit code."""
    first, *others = result.err.splitlines()
    assert first.startswith("error: ")
    assert all(line.startswith("  - ") for line in others), result.err
    for part in expected:
        assert part in result.err
    assert result.code == code


def nothing_half_written(store: ObjectStore, folder: Path) -> None:
    """No version, and only intact checkpoints."""
    assert Registry(store).models() == []
    keys = [stat.key for stat in store.list()]
    assert not [key for key in keys if key.startswith("models/") and not key.endswith("/claim.json")]
    for run in {key.split("/")[1] for key in keys if key.startswith("runs/")}:
        for saved in Checkpoints(store, run).listed():
            fetch_verified(store, saved.prefix, folder / saved.id)
    assert all(info.state != "running" for info in Runs(store).list())


def rows(*lines: str) -> Callable[[Document, Path], Document]:
    """Other training rows."""

    def change(written: Document, folder: Path) -> Document:
        (folder / "rows.csv").write_text("".join(f"{line}\n" for line in lines))
        return {**written, "data": {**written["data"], "train": str(folder / "rows.csv")}}

    return change


def keys(**changes: Any) -> Callable[[Document, Path], Document]:
    """Other values of top-level keys; a mapping is merged into what is there."""

    def change(written: Document, folder: Path) -> Document:
        merged = {
            key: {**written[key], **value} if isinstance(value, dict) and isinstance(written.get(key), dict) else value
            for key, value in changes.items()
        }
        return {**written, **merged}

    return change


def spoilt_base(spoil: Callable[[Path], object]) -> Callable[[Document, Path], Document]:
    """A copy of the base with something wrong in it."""

    def change(written: Document, folder: Path) -> Document:
        base = folder / "spoilt"
        shutil.copytree(written["base"], base)
        spoil(base)
        return {**written, "base": str(base)}

    return change


def only_pickled(base: Path) -> None:
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()


def cut(base: Path) -> None:
    data = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(data[:-100])


ASKED_WRONG: dict[str, tuple[Callable[[Document, Path], Document], Sequence[str]]] = {
    "unknown key": (keys(trainin={}), ("trainin", "Did you mean 'training'?")),
    "unknown keys, all at once": (
        keys(training={"leraning_rate": 1, "epoch": 2}),
        ("2 problems", "training.leraning_rate", "Did you mean 'epochs'?"),
    ),
    "wrong types, all at once": (
        keys(training={"epochs": "many", "lr": "fast", "batch_size": 1.5}),
        ("3 problems", "training.epochs: 'many' is written", "valid integer", "training.lr: 'fast'", "valid number"),
    ),
    "out of range": (keys(training={"lr": -1}), ("training.lr: -1 is written", "greater than 0")),
    "missing key": (lambda written, _: {k: v for k, v in written.items() if k != "base"}, ("base: is missing",)),
    "missing column": (
        rows("txt,label", "a lamp,light", "an invoice,money"),
        ("rows.csv", "has no column 'text' (nearest: 'txt')", "it has 'txt', 'label'", "data.columns"),
    ),
    "a label unseen in training": (
        rows("text,label", "a lamp,light", "an invoice,money"),
        ("eval.csv:2", "the label 'entry'", "in no training row", "correct it, or add training rows of it"),
    ),
    "only a header": (rows("text,label"), ("rows.csv", "holds no rows", "add some")),
    "an empty file": (rows(), ("rows.csv", "is empty; its first line must name the columns")),
    "one class only": (
        rows("text,label", "a lamp,light", "a bulb,light"),
        ("all 2 training rows have the label 'light'", "needs two", "add rows of another label"),
    ),
    "an empty cell": (rows("text,label", "a lamp,light", "an invoice,"), ("rows.csv:3", "label: is empty")),
    "no such file": (keys(data={"train": "/nowhere/rows.csv"}), ("/nowhere/rows.csv", "there is no such file")),
    "no such base": (keys(base="/nowhere/base"), ("'/nowhere/base' is not there", "allowed are a hub id", "a folder")),
    "no such base on the hub": (keys(base="nobody/nothing"), ("'nobody/nothing'", "the hub cannot be reached")),
    "a base of pickled weights": (
        spoilt_base(only_pickled),
        ("no *.safetensors", "pytorch_model.bin", "can run code", "save_pretrained"),
    ),
    "a base that is cut off": (spoilt_base(cut), ("model.safetensors is cut", "fetch it again")),
    "a base with code": (spoilt_base(lambda base: (base / "m.py").touch()), ("m.py is code", "remove it")),
    "deeper than the base": (
        keys(method={"type": "freeze", "depth": 9}),
        ("method.depth: 9 is written; this base has 2 blocks: 0 to 2",),
    ),
    "fp16 on a CPU": (keys(compute={"precision": "fp16"}), ("compute.precision: fp16", "fp32 or bf16")),
    "a plugin folder that is none": (keys(plugins=["/nowhere"]), ("/nowhere", "is not a plugin folder")),
}


@pytest.mark.parametrize("case", ASKED_WRONG)
def test_what_is_asked_wrong_is_reported_once_with_code_2(
    case: str, wrong: Document, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    change, expected = ASKED_WRONG[case]
    spoilt = change(wrong, tmp_path)
    result = train(spoilt)
    refused(result, 2, *expected)
    assert result.out == ""
    nothing_half_written(open_store(wrong["store"]), tmp_path / "fetched")
    as_json = train(spoilt, "--json")
    assert as_json.code == 2
    assert set(as_json.document["error"]) == {"kind", "message", "where"}
    assert "Traceback (most recent call last)" not in as_json.err
    assert "Traceback (most recent call last)" in train(spoilt, "-v").err


@pytest.mark.parametrize("below", ["", "below", "below/deeper"])
def test_a_store_that_cannot_be_written_is_reported(below: str, wrong: Document, train: Train, tmp_path: Path) -> None:
    # A folder without write permission does not stop root, so a file stands in the way.
    (tmp_path / "file").write_text("mine")
    result = train({**wrong, "store": str(tmp_path / "file" / below)})
    refused(result, 1, str(tmp_path / "file"), "there is a file where a folder is needed", "name another store")
    assert (tmp_path / "file").read_text() == "mine"


S3_REFUSES = {
    "403:SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "403:InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID",
    "403:ExpiredToken": "the credentials have expired: get new ones",
    "403:AccessDenied": "these credentials have no permission for it (AccessDenied)",
    "503:SlowDown": "try again later",
    "501:NotImplemented": "has no conditional writes",
}


@pytest.mark.parametrize("part", ["store", "base", "data"])
@pytest.mark.parametrize("answer", S3_REFUSES)
def test_an_s3_that_refuses_is_reported(answer: str, part: str, wrong: Document, train: Train, flaky: FakeS3) -> None:
    flaky.fault = lambda request: answer
    at = {"store": "s3://b/p", "base": "s3://b/base", "data": {"train": "s3://b/rows.csv", "eval": 0.5}}
    result = train({**wrong, part: at[part]})
    # Asked for one object by HEAD, a server cannot send the reason.
    bare = part == "data" and answer.startswith("403")
    refused(result, 1, "s3://b", "no permission for it (403)" if bare else S3_REFUSES[answer])
    assert "s3cr3t" not in result.err + result.out
    assert not flaky.objects


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:{port}", ("does not answer", "is AWS_ENDPOINT_URL right?")),
        ("AWS_ENDPOINT_URL", "127.0.0.1", ("AWS_ENDPOINT_URL is not a url", "write http://host:port")),
        ("AWS_SECRET_ACCESS_KEY", "", ("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",)),
    ],
)
def test_an_s3_that_cannot_be_asked_is_reported(
    variable: str, value: str, expected: tuple[str, ...], wrong: Document, train: Train, flaky: FakeS3,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv(variable, value.format(port=free_port()))
    result = train({**wrong, "store": "s3://b/p"})
    refused(result, 2 if "not a url" in expected[0] else 1, *expected)


def test_an_s3_without_the_bucket_is_reported(wrong: Document, train: Train, flaky: FakeS3) -> None:
    refused(train({**wrong, "store": "s3://none/p"}), 1, "the bucket does not exist", "create it or correct")


def test_credentials_that_expire_during_a_run_are_reported_and_new_ones_continue_it(
    wrong: Document, train: Train, flaky: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))

    def expired(request: Request) -> str:
        first = any("/00000003-" in seen and seen.endswith("manifest.json") for seen in flaky.seen)
        later = first and "/00000003-" not in request.key
        return "403:ExpiredToken" if later else ""

    flaky.fault = expired
    written = {**wrong, "store": "s3://b/p"}
    refused(train(written), 1, "the credentials have expired: get new ones")
    flaky.fault = lambda request: ""
    store = open_store("s3://b/p")
    assert Registry(store).models() == []
    assert [saved.step for saved in Checkpoints(store, run_of(store)).listed()] == [3]
    result = train(written)
    assert result.code == 0
    assert "continues at step 3" in result.out


def run_of(store: ObjectStore) -> str:
    return next(stat.key.split("/")[1] for stat in store.list("runs/"))


class Memory(NamedTuple):
    """What psutil.virtual_memory returns, as far as it is asked."""

    available: int


def memory_of(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(available))
    monkeypatch.setattr("regraft.training.memory_check.container_limits", list)


def moved_by_all(written: Document) -> int:
    """Bytes of the task model: the base without its pooler (it pools by the mean) and a head for three labels."""
    tensors = load_file(Path(written["base"]) / "model.safetensors")
    return 4 * (sum(value.numel() for name, value in tensors.items() if "pooler" not in name) + 3 * 32 + 3)


def test_a_base_larger_than_the_memory_is_refused_before_the_data_are_read(
    wrong: Document, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_of(monkeypatch, weight_bytes(locate(wrong["base"])) - 1)
    result = train({**wrong, "data": {"train": "/nowhere.csv"}})
    refused(result, 2, wrong["base"], "kB of memory are needed", "are free", "use a smaller base")
    nothing_half_written(open_store(wrong["store"]), tmp_path / "fetched")


@pytest.mark.parametrize(("optimizer", "copies"), [("adamw", 6), ("sgd", 4)])
def test_a_method_that_moves_more_than_the_memory_holds_is_refused_and_a_lighter_one_is_not(
    optimizer: str, copies: int, wrong: Document, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients and moments, and the same again without gradients as the copy that checkpoints are written from."""
    wrong["training"] = {**wrong["training"], "optimizer": optimizer, "epochs": 1}
    need = copies * moved_by_all(wrong)
    memory_of(monkeypatch, need - 1)
    refused(train(wrong), 2, "full moves", "gradients, moments", "kB are free", "write method: lora")
    nothing_half_written(open_store(wrong["store"]), tmp_path / "fetched")
    assert train({**wrong, "method": "lora"}).code == 0
    assert train({**wrong, "method": {"type": "freeze", "depth": 1}}).code == 0
    memory_of(monkeypatch, need)
    assert train(wrong).code == 0


class Crowded(LocalHarness):
    """One of several ranks of a machine."""

    def __init__(self, here: int) -> None:
        super().__init__()
        self.here = here


def test_workers_on_one_machine_need_the_memory_of_them_all(whole: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    base = locate(whole["base"])
    memory_of(monkeypatch, 3 * weight_bytes(base) - 1)
    check_weights_fit(base, Crowded(2))
    with pytest.raises(RequestError, match=r"for 3 workers on one machine: .* write fewer compute\.workers"):
        check_weights_fit(base, Crowded(3))


def test_weights_stored_at_half_precision_are_counted_as_they_are_loaded(whole: Document, tmp_path: Path) -> None:
    shutil.copytree(whole["base"], tmp_path / "half")
    tensors = load_file(tmp_path / "half" / "model.safetensors")
    save_file({name: value.bfloat16() for name, value in tensors.items()}, tmp_path / "half" / "model.safetensors")
    assert weight_bytes(locate(str(tmp_path / "half"))) == 4 * sum(value.numel() for value in tensors.values())


def test_the_limits_of_a_container_count(tmp_path: Path) -> None:
    def group(folder: Path, v2: bool, **files: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        names = {"most": "memory.max", "used": "memory.current"}
        names = names if v2 else {"most": "memory.limit_in_bytes", "used": "memory.usage_in_bytes"}
        for name, text in files.items():
            (folder / names.get(name, "memory.stat")).write_text(f"{text}\n")

    (tmp_path / "own").write_text("5:cpu,cpuacct:/\n4:memory:/pod/here\n0::/pod/here\n")
    group(tmp_path / "pod" / "here", True, most="max", used="10", stat="anon 3\ninactive_file 4")
    group(tmp_path / "pod", True, most="1000", used="400", stat="anon 3\ninactive_file 100")
    group(tmp_path / "memory", False, most="500", used="600", stat="total_inactive_file 20")
    assert container_limits(tmp_path, tmp_path / "own") == [700, 0]
    assert container_limits(tmp_path / "none", tmp_path / "own") == []
    assert container_limits(tmp_path, tmp_path / "none") == []


GREEDY = '''
import torch
from torch import nn

from regraft.contracts import Loss


class Term(nn.Module):
    def forward(self, step):
        return torch.zeros(1 << 50).sum()


class Greedy(Loss):
    """Takes a petabyte."""

    def build(self, model, anatomy):
        return Term()
'''


def test_a_step_that_runs_out_of_memory_says_what_to_make_smaller(
    wrong: Document, train: Train, tmp_path: Path
) -> None:
    (tmp_path / "own" / "losses").mkdir(parents=True)
    (tmp_path / "own" / "losses" / "greedy.py").write_text(GREEDY)
    result = train({**wrong, "plugins": [str(tmp_path / "own")], "losses": ["greedy"]})
    refused(result, 1, "memory ran out", "training.batch_size (8)", "training.accumulation (1)")
    nothing_half_written(open_store(wrong["store"]), tmp_path / "fetched")


class Disk:
    """A file system of its own, whose size can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def size(self, kilobytes: int) -> None:
        mount("-o", f"remount,size={kilobytes}k", str(self.folder))


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small disk in memory; skipped where mounting is not permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here: {getattr(error, 'stderr', b'').decode() or error}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kilobytes", [4, 12, 24, 100, 250, 600])
def test_a_full_disk_is_reported_and_every_listed_checkpoint_is_whole(
    kilobytes: int, wrong: Document, train: Train, disk: Disk, tmp_path: Path
) -> None:
    disk.size(kilobytes)
    wrong["store"] = str(disk.folder / "store")
    refused(train(wrong), 1, wrong["store"], "the disk or quota is full", "free space", "name another store")
    store = open_store(wrong["store"])
    assert Registry(store).models() == []
    for saved in Checkpoints(store, run_of(store)).listed() if kilobytes > 4 else ():
        fetch_verified(store, saved.prefix, tmp_path / saved.id)
    assert not list(disk.folder.rglob(".regraft-tmp-*"))


def test_a_run_goes_on_when_the_disk_has_room_again(wrong: Document, train: Train, disk: Disk) -> None:
    disk.size(600)
    wrong["store"] = str(disk.folder / "store")
    assert train(wrong).code == 1
    store = open_store(wrong["store"])
    assert [info.state for info in Runs(store).list()] == ["failed"]
    assert Checkpoints(store, run_of(store)).listed()
    disk.size(20_000)
    result = train(wrong)
    assert result.code == 0
    assert "continues at step" in result.out
    assert [str(version) for version in Registry(store).versions("tiny")] == ["tiny@v1"]


def test_a_full_disk_of_temporary_files_is_reported(
    wrong: Document, train: Train, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
    for kilobytes in (4, 24):  # the data do not fit; the checkpoint that is to be registered does not
        disk.size(kilobytes)
        refused(train(wrong), 1, str(disk.folder), "the disk or quota is full", "TMPDIR")
        nothing_half_written(open_store(wrong["store"]), tmp_path / "fetched")
        assert not list(disk.folder.iterdir())


def limited_train(written: Document, folder: Path) -> CommandResult:
    """Train in another process, which may write no file of more than 50 kB."""
    (folder / "spec.yaml").write_text(yaml.safe_dump(written))
    code = in_child(limited_command, ["train", str(folder / "spec.yaml")], str(folder / "said"), 50_000)
    return CommandResult(code, "", (folder / "said").read_text())


@pytest.mark.slow
def test_a_quota_is_reported_as_a_full_disk(wrong: Document, train: Train, tmp_path: Path) -> None:
    refused(limited_train(wrong, tmp_path), 1, "a private copy of the base needs", "free space", "REGRAFT_CACHE")
    assert Registry(open_store(wrong["store"])).models() == []
    time.sleep(1.1 * SETTLED_S)  # a base that was just written is copied each time
    locate(wrong["base"])
    refused(limited_train(wrong, tmp_path), 1, wrong["store"], "the disk or quota is full")
    nothing_half_written(open_store(wrong["store"]), tmp_path / "fetched")
    assert train(wrong).code == 0
