"""A base that is overwritten, cut, replaced or removed while it is used changes no answer and ends no process."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from regraft.bases import private_copy
from regraft.bases.locate import change_on_disk, locate
from regraft.endpoint.base_watch import BaseWatch
from regraft.errors import BaseError, WrongBase
from regraft.serving.engine.engine import Engine
from regraft.serving.predictor import Predictor
from regraft.store.machine_cache import cached_folders
from support.tiny import document, tiny_bert
from unit.endpoint.model_store import Endpoint, ModelStore

TEXTS = ["the wifi lamp is broken", "a refund of the invoice", "my account"]

SERVES = """
import json, sys, time
from regraft.serving.predictor import Predictor
from regraft.serving.engine.engine import Engine
store, rounds = sys.argv[1], int(sys.argv[2])
found = Predictor.open(store, "text-classification", device="cpu")
for number in range(rounds):
    print(json.dumps(found.predict(json.loads(sys.argv[3]))), flush=True)
    sys.stdin.readline()
"""

TRAINS = """
import sys
from pathlib import Path
import regraft, yaml
from regraft.errors import RegraftError
try:
    print("trained", regraft.train(yaml.safe_load(Path(sys.argv[1]).read_text())))
except RegraftError as error:
    print("refused", error)
"""


HOLDS = """
import sys
from regraft.bases.locate import locate
base = locate(sys.argv[1])
print(base.path, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shop(tmp_path: Path) -> ModelStore:
    made = ModelStore(tmp_path)
    made.add()
    return made


def overwrite(folder: Path, draw: random.Random) -> None:
    """Write other bytes over a part of a file, in place."""
    path = draw.choice(sorted(folder.glob("*.safetensors")))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(draw.randrange(size // 2, size - 64))
        file.write(draw.randbytes(64))


def truncate(folder: Path, draw: random.Random) -> None:
    path = draw.choice(sorted(folder.glob("*.safetensors")))
    os.truncate(path, draw.choice([0, 8, path.stat().st_size // 2]))


def replace(folder: Path, draw: random.Random) -> None:
    """Put another file in the place of one, by a rename."""
    path = draw.choice(sorted(folder.glob("*.safetensors")))
    other = path.with_suffix(".other")
    other.write_bytes(path.read_bytes()[:-16] + draw.randbytes(16))
    other.rename(path)


def empty_json(folder: Path, draw: random.Random) -> None:
    draw.choice([folder / "config.json", folder / "tokenizer.json"]).write_text("")


def remove(folder: Path, draw: random.Random) -> None:
    shutil.rmtree(folder)


HARMS: tuple[Callable[[Path, random.Random], None], ...] = (overwrite, truncate, replace, empty_json, remove)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("settled_s", [2.0, -60.0], ids=["just-written", "settled"])
def test_a_loaded_model_answers_from_the_base_that_was_hashed(
    seed: int, settled_s: float, shop: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_copy, "SETTLED_S", settled_s)
    draw, folder = random.Random(seed), shop.bases["bert"].found_at
    engine = Engine(shop.store, device="cpu")
    served = engine.open("text-classification", "v1")
    predictor = Predictor.open(shop.store, "text-classification", device="cpu")
    before = predictor.predict(TEXTS)
    HARMS[seed](folder, draw)
    assert predictor.predict(TEXTS) == before
    watch = BaseWatch(engine.bases, 3600)
    watch.compare()
    watch.close()
    # A tokenizer is stored with its version, so that another one beside the base changes no answer.
    assert watch.changed or HARMS[seed] is empty_json
    assert served.loaded.frame.weights.base.path.is_dir()


@pytest.mark.parametrize("seed", range(3))
def test_a_new_load_of_another_base_is_refused_by_name(seed: int, shop: ModelStore) -> None:
    folder = shop.bases["bert"].found_at
    kept = Path(shutil.copytree(folder, shop.folder / "kept"))
    HARMS[seed](folder, random.Random(seed))
    with pytest.raises((WrongBase, BaseError), match="text-classification@v1") as caught:
        shop.predict("text-classification", TEXTS)
    assert "hash" in str(caught.value) or "cut" in str(caught.value) or "model.safetensors" in str(caught.value)
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    assert shop.predict("text-classification", TEXTS)


def test_files_of_the_same_size_and_time_are_distinguished(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "base")
    before = locate(str(folder))
    weights = folder / "model.safetensors"
    at, content = weights.stat(), weights.read_bytes()
    weights.write_bytes(content[:-4] + b"\1\2\3\4")
    os.utime(weights, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert locate(str(folder)).hash != before.hash
    assert "is another base now" in str(change_on_disk(before))
    weights.write_bytes(content)
    assert change_on_disk(before) is None
    assert locate(str(folder)) == before


def test_a_damaged_copy_is_not_used(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "base")
    before = locate(str(folder))
    os.truncate(before.path / "model.safetensors", 100)
    again = locate(str(folder))
    assert again.hash == before.hash
    assert (again.path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_weights_of_the_hubs_cache_are_used_in_place_if_their_name_is_their_hash(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "saved")
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    shutil.copytree(folder, snapshot)
    name = private_copy.file_hash(snapshot / "model.safetensors")
    (snapshot / "model.safetensors").rename(blobs / name)
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{name}")
    base = locate(str(snapshot))
    assert base.hash == locate(str(folder)).hash
    assert sum(copy.path == base.path for copy in cached_folders()) == 1
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "hub", other, symlinks=True)
    with (other / "blobs" / name).open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    lying = locate(str(other / "snapshots" / "abc"))
    assert lying.hash != base.hash
    assert not (lying.path / "model.safetensors").is_symlink()


def test_a_copy_that_another_process_holds_stays(tmp_path: Path, cache: Path) -> None:
    folder = str(tiny_bert(tmp_path / "base"))
    command = [sys.executable, "-c", HOLDS, folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        path = Path(child.stdout.readline().strip())
        [copy] = [one for one in cached_folders() if one.path == path]
        assert not copy.remove() and (path / "model.safetensors").is_file()
        child.stdin.write("\n")
        child.stdin.close()
        child.wait()
        assert copy.remove() and not path.exists()


def test_a_change_of_a_base_in_use_is_seen_over_http(shop: ModelStore) -> None:
    folder, weights = shop.bases["bert"].found_at, shop.bases["bert"].found_at / "model.safetensors"
    content = weights.read_bytes()

    def changed(endpoint: Endpoint, expected: list[str]) -> bool:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            reply = endpoint.get("/readyz")
            assert reply.status == 200 and str(folder) not in reply.body.decode()
            if reply.document.get("changed_bases", []) == expected:
                return True
            time.sleep(0.05)
        return False

    with shop.open() as endpoint:
        before = endpoint.ask("/models/text-classification", {"inputs": TEXTS[0]}).document
        assert changed(endpoint, [])
        weights.write_bytes(content[:-4] + b"\1\2\3\4")
        assert changed(endpoint, [shop.bases["bert"].hash])
        assert endpoint.ask("/models/text-classification", {"inputs": TEXTS[0]}).document == before
        weights.write_bytes(content)
        assert changed(endpoint, [])


def test_a_cache_that_cannot_be_written_costs_no_safety(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the folder should be")
    folder = tiny_bert(tmp_path / "base")
    base = locate(str(folder))
    assert not base.path.is_relative_to(folder)
    assert (base.path / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_a_process_that_answers_is_never_ended_by_a_signal(seed: int, shop: ModelStore) -> None:
    draw, folder = random.Random(seed), shop.bases["bert"].found_at
    command = [sys.executable, "-c", SERVES, shop.store, "3", json.dumps(TEXTS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin
        assert child.stdout
        answers = []
        for harm in (truncate, *draw.sample(HARMS[:3], 2)):
            answers.append(child.stdout.readline())
            harm(folder, draw) if (folder / "model.safetensors").stat().st_size > 200 else None
            child.stdin.write("\n")
            child.stdin.flush()
    assert child.returncode == 0
    assert answers[0].startswith("[")
    assert answers == [answers[0]] * 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_training_ends_with_a_model_of_the_hashed_base_or_says_why(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    spec = document(tmp_path / "run", method=draw.choice(["full", "feature-extraction"]), rows=200, epochs=3)
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    folder = Path(str(spec["base"]))
    kept = Path(shutil.copytree(folder, tmp_path / "kept"))
    command = [sys.executable, "-c", TRAINS, str(tmp_path / "spec.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        time.sleep(draw.uniform(4.0, 9.0))
        HARMS[seed % len(HARMS)](folder, draw)
        if seed % 2:  # swapped back
            time.sleep(draw.uniform(0.0, 1.0))
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(kept, folder)
        output, errors = child.communicate(timeout=120)
    assert child.returncode == 0, signal.Signals(-child.returncode) if child.returncode < 0 else errors
    assert output.startswith(("trained", "refused"))
    if output.startswith("refused"):
        assert "base" in output
