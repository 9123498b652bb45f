"""What a base cannot read of the texts is said when a run is prepared, in the card, and when a version is evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import regraft
from regraft.bases.load import BaseLoader, load_processor, surplus_note
from regraft.bases.locate import locate
from regraft.contracts import Event, Note
from regraft.errors import DataError
from regraft.evaluation.evaluate import evaluate
from regraft.evaluation.options import EvaluationOptions
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.training.prepare import build_rows
from regraft.training.session import train_local
from support.tiny import document, tiny_bert
from unit.training.test_words_and_pictures import sentences


def larger_tokenizer(folder: Path, *tokens: str, special: bool = False) -> Path:
    """Save a base whose tokenizer has tokens that its table of embeddings lacks."""
    tiny_bert(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(tokens), special_tokens=special)
    tokenizer.save_pretrained(folder)
    return folder


def prepared(written: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return the rows of a spec, and the notes."""
    spec, seen = RunSpec.resolve(written), []

    def progress(event: Event) -> None:
        seen.extend([event.message] if isinstance(event, Note) else [])

    return build_rows(open_store(spec.store), spec, locate(spec.base), progress), seen


def test_surplus_tokens_are_named_once_with_both_numbers_and_the_way_out(tmp_path: Path) -> None:
    base = larger_tokenizer(tmp_path / "base", "zylkomat", "hums")
    snapshot, seen = prepared({**document(tmp_path / "work"), "base": str(base)})
    (note,) = seen
    assert "the tokenizer has 52 tokens, the embedding table 50 rows" in note
    assert "'zylkomat', 'hums'" in note and "resize_token_embeddings(52)" in note and "remove the added tokens" in note
    assert snapshot.notes == (note,)


def test_a_row_with_a_surplus_token_is_named_before_training(tmp_path: Path) -> None:
    base = larger_tokenizer(tmp_path / "base", "zylkomat")
    written = document(tmp_path / "work")
    with Path(written["data"]["train"]).open("a") as file:
        file.write("the zylkomat is on,money\n")
    written["base"] = str(base)
    with pytest.raises(DataError, match=r"train\.csv:62: holds 'zylkomat', token 50 of the tokenizer"):
        prepared(written)


KINDS: dict[str, tuple[str, list[str]]] = {
    "text-classification": ("{text},{label}", ["a", "b"]),
    "text-multi-label": ("{text},{label}", ["a", "b"]),
    "text-regression": ("{text},{label}", ["1", "2"]),
    "text-generation": ("{text}", [""]),
}


@pytest.mark.parametrize("task", [*KINDS, "token-classification"])
def test_rows_that_the_base_cannot_read_are_skipped_where_bad_rows_are(task: str, tmp_path: Path) -> None:
    good = [
        f"{first} {second} is on" for first in ("the", "a", "no", "my") for second in ("lamp", "light", "red", "it")
    ]
    bad = ["the zylkomat hums", "zylkomat on"]
    base = larger_tokenizer(tmp_path / "base", "zylkomat")
    written: dict[str, Any] = {**document(tmp_path / "work"), "task": task, "base": str(base)}
    written["data"] = {"eval": 0.3, "bad_rows": "skip", **table(task, tmp_path, good + bad)}
    snapshot, seen = prepared(written)
    if task != "text-generation":  # whose rows are packed into blocks
        assert len(snapshot.train) + len(snapshot.eval) == len(good)
    assert snapshot.skipped["train"] + snapshot.skipped["eval"] == len(bad)
    assert all("holds 'zylkomat', token 50" in line for line in snapshot.skipped["rows"])
    assert any("left out" in line for line in seen)
    written["data"]["bad_rows"] = "fail"
    with pytest.raises(DataError, match=r"(?s)2 rows cannot be used: .*holds 'zylkomat', token 50"):
        prepared(written)


def table(task: str, folder: Path, texts: list[str]) -> dict[str, Any]:
    """Write rows of a task, and return what the spec says about them."""
    if task == "token-classification":
        path = folder / "rows.conll"
        path.write_text("\n\n".join("\n".join(f"{word}\tO" for word in text.split()) for text in texts) + "\n")
        return {"train": str(path)}
    form, labels = KINDS[task]
    names = {"text-multi-label": "text,labels", "text-regression": "text,target", "text-generation": "text"}.get(task)
    lines = [form.format(text=text, label=labels[at % len(labels)]) for at, text in enumerate(texts)]
    path = folder / "rows.csv"
    path.write_text("\n".join([names or "text,label", *lines]) + "\n")
    return {"train": str(path)}


def test_a_finished_run_with_such_rows_is_known_again(tmp_path: Path) -> None:
    base = larger_tokenizer(tmp_path / "base", "zylkomat")
    written = {**document(tmp_path / "work", epochs=1, rows=24, eval_rows=12), "base": str(base)}
    written["data"]["bad_rows"] = "skip"
    with Path(written["data"]["train"]).open("a") as file:
        file.write("the zylkomat is on,money\n")
    spec = RunSpec.resolve(written)
    assert not train_local(spec).already
    assert train_local(spec).already


def test_special_tokens_and_a_larger_table_are_normal(tmp_path: Path) -> None:
    base = locate(str(larger_tokenizer(tmp_path / "base", "<extra>", special=True)))
    assert surplus_note(load_processor(base, "text"), BaseLoader(base).config) is None


def test_a_text_that_a_version_cannot_read_spoils_no_other(tmp_path: Path) -> None:
    base = larger_tokenizer(tmp_path / "base", "zylkomat")
    outcome = train_local(RunSpec.resolve({**document(tmp_path / "work", rows=12, eval_rows=6), "base": str(base)}))
    model = regraft.load("tiny", store=outcome.store)
    rows = [{"text": text, "row": number} for number, text in enumerate(("lamp is on", "the zylkomat hums"))]
    good, bad = model.attempt(rows)
    assert good["label"] in model.labels
    assert isinstance(bad, DataError) and "holds 'zylkomat'" in str(bad)


def test_cut_texts_and_plain_texts_are_reported_everywhere(tmp_path: Path) -> None:
    data = {side: str(sentences(tmp_path / f"{side}.conll", 20, 3)) for side in ("train", "eval")}
    written = {
        **document(tmp_path / "work"),
        "task": {"type": "token-classification", "max_length": 6},
        "data": data,
        "base": str(tiny_bert(tmp_path / "base")),
    }
    outcome = train_local(RunSpec.resolve(written))
    store = open_store(outcome.store)
    (info,) = Runs(store).list()
    notes = (Runs(store).find(info.name) or {})["notes"]
    said = "training rows are longer than 6 tokens and are cut"
    assert any(said in note and "task.max_length up to 64 reads more" in note for note in notes)
    version = Registry(store).version("tiny", "v1")
    assert version.meta["lineage"]["data"]["notes"] == notes
    assert said in store.get(f"{version.prefix}card.md").decode()
    options = EvaluationOptions(output=tmp_path / "out", resamples=0)
    found = evaluate(store, "tiny", data["eval"], options=options)
    content = json.loads(found.json.read_text())
    assert any("evaluated rows are longer than 6 tokens" in note for note in content["notes"])
    assert content["other_form"]["metrics"]["f1"] == pytest.approx(content["metrics"]["f1"])
    assert content["other_form"]["metrics"]["same_words"] == 1
    assert content["findings"]["tables"][-1]["title"] == "Forms of a request"
    assert "plain text" in found.html.read_text()


def test_of_several_bases_each_must_read_every_row(tmp_path: Path) -> None:
    one = larger_tokenizer(tmp_path / "one", "zylkomat")
    other = larger_tokenizer(tmp_path / "other", "hums")
    written = document(tmp_path / "work", rows=12)
    with Path(written["data"]["train"]).open("a") as file:
        file.write("the zylkomat is new,light\nit hums,light\nthe lamp is old,light\n")
    written["data"]["bad_rows"] = "skip"
    spec = RunSpec.resolve({**written, "base": str(one)})
    store, bases = open_store(spec.store), [locate(str(one)), locate(str(other))]
    counts = [build_rows(store, spec, base, None).counts["train"] for base in bases]
    both = build_rows(store, spec, bases, None)
    assert counts == [14, 14] and both.counts["train"] == 13
    assert {note.partition(":")[0] for note in both.notes} == {"one", "other"}
    assert build_rows(store, spec, bases[::-1], None).fingerprint == both.fingerprint
