"""A version answers as the model that it was published from, and everything else is refused by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from regraft import plugins
from regraft.errors import (
    BaseError,
    Damaged,
    DataError,
    NotFound,
    RegraftError,
    RequestError,
    UnknownPlugin,
    Unsupported,
    WrongBase,
)
from regraft.serving.predictor import Predictor
from regraft.store import checksummed
from unit.serving.tiny import CASES, TASKS, TEXTS, alone, publish, rows_of, yolos


@pytest.mark.parametrize("kind, method", CASES)
def test_a_loaded_version_has_the_logits_it_was_saved_with_alone_or_in_a_batch(
    kind: str, method: Any, store: Path, bases: dict[str, Path], pictures: list[str]
) -> None:
    _, made = publish(store, bases[kind], TASKS[kind], method)
    column, values = rows_of(kind, pictures)
    wanted = torch.stack([alone(made, column, value) for value in values])
    predictor = Predictor.open(str(store), "tiny", device="cpu")
    torch.testing.assert_close(predictor.logits(values), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(predictor.logits(values[::-1]), wanted.flip(0), rtol=1e-5, atol=1e-5)
    for value, row in zip(values, wanted, strict=True):
        torch.testing.assert_close(predictor.logits([{column: value}])[0], row, rtol=1e-5, atol=1e-5)


@pytest.fixture
def predictor(store: Path, bases: dict[str, Path]) -> Predictor:
    publish(store, bases["cls"], "text-classification", "full")
    return Predictor.open(str(store), "tiny@v1", device="cpu")


def test_answers_come_in_the_rows_order_whatever_the_batches(predictor: Predictor) -> None:
    rows = [text for number in range(40) for text in (f"{'card ' * (number % 7)}app", "the invoice " * 9)]
    together = predictor.predict(rows)
    assert len(together) == len(rows)
    for number in (0, 1, 6, 79):
        apart = predictor.predict([rows[number]])[0]
        assert apart["label"] == together[number]["label"]
        assert apart["score"] == pytest.approx(together[number]["score"], abs=1e-5)
    assert predictor.predict([]) == []


def test_a_file_s_bytes_are_an_image(store: Path, bases: dict[str, Path], pictures: list[str]) -> None:
    publish(store, bases["squares"], {"type": "object-detection", "threshold": 0.0}, "full")
    predictor = Predictor.open(str(store), "tiny", device="cpu")
    by_path = predictor.predict(pictures)
    assert by_path == predictor.predict([Path(path).read_bytes() for path in pictures])  # type: ignore[misc]
    assert {"label", "score", "box"} == set(by_path[0]["objects"][0])


@pytest.mark.parametrize(
    "row, message",
    [
        ({"txt": "a"}, "column 'text' is missing"),
        ({"text": "a", "colour": "b"}, "Unknown column 'colour'"),
        ({"text": None}, "column 'text' is missing"),
        ({"text": 3}, "allowed is text"),
        ({"text": "  "}, "text is empty"),
        (7, "an int is given"),
    ],
)
def test_a_row_that_does_not_fit_is_named_by_its_index(predictor: Predictor, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        predictor.predict(["a", row])
    assert caught.value.where == "row 1"


def test_targets_are_ignored(predictor: Predictor) -> None:
    assert predictor.predict([{"text": "a", "label": "nothing known", "row": 7}]) == predictor.predict(["a"])


@pytest.mark.parametrize("rows", ["one text", {"text": "one text"}])
def test_one_row_that_is_not_in_a_list_is_answered(predictor: Predictor, rows: Any) -> None:
    assert predictor.predict(rows) == predictor.predict(["one text"])


def test_an_unreadable_image_is_named_by_its_row(store: Path, bases: dict[str, Path], pictures: list[str]) -> None:
    publish(store, bases["squares"], "object-detection", "full")
    predictor = Predictor.open(str(store), "tiny", device="cpu")
    with pytest.raises(DataError, match="not readable") as caught:
        predictor.predict([pictures[0], "no-such-image.png"])
    assert caught.value.where == "row 1"


def test_another_base_under_the_same_name_is_refused(
    store: Path, bases: dict[str, Path], tmp_path: Path, pictures: list[str]
) -> None:
    base = shutil.copytree(bases["cls"], tmp_path / "mine")
    version, _ = publish(store, base, "text-classification", "lora")
    (base / "config.json").write_text((base / "config.json").read_text().replace("0.1", "0.2"))
    with pytest.raises(WrongBase) as caught:
        Predictor.open(str(store), "tiny", device="cpu")
    message = str(caught.value)
    assert version.meta["base"]["hash"] in message and str(base) in message and "pass base=" in message
    assert Predictor.open(str(store), "tiny", device="cpu", base=str(bases["cls"])).predict(["a"])


def test_a_base_that_is_gone_is_named(store: Path, bases: dict[str, Path], tmp_path: Path) -> None:
    base = shutil.copytree(bases["cls"], tmp_path / "mine")
    publish(store, base, "text-classification", "lora")
    shutil.rmtree(base)
    with pytest.raises(BaseError, match="pass base=") as caught:
        Predictor.open(str(store), "tiny", device="cpu")
    assert str(base) in str(caught.value)


def test_a_flipped_byte_in_the_stored_delta_is_refused_by_name(store: Path, bases: dict[str, Path]) -> None:
    version, _ = publish(store, bases["cls"], "text-classification", "lora")
    path = store / version.prefix / "delta.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match=r"delta\.safetensors"):
        Predictor.open(str(store), "tiny", device="cpu")


def test_a_flipped_byte_in_the_cache_is_mended(store: Path, bases: dict[str, Path], cache: Path) -> None:
    publish(store, bases["cls"], "text-classification", "lora")
    wanted = Predictor.open(str(store), "tiny", device="cpu").logits(TEXTS)
    [path] = cache.rglob("delta.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)
    assert torch.equal(Predictor.open(str(store), "tiny", device="cpu").logits(TEXTS), wanted)


def forged(store: Path, prefix: str, change: Any) -> None:
    """Return a change to a manifest by an attacker who can write to the store and recompute its hash."""
    path = store / prefix / "manifest.json"
    body = json.loads(path.read_text())
    del body["sha256"]
    change(body)
    path.write_bytes(checksummed.dump(body))


@pytest.mark.parametrize("name", ["../../escaped.txt", "/tmp/escaped.txt", "processor/../../x", "a\\..\\b"])
def test_a_file_name_that_leads_out_of_the_folder_is_refused(
    store: Path, bases: dict[str, Path], cache: Path, name: str
) -> None:
    version, _ = publish(store, bases["cls"], "text-classification", "lora")
    entry = {"name": name, "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    forged(store, version.prefix, lambda body: body["files"].append(entry))
    with pytest.raises(Damaged):
        Predictor.open(str(store), "tiny", device="cpu")
    assert not (cache / "versions").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda body: body["meta"].pop("base"), "lacks its base"),
        (lambda body: body.update(files=body["files"][1:]), "lacks"),
        (lambda body: body["meta"].update(labels=["a", "b"]), "does not fit"),
    ],
)
def test_a_version_that_does_not_fit_together_is_refused(
    store: Path, bases: dict[str, Path], change: Any, message: str
) -> None:
    version, _ = publish(store, bases["cls"], "text-classification", "lora")

    def drop(body: dict[str, Any]) -> None:
        body["files"].sort(key=lambda entry: entry["name"] != "delta.safetensors")
        change(body)

    forged(store, version.prefix, drop)
    with pytest.raises(Damaged, match=message):
        Predictor.open(str(store), "tiny", device="cpu")


def test_versions_that_claim_one_id_share_no_files(store: Path, bases: dict[str, Path], cache: Path) -> None:
    first, _ = publish(store, bases["cls"], "text-classification", "full")
    second, _ = publish(store, bases["cls"], "text-classification", "lora")
    forged(store, second.prefix, lambda body: body.update(id=first.id))
    for reference in ("tiny@v1", "tiny@v2"):
        Predictor.open(str(store), reference, device="cpu")
    assert len(list((cache / "versions").iterdir())) == 2


OWN = '''
from regraft.contracts import Method


class Mine(Method):
    """Everything moves."""
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plugins, "_folders", [])
    (tmp_path / "own" / "methods").mkdir(parents=True)
    (tmp_path / "own" / "methods" / "mine.py").write_text(OWN)
    return tmp_path / "own"


def test_a_missing_plugin_is_asked_for(
    store: Path, bases: dict[str, Path], own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins.add_folder(own)
    publish(store, bases["cls"], "text-classification", "mine")
    monkeypatch.setattr(plugins, "_folders", [])
    with pytest.raises(UnknownPlugin, match=r"plugins=\[folder\].*methods/mine\.py"):
        Predictor.open(str(store), "tiny", device="cpu")
    assert Predictor.open(str(store), "tiny", device="cpu", plugins=[own]).predict(["a"])


def test_a_field_of_another_regraft_is_named(store: Path, bases: dict[str, Path]) -> None:
    version, _ = publish(store, bases["cls"], "text-classification", "lora")
    forged(store, version.prefix, lambda body: body["meta"]["method"].update(future=1))
    with pytest.raises(Unsupported, match=r"future.*made by regraft 0\.1\.0"):
        Predictor.open(str(store), "tiny", device="cpu")


def test_what_does_not_exist_is_named(store: Path, bases: dict[str, Path]) -> None:
    publish(store, bases["cls"], "text-classification", "lora")
    with pytest.raises(NotFound, match="did you mean 'tiny'"):
        Predictor.open(str(store), "tiyn")
    with pytest.raises(RequestError, match="allowed are auto, cpu"):
        Predictor.open(str(store), "tiny", device="abacus")


def test_the_version_s_own_processor_is_used(store: Path, tmp_path: Path, pictures: list[str]) -> None:
    base = yolos(tmp_path / "base")
    publish(store, base, "object-detection", "full")
    wanted = Predictor.open(str(store), "tiny", device="cpu").logits(pictures)
    path = base / "preprocessor_config.json"
    path.write_text(path.read_text().replace('"do_normalize": true', '"do_normalize": false'))
    assert "false" in path.read_text()
    assert torch.equal(Predictor.open(str(store), "tiny", device="cpu").logits(pictures), wanted)


def test_it_says_what_it_is(predictor: Predictor) -> None:
    assert predictor.name == "tiny@v1"
    assert predictor.hash == predictor.fetched.version.id
    assert predictor.labels == ("billing", "bug", "other")
    assert predictor.meta["base"]["hash"] == predictor.adapted.base.hash
    assert "tiny@v1, text-classification by full" in repr(predictor)


def test_every_refusal_is_ours(store: Path) -> None:
    with pytest.raises(RegraftError):
        Predictor.open(str(store), "Not A Name")
