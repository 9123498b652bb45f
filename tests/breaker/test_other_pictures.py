"""Other pictures of the same names and sizes are other rows: for a prediction that was ended, and for a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageOps

from doubles.fake_power_cut import FakePowerCut, dying
from regraft.contracts import Event, Note, Stepped
from regraft.errors import RequestError
from regraft.serving.batch.session import BatchRequest, predict_here
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.training.session import train_local
from support.image_bases import coloured, tiny_resnet
from unit.serving import tiny


def day(folder: Path, colour: tuple[int, int, int]) -> Path:
    """Write twelve BMPs, all of one size in bytes, and the table that names them."""
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (48, 40), colour).save(folder / f"{number:04d}.bmp")
    rows = folder / "rows.csv"
    rows.write_text("image\n" + "".join(f"{number:04d}.bmp\n" for number in range(12)))
    return rows


def test_a_prediction_does_not_go_on_over_other_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault 01: Monday's prediction is killed; Tuesday's pictures have the same names and sizes."""
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    store = tmp_path / "store"
    tiny.publish(store, tiny.yolos(tmp_path / "squares"), "object-detection", "full")
    monday, tuesday = day(tmp_path / "monday", (220, 20, 20)), day(tmp_path / "tuesday", (20, 20, 220))
    output = str(tmp_path / "answers.jsonl")

    def request(rows: Path) -> BatchRequest:
        return BatchRequest("tiny", str(rows), output, str(store), block_rows=4, device="cpu")

    with dying(6, kill=False), pytest.raises(FakePowerCut):
        predict_here(request(monday))
    assert list(tmp_path.glob(".answers*")), "some of it is answered"
    with pytest.raises(RequestError, match=r"changed from row 0 on since its output was begun") as refused:
        predict_here(request(tuesday))
    assert refused.value.exit_code == 2
    assert predict_here(request(monday)).rows == 12


def test_a_run_does_not_go_on_over_other_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault 03: a run is killed, its pictures are replaced in place, the same command follows."""
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    train, held_out = coloured(tmp_path / "train", each=6, seed=0), coloured(tmp_path / "eval", each=3, seed=1)
    spec = RunSpec.resolve({
        "name": "r", "base": str(tiny_resnet(tmp_path / "base")), "task": "image-classification", "method": "full",
        "data": {"train": str(train), "eval": str(held_out)}, "store": str(tmp_path / "store"),
        "training": {"epochs": 2, "batch_size": 6, "lr": 1e-3, "checkpoint_steps": 1}, "compute": {"workers": 0},
    })  # fmt: skip

    def killed(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 2:
            raise SystemExit

    with pytest.raises(SystemExit):
        train_local(spec, progress=killed)
    for path in Path(train).rglob("*.*"):
        with Image.open(path) as image:
            inverted = ImageOps.invert(image.convert("RGB"))
        inverted.save(path)
    events: list[Event] = []
    train_local(spec, progress=events.append)
    notes = [event.message for event in events if isinstance(event, Note)]
    assert any(f"the rows have changed since run {spec.run} began" in note for note in notes)
    assert Registry(open_store(spec.store)).version("r").meta["lineage"]["run"] == f"{spec.run}.2"
