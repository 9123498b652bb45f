"""`regraft select --curve`: measured on training rows, kept with the selection, shown on its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import regraft
from regraft.cli import main
from regraft.contracts import Event
from regraft.selection.curve_findings import curve_findings
from regraft.selection.curve_plot import curve_picture
from support.tiny import document, tiny_bert
from unit.selection.test_learning_curve import lawful


def quiet(event: Event) -> None:
    """Show nothing."""


def written_in(folder: Path, rows: int = 60) -> tuple[dict[str, Any], list[str]]:
    base = str(tiny_bert(folder / "base", layers=1, seed=1))
    return document(folder, method="feature-extraction", rows=rows), [base]


@pytest.mark.slow
def test_the_curve_is_kept_with_the_selection_and_rests_on_training_rows(tmp_path: Path) -> None:
    written, bases = written_in(tmp_path)
    plain = regraft.select(written, bases, progress=quiet)
    assert plain.curve == {} and "Data curve" not in Path(plain.page).read_text()
    found = regraft.select(written, bases, curve=True, progress=quiet)
    assert found.already and found.name == plain.name and found.seconds == plain.seconds
    assert [round(point["rows"]) for point in found.curve["points"]] == [5, 12, 24, 48]
    assert found.curve["rows"] == 60 and "random" in found.curve["points"][0]
    assert "Data curve" in Path(found.page).read_text()
    again = regraft.select(written, bases, curve=True, progress=quiet)
    assert again.curve == found.curve
    assert regraft.select(written, bases, progress=quiet).curve == found.curve


@pytest.mark.slow
def test_the_command_prints_what_more_labels_would_bring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, bases = written_in(tmp_path)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(written))
    assert main(["select", str(path), "--bases", bases[0], "--curve"]) == 0
    assert "twice the labels (48 to 96) would bring" in " ".join(capsys.readouterr().out.split())
    assert main(["select", str(path), "--bases", bases[0], "--curve", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["curve"]["doubled"]["rows"] == 96


def test_the_picture_has_both_curves_and_counts_of_rows() -> None:
    drawn = curve_picture(curve_findings(lawful(0.95, 0.05, 0.5), lawful(0.9, 0.1, 0.5)))
    assert "random weights" in drawn.wide and "2,000" in drawn.wide
