"""Summarization: ROUGE is rouge-score's, the best of several references counts, other scripts are not lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.locate import locate
from regraft.contracts import Method, Record, Task
from regraft.tasks.summarization import Summarization
from support.translators import translator

LONG = "#Person1#: the lamp is off. #Person2#: please turn it on. " * 12
ROWS: list[dict[str, Any]] = [
    {"row": 0, "text": LONG, "summary": ["the lamp is off", "someone turns the lamp on", "a lamp"]},
    {"row": 1, "text": "#Person1#: hello, how are you?", "summary": ["they greet"]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [text for row in ROWS for text in (row["text"], *row["summary"])]
    return translator(tmp_path_factory.mktemp("base"), "t5", texts)


def made(folder: Path, **fields: Any) -> Adapted:
    task = Task.parse({"type": "summarization", "max_target_length": 12, **fields})
    assert isinstance(task, Task)
    return adapt(locate(str(folder)), Adaptation(task=task, method=Method.lookup("full")(), labels=(), seed=0))


def record(text: str, *references: str, task: Summarization | None = None) -> Record:
    compared = (task or Summarization()).compared(text, references)
    return {"text": text, "references": list(references), "length": 9, "cut": 0, "loss": 1.0, "weight": 1} | compared


def test_a_dialogue_becomes_metrics_and_an_answer(folder: Path) -> None:
    adapted = made(folder, prefix="summarize: ", max_length=64)
    task, context = adapted.task, adapted.context
    batch = task.collate([task.encode(row, context, train=False) for row in ROWS], context)
    assert batch["input_ids"].shape == (2, 64)
    with torch.inference_mode():
        output = task.eval_forward(adapted.forward, adapted.model, batch, context)
        answers = task.answers(task.predict_forward(adapted.forward, adapted.model, batch, context), batch, context)
    metrics = task.metrics(task.records(output, batch, context), context)
    assert set(metrics) == {"rouge1", "rouge2", "rougeL", "chrf", "loss", "cut", "written"}
    assert metrics["cut"] == 0.5 and task.score.name in metrics
    assert [list(answer) for answer in answers] == [["summary_text"]] * 2
    assert [answer["summary_text"] for answer in answers] == [output.texts[0], output.texts[1]]


def test_long_texts_and_long_summaries_are_both_counted(folder: Path) -> None:
    adapted = made(folder, max_length=32, max_target_length=8)
    long = {**ROWS[1], "summary": ["the lamp is off and someone turns the lamp on again"]}
    texts, summaries = adapted.task.text_lengths([*ROWS, long], adapted.context)
    assert [count > texts.limit for count in texts.tokens] == [True, False, False]
    assert [count > summaries.limit for count in summaries.tokens] == [False, False, True]
    assert (texts.what, summaries.what, summaries.setting) == ("text", "summary", "task.max_target_length")


def test_rouge_is_rouge_scores_in_points_of_100() -> None:
    texts = [("the lamps were turned off today", "someone turned the lamp off"), ("they greet", "two people meet")]
    found = Summarization().scores([record(text, reference) for text, reference in texts])
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for name in ("rouge1", "rouge2", "rougeL"):
        wanted = [scorer.score(reference, text)[name].fmeasure for text, reference in texts]
        assert found[name] == pytest.approx(100 * sum(wanted) / 2)
    assert 0 < found["rouge2"] < found["rougeL"] < 100


def test_the_nearest_of_several_summaries_counts() -> None:
    alone, several = record("a red lamp", "they greet"), record("a red lamp", "they greet", "a red lamp")
    assert (alone["rougeL"], several["rougeL"]) == (0, 100)
    assert (alone["error"], several["error"]) == (100, 0)


@pytest.mark.parametrize(
    ("words", "text", "reference"),
    [("intl", "красная лампа горит", "красная лампа погасла"), ("zh", "红色的灯亮了", "红色的灯灭了"),
     ("char", "赤いランプ", "赤いライト")],
)  # fmt: skip
def test_other_scripts_are_seen_where_the_field_says_so(words: Any, text: str, reference: str) -> None:
    assert record(text, reference)["rougeL"] == 0
    assert 30 < record(text, reference, task=Summarization(words=words))["rougeL"] < 100


def test_case_and_stems_do_not_matter() -> None:
    assert record("Lamps Turned", "lamp turns")["rouge2"] == 100
    assert record("КРАСНАЯ лампа", "красная ЛАМПА", task=Summarization(words="intl"))["rouge2"] == 100


def test_a_long_text_is_read_further_than_other_tasks_read(folder: Path) -> None:
    adapted = made(folder)
    adapted.context.processor.model_max_length = 2000
    row = {"row": 0, "text": "turn it on " * 500}
    assert len(adapted.task.encode(row, adapted.context, train=False)["input_ids"]) == 1024
