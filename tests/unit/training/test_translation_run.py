"""Translation and summarization end to end: from a file of pairs to a version that generates and exports."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from sacrebleu.metrics import CHRF
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import regraft
from regraft.serving.export import export
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.training.session import train_local
from support.paths import SHARED
from support.processes import on_ranks
from support.translators import translator

DATA = SHARED / "data"
NUMBERS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))


def written(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def counted() -> list[tuple[str, str]]:
    """Every pair of numbers in words, and the same in German."""
    return [(f"{one} {two}", f"{NUMBERS[one]} {NUMBERS[two]}") for one in NUMBERS for two in NUMBERS]


def document(folder: Path, base: Path, task: Any, rows: str, **training: Any) -> dict[str, Any]:
    return {
        "name": "writer",
        "base": str(base),
        "task": task,
        "method": "full",
        "data": {"train": rows, "eval": rows},
        "training": {"epochs": 1, "batch_size": 12, "lr": 3e-3, **training},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(folder / "store"),
    }


@pytest.mark.parametrize("family", ["t5", "marian"])
def test_a_run_becomes_a_version_that_translates_and_an_export_that_does_the_same(tmp_path: Path, family: str) -> None:
    pairs = counted()
    base = translator(tmp_path / "base", family, [text for pair in pairs for text in pair])
    rows = written(tmp_path / "rows.jsonl", ({"source": one, "target": two} for one, two in pairs))
    task = {"type": "translation", "max_target_length": 10, "eval_samples": 8, "beams": 1}
    spec = RunSpec.resolve(document(tmp_path, base, task, rows, epochs=12, eval_steps=36, dropout=0.0))
    outcome = train_local(spec)
    assert set(outcome.metrics) == {"chrf", "bleu", "loss", "cut", "written"}
    assert outcome.metrics["written"] == pytest.approx(8 / 36)
    assert outcome.metrics["loss"] < 2.0
    model = regraft.load("writer", store=outcome.store)
    asked = [source for source, _ in pairs[:10]]
    answers = model.predict(asked)
    assert answers == model.predict([{"source": text} for text in asked])
    assert answers[3] == model.predict([asked[3]])[0]
    export(outcome.store, "writer", tmp_path / "out")
    exported = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    with torch.inference_mode():
        ids = exported.generate(**tokenizer(asked, return_tensors="pt", padding=True))
    texts = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    assert texts == [answer["translation_text"] for answer in answers]
    assert len(set(texts)) > 1
    start = {
        "input_ids": tokenizer(asked[0])["input_ids"],
        "decoder_input_ids": [exported.config.decoder_start_token_id],
    }
    with torch.inference_mode():
        logits = exported(**{name: torch.tensor([value]) for name, value in start.items()}).logits
    torch.testing.assert_close(logits[0], model.logits([asked[0]])[0], rtol=1e-5, atol=1e-5)


def test_a_summary_has_several_references_and_the_version_answers_under_its_own_key(tmp_path: Path) -> None:
    texts = [f"{one} and {two} and nothing else, said {one}" for one, two in counted()]
    rows = [
        {"dialogue": text, "summaries": [f"{text.split()[0]} spoke", f"{text.split()[2]} was named"]} for text in texts
    ]
    base = translator(tmp_path / "base", "bart", texts + [text for row in rows for text in row["summaries"]])
    written_document = document(
        tmp_path, base, {"type": "summarization", "max_target_length": 8}, written(tmp_path / "rows.jsonl", rows)
    )
    written_document["data"]["columns"] = {"text": "dialogue", "summary": "summaries"}
    outcome = train_local(RunSpec.resolve({**written_document, "method": "lora"}))
    assert set(outcome.metrics) == {"rouge1", "rouge2", "rougeL", "chrf", "loss", "cut", "written"}
    (answer,) = regraft.load("writer", store=outcome.store).predict([texts[0]])
    assert list(answer) == ["summary_text"]


@pytest.mark.parametrize("strategy", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_two_ranks_write_what_one_writes(tmp_path: Path, strategy: str) -> None:
    """Of an odd number of rows one is written, by one rank: sharded, the other must not stay behind."""
    pairs = counted()[:15]
    base = translator(tmp_path / "base", "marian", [text for pair in pairs for text in pair])
    rows = written(tmp_path / "rows.jsonl", ({"source": one, "target": two} for one, two in pairs))
    task = {"type": "translation", "max_target_length": 10, "eval_samples": 1}
    found = []
    for world in (1, 2):
        document_of = document(tmp_path, base, task, rows, epochs=2, batch_size=5, dropout=0.0, optimizer="sgd")
        document_of |= {"store": str(tmp_path / f"store{world}")}
        document_of["compute"] = {"workers": 0, "cpus": 1, "strategy": strategy}
        if world == 1:
            train_local(RunSpec.resolve(document_of))
        else:
            on_ranks(world, document_of, str(tmp_path / "journal"))
        run = RunSpec.resolve(document_of).run
        lines = Runs(open_store(document_of["store"])).read(run, "metrics.jsonl").decode().splitlines()
        found.append([line for line in map(json.loads, lines) if "eval_chrf" in line])
    assert len(found[0]) == 2
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.slow
def test_two_hundred_captions_are_learned_by_heart(tmp_path: Path) -> None:
    """Over-fitting from random weights: what is wrong with targets, shift, masks or writing keeps it from 90."""
    if not (DATA / "multi30k").is_dir():
        pytest.skip(f"no Multi30k in {DATA}: set REGRAFT_SHARED to the folder that holds data/multi30k")
    english, german = (captions(language, 200) for language in ("en", "de"))
    base = translator(tmp_path / "base", "t5", english + german, width=128, words=2000)
    pairs = ({"source": one, "target": two} for one, two in zip(english, german, strict=True))
    task = {"type": "translation", "max_target_length": 64, "beams": 1}
    training = {"epochs": 40, "batch_size": 20, "lr": 2e-3, "eval_steps": 400, "dropout": 0.0}
    spec = RunSpec.resolve(document(tmp_path, base, task, written(tmp_path / "rows.jsonl", pairs), **training))
    outcome = train_local(spec)
    print({name: round(value, 3) for name, value in outcome.metrics.items()}, f"{outcome.seconds:.0f} s")
    assert outcome.metrics["chrf"] >= 90
    answers = regraft.load("writer", store=outcome.store).predict(english)
    texts = [answer["translation_text"] for answer in answers]
    assert CHRF().corpus_score(texts, [german]).score == pytest.approx(outcome.metrics["chrf"], abs=0.5)


def captions(language: str, count: int) -> list[str]:
    with gzip.open(DATA / "multi30k" / f"train.{language}.gz", "rt", encoding="utf-8") as file:
        return [line.strip() for line, _ in zip(file, range(count), strict=False)]
