"""What a selection keeps, when its record answers, and what a refusal leaves: nothing that was decided is lost."""

from __future__ import annotations

import argparse
import gc
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertModel

import regraft
from regraft.cli import main
from regraft.cli.select import next_command
from regraft.contracts import Event, Note
from regraft.errors import BaseError, DataError, Unsupported
from regraft.store.objects import open_store
from regraft.store.selections import read_selection, selections, write_selection
from unit.every.rows import base_of, task_of
from unit.every.test_frozen_of_every_task import spec_of
from unit.selection.test_select import quiet, rows_of_bases, spec_in, two_bases

FREEZE = {"type": "freeze", "depth": 1}


def command(args: list[str], store: str | None = None) -> argparse.Namespace:
    return argparse.Namespace(spec="my spec.yaml", set=args, store=store)


def test_the_next_command_trains_on_the_same_rows_into_the_same_store() -> None:
    assert next_command(command([]), "org/a") == "regraft train 'my spec.yaml' --set base=org/a"
    found = next_command(command(["data.train=a b.csv", "base=org/b"], "s3://x/y"), "org/a")
    assert found == "regraft train 'my spec.yaml' --set 'data.train=a b.csv' --set base=org/a --store s3://x/y"


@pytest.mark.parametrize(("method", "trunk"), [("prototypes", "disk"), (FREEZE, "memory"), (FREEZE, "off")])
def test_warm_is_refused_before_a_base_is_read(
    method: Any, trunk: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = spec_in(tmp_path, method, rows=12)
    written["compute"]["trunk"] = trunk
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(written))
    absent = str(tmp_path / "no/such/base")
    code = main(["select", str(tmp_path / "spec.yaml"), "--json", "--warm", "--bases", absent])
    message = json.loads(capsys.readouterr().out)["error"]["message"]
    assert code == 2 and "leave out --warm" in message and absent not in message


def broken(folder: Path) -> str:
    """A base with one weight that is no number."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights[next(name for name in weights if "LayerNorm" in name)].fill_(torch.nan)
    save_file(weights, path, metadata={"format": "pt"})
    return str(folder)


@pytest.mark.slow
def test_a_refusal_after_the_choice_loses_nothing(tmp_path: Path) -> None:
    written, bases = spec_in(tmp_path, FREEZE, rows=24), two_bases(tmp_path)[:1]
    written["compute"]["trunk_gb"] = 1e-6
    with pytest.raises(Unsupported, match=r"compute\.trunk_gb"):
        regraft.select(written, bases, sample=12, warm=True, progress=quiet)
    assert len(selections(open_store(written["store"]))) == 1
    assert regraft.select(written, bases, sample=12, progress=quiet).already


@pytest.mark.slow
def test_a_base_without_numbers_is_named_or_left_out_and_one_model_is_held(tmp_path: Path) -> None:
    written, bases = spec_in(tmp_path, FREEZE, rows=24), two_bases(tmp_path)
    bases.insert(0, broken(Path(bases[0])))
    bases[1] = two_bases(tmp_path / "good")[0]
    held: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, Note) and event.message.startswith("base "):
            held.append(sum(type(one) is BertModel for one in gc.get_objects()))

    outcome = regraft.select(written, bases, skip_bad=True, progress=watch)
    assert held == [held[0]] * 3  # no model of an earlier base is left when the next one is loaded
    assert len(outcome.bases) == 2 and len(outcome.left_out) == 1 and "no finite numbers" in outcome.left_out[0]
    with pytest.raises(BaseError, match="no finite numbers"):
        regraft.select(written, bases, progress=quiet)
    notes: list[str] = []
    again = regraft.select(
        written, bases, skip_bad=True, progress=lambda one: notes.append(one.message) if isinstance(one, Note) else None
    )
    assert again.already and any("left out" in text for text in notes)


@pytest.mark.slow
@pytest.mark.parametrize("bad_rows", ["skip", "fail"])
def test_a_token_that_one_base_lacks_costs_its_row_or_that_base(bad_rows: str, tmp_path: Path) -> None:
    written, bases = spec_in(tmp_path, rows=24), two_bases(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(bases[1])
    tokenizer.add_tokens(["quux"])
    tokenizer.save_pretrained(bases[1])
    path = tmp_path / "train.csv"
    path.write_text(path.read_text() + "quux lamp,light\nlamp bulb,light\n")
    written["data"]["bad_rows"] = bad_rows
    outcome = regraft.select(written, bases, skip_bad=True, progress=quiet)
    names = [Path(one["base"]).name for one in outcome.bases]
    if bad_rows == "skip":
        assert sorted(names) == ["base-1", "base-2"] and outcome.rows["train"] == 25
    else:
        assert names == ["base-1"] and outcome.rows["train"] == 26 and "quux" in outcome.left_out[0]


@pytest.mark.slow
def test_a_record_answers_only_what_it_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    written, base = spec_in(here, "full", rows=24), two_bases(here)[0]
    monkeypatch.chdir(here)
    first = regraft.select(written, [base], progress=quiet)
    assert regraft.select(written, [base], progress=quiet).already
    frozen = {**written, "method": FREEZE}
    second = regraft.select(frozen, [base], progress=quiet)  # outputs are kept for a run of it too
    assert not second.already and second.name == first.name and rows_of_bases(second)["base-1"][1] >= 0
    assert all(regraft.select(one, [base], progress=quiet).already for one in (written, frozen))
    here.rename(there)
    monkeypatch.chdir(there)
    moved = json.loads(json.dumps(frozen).replace(str(here), str(there)))
    found = regraft.select(moved, [base.replace(str(here), str(there))], progress=quiet)
    assert found.already and found.name == first.name
    assert str(here) not in json.dumps(found.document()) and str(there) in found.base
    store = open_store(moved["store"])
    record = read_selection(store, found.name)
    assert record is not None
    write_selection(store, found.name, {**record, "scoring": record["scoring"] - 1})
    assert not regraft.select(moved, [found.base], progress=quiet).already


def pictures(folder: Path, made: Callable[[int], tuple[int, int, int]]) -> dict[str, Any]:
    """A spec of pictures that are augmented in training."""
    base_of("mobilenet_v2", folder / "base")
    written = {**spec_of(task_of("image-classification"), "feature-extraction", folder), "store": str(folder / "store")}
    lines = []
    for number in range(16):
        picture = io.BytesIO()
        Image.new("RGB", (32, 32), made(number)).save(picture, "png")
        (folder / f"{number}.png").write_bytes(picture.getvalue())
        lines.append(json.dumps({"image": str(folder / f"{number}.png"), "label": "ab"[number % 2]}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    written["data"] = {"train": str(folder / "train.jsonl"), "eval": str(folder / "train.jsonl"), "augment": "light"}
    return written


@pytest.mark.slow
def test_pictures_that_are_augmented_in_training_are_read_in_one_pass(tmp_path: Path) -> None:
    written = pictures(tmp_path, lambda number: (15 * number, 200 * (number % 2), 7))
    outcome = regraft.select(written, [written["base"]], progress=quiet)
    (found,) = outcome.bases
    assert "KeyError" not in found["note"] and found["kept"] == [] and found["operations"] > 0
    again = regraft.select(written, [written["base"]], fresh=True, progress=quiet)
    assert again.bases[0]["rows"] == {"computed": 0, "found": 16}


@pytest.mark.slow
def test_copies_of_one_picture_are_alike(tmp_path: Path) -> None:
    written = pictures(tmp_path, lambda number: (9, 9, 9))
    with pytest.raises(DataError, match="all training rows are alike"):
        regraft.select(written, [written["base"]], progress=quiet)
