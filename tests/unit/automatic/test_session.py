"""`regraft auto` as a whole: refuses, makes a model, repeats it by the spec alone, and goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.automatic import base_choice, session, trials, usable_bases
from regraft.automatic.local import compared_within
from regraft.automatic.outcome import AutoOutcome
from regraft.cli import main
from regraft.contracts import Event, NotesOnce, TrainingFacts, TrialUpdated
from regraft.data.look.look import LookRequest, look_at
from regraft.errors import RequestError
from regraft.methods.freeze import Freeze
from regraft.methods.full import Full
from regraft.report.intervals import Bootstrap, bootstrap
from regraft.spec.run import RunSpec
from regraft.store.automatic_runs import read_automatic_run, write_automatic_run
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.training import test_rows
from regraft.training.session import train_local
from support.image_bases import coloured, tiny_resnet
from support.language_models import tiny_language
from support.rectangles import rectangles, tiny_yolos
from support.tiny import WORDS, document, tickets, tiny_bert


@pytest.fixture(autouse=True)
def _few_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Try two methods at one rate, two epochs, on one thread, with few resamples; find only bases that a test names."""
    for method in (Freeze, Full):
        monkeypatch.setattr(method, "automatic", None)
    monkeypatch.setattr(trials, "RATES", (1.0,))
    monkeypatch.setattr(test_rows, "bootstrap", partial(bootstrap, options=Bootstrap(resamples=20)))
    monkeypatch.setattr(TrainingFacts, "epochs", lambda facts, steps, least, most: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("REGRAFT_SETTINGS", str(tmp_path / "settings.yaml"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_bert(tmp_path / "base")
    tickets(tmp_path / "rows.csv", 60)
    return tmp_path


def made(folder: Path, **known: Any) -> AutoOutcome:
    asked: dict[str, Any] = {"bases": [str(folder / "base")], "store": folder / "store", "progress": lambda event: None}
    return regraft.auto(known.pop("data", folder / "rows.csv"), **{**asked, **known})


def delta(store: Path | str, reference: str) -> str:
    registry = Registry(open_store(str(store)))
    return str(registry.version(*registry.parse(reference)).meta["delta_sha256"])


def test_data_become_a_model_that_its_spec_alone_repeats_bit_for_bit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = made(folder)
    assert outcome.task == "text-classification" and outcome.version == "v1" and not outcome.already
    assert outcome.test is not None and outcome.test["rows"] > 0, "measured on rows that chose nothing"
    spent = sum(outcome.budget[part] for part in ("choice", "search", "end"))
    assert spent == pytest.approx(outcome.seconds, rel=0.1), "every second of the command counts"
    assert {"majority", "nearest_centroid"} <= outcome.baselines.keys() and outcome.verdicts
    assert outcome.comparison is not None and outcome.comparison["side"] == "test"
    assert outcome.comparison["value"] == pytest.approx(outcome.test["metrics"][outcome.score])
    assert "random_weights" in {one["name"] for one in outcome.comparison["controls"]}
    assert [one["chosen"] for one in outcome.trials].count(True) == 1
    repeated = train_local(RunSpec.load(Path(outcome.spec), overrides={"store": str(folder / "other")}))
    assert delta(folder / "other", f"rows@{repeated.version}") == delta(outcome.store, "rows@v1")
    page = Path(outcome.page).read_text()
    assert all(text in page for text in ("What the data are", "random weights", str(outcome.base), outcome.run))
    assert "<script" not in page and json.loads(json.dumps(outcome.document()))
    stored = (folder / "store" / "automatic" / outcome.run / "auto.json").read_text()
    assert str(folder / "store") not in stored, "a store may move, and tells no place of its machine"
    (folder / "store").rename(folder / "moved")
    monkeypatch.setattr(session, "choose_base", None)  # a base is chosen once: what is measured would vary
    again = made(folder, store=folder / "moved")
    assert again.already and again.trials == outcome.trials and again.version == "v1"
    assert again.store == str(folder / "moved") and Path(again.spec).is_file() and Path(again.page).is_file()
    assert not (folder / "store").exists()


@pytest.mark.slow
@pytest.mark.parametrize("spent", [1.0, 600.0])
def test_an_interrupted_run_goes_on_even_when_its_time_is_over(folder: Path, spent: float) -> None:
    ended: list[str] = []

    def interrupt(event: Event) -> None:
        if isinstance(event, TrialUpdated) and event.status == "finished":
            raise KeyboardInterrupt

    def watch(event: Event) -> None:
        if isinstance(event, TrialUpdated) and event.status == "finished":
            ended.append(str(event.overrides))

    with pytest.raises(KeyboardInterrupt):
        made(folder, progress=interrupt)
    (name,) = (path.name for path in (folder / "store" / "automatic").iterdir())
    store = open_store(str(folder / "store"))
    write_automatic_run(store, name, {**(read_automatic_run(store, name) or {}), "spent": spent})
    outcome = made(folder, progress=watch)
    assert outcome.version == "v1" and len(ended) < 2, "a trial that ended is not repeated"


def test_a_budget_below_one_epoch_is_one_message(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["auto", str(folder / "rows.csv"), "--bases", str(folder / "base"), "--store", str(folder / "store")]
    assert main([*words, "--budget", "0.01s"]) == 2
    error = capsys.readouterr().err
    assert "less than one epoch of the cheapest method" in error and "write --budget" in error
    assert main([*words, "--budget", "soon"]) == 2
    assert main([*words, "--name", "No Name"]) == 2


@pytest.mark.slow
def test_controls_that_no_time_is_left_for_are_left_out_and_said(tmp_path: Path) -> None:
    spec = RunSpec.resolve(document(tmp_path, epochs=1))
    outcome = compared_within(NotesOnce(None), spec, lambda: 0.0)
    assert outcome.version == "v1" and outcome.comparison is not None
    left_out = {one["name"]: one["why"] for one in outcome.comparison["left_out"]}
    assert "budget.seconds" in left_out["random_weights"]


def test_no_base_for_the_task_is_one_message_with_each_base(tmp_path: Path) -> None:
    tiny_bert(tmp_path / "base")
    coloured(tmp_path / "pictures", each=6, seed=0)
    with pytest.raises(RequestError, match=r"no base that is there can do task image-classification: .*/base") as error:
        made(tmp_path, data=tmp_path / "pictures")
    assert "--bases" in str(error.value) and error.value.exit_code == 2


def test_a_base_that_reads_both_ways_writes_no_text(tmp_path: Path) -> None:
    data, _ = chats(tmp_path)
    tiny_bert(tmp_path / "encoder")
    with pytest.raises(RequestError, match="sees the tokens that it is to predict"):
        made(tmp_path, data=data, bases=[str(tmp_path / "encoder")])


@pytest.mark.slow
def test_of_several_bases_selection_takes_one_and_each_has_its_verdict(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bert(folder / "other", width=64, seed=3)
    tiny_resnet(folder / "pictures")
    places = [str(folder / name) for name in ("pictures", "other", "base")]
    outcome = made(folder, bases=places)
    said = {one["reference"]: one["why"] for one in outcome.bases}
    assert outcome.base in places[1:] and [one["chosen"] for one in outcome.bases].count(True) == 1
    assert "tokenizer" in said[places[0]] and all(said[place] for place in places)
    assert list((folder / "store" / "selections").iterdir()), "the selection has its own page"
    monkeypatch.setattr(base_choice, "forward_seconds", None)
    again = made(folder, bases=places)
    assert again.already and again.bases == outcome.bases, "a machine of another speed chooses the same"


def test_nothing_found_says_where_bases_are_listed(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"list it under bases: in .*settings\.yaml"):
        usable_bases.refuse_none([], look_at(LookRequest(str(folder / "rows.csv"))))


def conll(folder: Path) -> tuple[Path, Path]:
    tags = {"lamp": "B-thing", "bulb": "B-thing"}
    lines = ["\n".join(f"{word}\t{tags.get(word, 'O')}" for word in WORDS[number:]) for number in range(30)]
    (folder / "words.conll").write_text("\n\n".join(lines))
    return folder / "words.conll", tiny_bert(folder / "base")


def ratings(folder: Path) -> tuple[Path, Path]:
    texts = [" ".join(WORDS[number % 30 : number % 30 + 9]) for number in range(60)]
    rows = [f"{number}\t{number % 17 * 0.31:.2f}\t{text}" for number, text in enumerate(texts)]
    (folder / "ratings.txt").write_text("\n".join(rows))
    return folder / "ratings.txt", tiny_bert(folder / "base")


def chats(folder: Path) -> tuple[Path, Path]:
    said = (("user", "is it {}"), ("assistant", "it is {}"))
    turns = [[{"role": role, "content": text.format(n)} for role, text in said] for n in range(60)]
    (folder / "chats.jsonl").write_text("\n".join(json.dumps({"messages": one}) for one in turns))
    return folder / "chats.jsonl", tiny_language(folder / "base")


def pictures(folder: Path) -> tuple[Path, Path]:
    return coloured(folder / "colours", each=16, seed=0), tiny_resnet(folder / "base")


def boxes(folder: Path) -> tuple[Path, Path]:
    (folder / "boxes").mkdir()
    rectangles(folder / "boxes", images=30, seed=0)
    return folder / "boxes", tiny_yolos(folder / "base")


MADE: dict[str, Callable[[Path], tuple[Path, Path]]] = {
    "token-classification": conll,
    "text-regression": ratings,
    "text-generation": chats,
    "image-classification": pictures,
    "object-detection": boxes,
}


@pytest.mark.slow
@pytest.mark.parametrize("task", MADE)
def test_every_kind_of_data_becomes_a_model(task: str, tmp_path: Path) -> None:
    data, base = MADE[task](tmp_path)
    outcome = made(tmp_path, data=data, bases=[str(base)])
    assert outcome.task == task and outcome.version == "v1"
    assert outcome.test is not None and Path(outcome.page).exists() and Path(outcome.spec).exists()
