"""`regraft evaluate` passes its arguments to the evaluation, and prints the result in a few lines or as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from doubles.fake_training import Regraft, publish
from regraft.cli import dispatch
from regraft.cli.evaluate import worst_class
from regraft.contracts import Progress, RowsEvaluated
from regraft.evaluation.options import EvaluationOptions
from regraft.store.objects import ObjectStore

DOCUMENT: dict[str, Any] = {
    "format": 1,
    "model": "tickets",
    "version": "v1",
    "data": {"rows": 240, "skipped": {"count": 2, "rows": ["a", "b"]}},
    "score": {"name": "accuracy", "mode": "max"},
    "metrics": {"accuracy": 0.875, "f1": 0.8},
    "intervals": {"accuracy": {"low": 0.85, "high": 0.9}},
    "recorded": {"metrics": {"accuracy": 0.9}, "baselines": {"majority": {"accuracy": 0.5}}},
    "findings": {
        "tables": [
            {"columns": ["label", "rows", "F1"], "rows": [["billing", 10, 0.9], ["bug", 9, 0.7], ["other", 0, None]]}
        ]
    },
    "against": None,
    "labels": ["billing", "bug"],
    "worst": [],
    "notes": [],
    "seconds": 3.5,
}


@dataclass
class FakeEvaluation:
    """A fake evaluation."""

    document: dict[str, Any] = field(default_factory=lambda: DOCUMENT)
    calls: list[tuple[str, str, EvaluationOptions]] = field(default_factory=list)

    def __call__(
        self, store: ObjectStore, reference: str, data: str, *, options: EvaluationOptions, progress: Progress
    ) -> Any:
        self.calls.append((reference, data, options))
        progress(RowsEvaluated(1, 240, reference))
        self.json, self.html = options.output / "evaluation.json", options.output / "evaluation.html"
        return self


@pytest.fixture
def evaluation(monkeypatch: pytest.MonkeyPatch, store: ObjectStore) -> FakeEvaluation:
    fake = FakeEvaluation()
    monkeypatch.setitem(dispatch.WORK, "evaluate", fake)
    publish(store)
    return fake


def test_a_summary_tells_score_interval_worst_class_and_page(
    regraft: Regraft, evaluation: FakeEvaluation, store: ObjectStore
) -> None:
    result = regraft("evaluate", "tickets", "rows.csv", "--store", store.url)
    assert result.code == 0
    for message in (
        "tickets@v1 is evaluated",
        "0.8750  (95 % interval 0.8500 to 0.9000)",
        "at training  0.9000",
        "bug (f1 0.7000)",
        "240, 2 left out",
        "evaluation-tickets-v1-rows/evaluation.html",
    ):
        assert message in result.out


def test_json_is_one_object_with_all_figures_and_the_files(
    regraft: Regraft, evaluation: FakeEvaluation, store: ObjectStore
) -> None:
    document = regraft("evaluate", "tickets@v1", "rows.csv", "--store", store.url, "--output", "o", "--json").document
    assert document["metrics"] == DOCUMENT["metrics"] and document["intervals"] == DOCUMENT["intervals"]
    assert (document["json"], document["html"]) == ("o/evaluation.json", "o/evaluation.html")
    assert "findings" not in document


def test_what_is_asked_reaches_the_evaluation(regraft: Regraft, evaluation: FakeEvaluation, store: ObjectStore) -> None:
    options = ("--columns", "text=review,label=stars", "--bad-rows", "skip", "--format", "{type: csv, header: null}")
    more = ("--against", "tickets@v1", "--resamples", "50", "--seconds", "2", "--worst", "3", "--device", "cpu")
    assert regraft("evaluate", "tickets", "s3://b/rows.csv", "--store", store.url, *options, *more).code == 0
    reference, data, given = evaluation.calls[0]
    assert (reference, data) == ("tickets@v1", "s3://b/rows.csv")
    assert given == EvaluationOptions(
        output=Path("evaluation-tickets-v1-rows"),
        columns={"text": "review", "label": "stars"},
        format="{type: csv, header: null}",
        bad_rows="skip",
        resamples=50,
        seconds=2.0,
        worst=3,
        against="tickets@v1",
        plugins=[],
        device="cpu",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--columns", "text"), "'text' is written; allowed is COLUMN=NAME-IN-THE-FILE"),
        (("--bad-rows", "maybe"), "'maybe' is written; allowed are fail, skip"),
        (("--resamples", "-1"), "--resamples"),
        (("--storre", "x"), "Did you mean --store?"),
    ],
)
def test_what_is_asked_wrong_is_reported_before_anything_starts(
    regraft: Regraft, evaluation: FakeEvaluation, store: ObjectStore, options: tuple[str, ...], message: str
) -> None:
    result = regraft("evaluate", "tickets", "rows.csv", "--store", store.url, *options)
    assert result.code == 2 and message in result.err and not evaluation.calls


def test_a_model_that_is_not_there_is_reported_with_the_nearest(
    regraft: Regraft, evaluation: FakeEvaluation, store: ObjectStore
) -> None:
    result = regraft("evaluate", "ticket", "rows.csv", "--store", store.url)
    assert result.code == 2 and "tickets" in result.err and not evaluation.calls


def test_a_comparison_says_whether_the_two_can_be_distinguished(
    regraft: Regraft, evaluation: FakeEvaluation, store: ObjectStore
) -> None:
    apart = {"low": -0.01, "high": 0.05}
    rival = {"model": "old", "version": "v7", "metrics": {"accuracy": 0.855}, "difference": {"accuracy": 0.02}}
    evaluation.document = {**DOCUMENT, "against": {**rival, "intervals": {"accuracy": apart}}}
    result = regraft("evaluate", "tickets", "rows.csv", "--store", store.url, "--against", "old")
    assert "0.8550; the difference +0.0200, 95 % interval -0.0100 to +0.0500" in result.out


def test_a_table_that_is_not_by_class_has_no_worst_class() -> None:
    ends = {"columns": ["what must be right", "f1"], "rows": [["type and both ends", 0.5], ["both ends", 0.6]]}
    types = {"columns": ["type", "f1"], "rows": [["person", 0.9], ["place", 0.4]]}
    assert worst_class({"tables": [ends]}) == ""
    assert worst_class({"tables": [ends, types]}) == "place (f1 0.4000)"


@pytest.mark.parametrize("count", ["rows", "support", "true boxes", "pixels"])
def test_a_class_without_evaluation_rows_is_not_the_worst(count: str) -> None:
    rows = [["person", 9, 0.9], ["place", 3, 0.4], ["thing", 0, 0.0]]
    assert worst_class({"tables": [{"columns": ["class", count, "f1"], "rows": rows}]}) == "place (f1 0.4000)"


def test_several_models_are_compared(
    regraft: Regraft, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, evaluation: FakeEvaluation
) -> None:
    publish(store, seed=2)
    models: list[dict[str, Any]] = [
        {
            "model": "tickets",
            "version": version,
            "metrics": {"accuracy": 0.9},
            "interval": {"low": 0.85, "high": 0.95},
            "overlap": {"train": 3, "sentence": "3 of the 240 rows here were training rows"},
        }
        for version in ("v2", "v1")
    ]
    difference = {"model": "tickets@v1", "difference": 0.0, "low": -0.1, "high": 0.1, "first_is": "not distinguishable"}
    several = FakeEvaluation({**DOCUMENT, "models": models, "differences": [difference], "bootstrap": {"note": ""}})
    monkeypatch.setitem(dispatch.WORK, "evaluate several", several)
    result = regraft("evaluate", "tickets@v2", "tickets@v1", "rows.csv", "--store", store.url)
    assert result.code == 0, result.err
    assert several.calls[0][:2] == (["tickets@v2", "tickets@v1"], "rows.csv")
    assert str(several.calls[0][2].output) == "evaluation-tickets-v2-and-1-more-rows"
    assert "not distinguishable" in result.out and "training rows" in result.out
    for more in (("--against", "tickets"), ("--shot", "1")):
        refused = regraft("evaluate", "tickets@v2", "tickets@v1", "rows.csv", "--store", store.url, *more)
        assert refused.code == 2 and "compared by themselves" in refused.err
