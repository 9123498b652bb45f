"""Below a baseline the next thing to try is named; above it nothing is said."""

from __future__ import annotations

from typing import Any

import pytest

from doubles.fake_training import DOCUMENT
from regraft.contracts import Score
from regraft.spec.run import RunSpec
from regraft.training.advice import below_text, run_advice
from regraft.tuning.driver.search_advice import search_advice
from regraft.tuning.records import SearchRecord, TrialRecord

BASELINES = {"majority": {"accuracy": 0.2}, "nearest_centroid": {"accuracy": 0.7}}
SPACE = {"training.lr": {"loguniform": [1e-5, 1e-3]}}


def lines(*scores: float, losses: tuple[float, ...] = (1.0, 0.5)) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl of a run with these losses and evaluations."""
    evaluations = [{"step": number, "eval_accuracy": value} for number, value in enumerate(scores)]
    return [*({"step": 1, "lr": 3e-4, "loss": loss} for loss in losses), *evaluations]


def spec(**fields: Any) -> RunSpec:
    return RunSpec.resolve({**DOCUMENT, **fields})


def test_a_result_above_all_baselines_needs_no_advice() -> None:
    assert run_advice(spec(), {"accuracy": 0.71}, BASELINES, lines(0.71)) == ""
    assert run_advice(spec(), {"accuracy": 0.5}, {}, lines(0.5)) == ""


def test_the_baselines_that_are_better_are_named_with_their_values() -> None:
    text = below_text(Score("accuracy", "max"), {"accuracy": 0.1}, BASELINES)
    assert text == "accuracy 0.1000 does not reach the baselines nearest centroid (0.7000) and majority (0.2000)"
    error = below_text(Score("mae", "min"), {"mae": 2.0}, {"mean": {"mae": 1.5}, "old": 3.0})
    assert error == "mae 2.0000 does not reach the baseline mean (1.5000)"


@pytest.mark.parametrize("scores", [(0.2,), (0.2, 0.3, 0.4)])
def test_what_still_improved_is_to_be_trained_longer(scores: tuple[float, ...]) -> None:
    text = run_advice(spec(), {"accuracy": scores[-1]}, BASELINES, lines(*scores))
    assert "does not reach the baseline nearest centroid (0.7000)" in text and "--set training.epochs=6" in text
    text = run_advice(spec(training={"steps": 5}), {"accuracy": 0.3}, BASELINES, lines(*scores))
    assert "--set training.steps=15" in text


def test_what_got_worse_is_to_take_smaller_steps() -> None:
    text = run_advice(spec(), {"accuracy": 0.4}, BASELINES, lines(0.4, 0.3, 0.2))
    assert "--set training.lr=0.00033" in text and "loguniform: [1.0e-04, 1.0e-02]" in text
    assert "evaluation 1 of 3" in text


def test_the_loss_shows_whether_steps_are_too_small_or_too_large() -> None:
    text = run_advice(spec(), {"accuracy": 0.4}, BASELINES, lines(0.4, 0.4, losses=(1.0, 0.99)))
    assert "the loss hardly fell" in text and "--set training.lr=0.01" in text
    text = run_advice(spec(), {"accuracy": 0.4}, BASELINES, lines(0.4, 0.4, losses=(1.0, 1.5)))
    assert "the loss rose" in text and "--set training.lr=0.00033" in text
    text = run_advice(spec(), {"accuracy": 0.4}, BASELINES, lines(0.4, 0.4))
    assert "--set training.epochs=6" in text, "equal evaluations are not worse ones"
    assert "train longer" in run_advice(spec(), {"accuracy": 0.4}, BASELINES, []), "nothing is known of its course"


def test_the_factor_of_the_head_stays_where_the_rate_is_to_change() -> None:
    training = {"lr": 1e-3, "head_factor": 3, "epochs": 2}
    text = run_advice(spec(training=training), {"accuracy": 0.4}, BASELINES, lines(0.4, 0.3, 0.2))
    assert "--set training.lr=0.00033 --set training.head_factor=3;" in text


def test_a_method_without_steps_is_not_to_be_trained_longer() -> None:
    text = run_advice(spec(method="prototypes"), {"accuracy": 0.4}, BASELINES, lines(0.4))
    assert "another method" in text and "training." not in text


def a_search(rate: float, scores: tuple[float, ...]) -> str:
    """Return the advice of a search whose winner has this learning rate and these evaluations."""
    winner = TrialRecord("t0000", 0, {"training.lr": rate}, "finished", best={"accuracy": max(scores)})
    winner.reports = [{"step": 1, "epoch": 1.0, "metrics": {"accuracy": value}, "seconds": 1.0} for value in scores]
    score = {"name": "accuracy", "mode": "max"}
    record = SearchRecord("s", "m", score, SPACE, "random", "none", "x", baselines=BASELINES)
    return search_advice(spec(search={"space": SPACE}), record, [winner], winner)


def test_trials_that_are_all_alike_do_not_show_a_direction() -> None:
    trials = [TrialRecord(f"t{n:04d}", n, {"training.lr": 1e-5}, "finished", best={"accuracy": 0.3}) for n in (0, 1)]
    score = {"name": "accuracy", "mode": "max"}
    record = SearchRecord("s", "m", score, SPACE, "random", "none", "x", baselines=BASELINES)
    text = search_advice(spec(search={"space": SPACE}), record, trials, trials[0])
    assert "all trials came to the same result" in text


def test_a_search_says_what_to_widen() -> None:
    assert a_search(1e-4, (0.8,)) == ""
    assert "training.lr: {loguniform: [1.0e-05, 1.0e-02]}" in a_search(9e-4, (0.3, 0.2))
    assert "training.lr: {loguniform: [1.0e-06, 1.0e-03]}" in a_search(1.2e-5, (0.3, 0.2))
    assert "--set training.epochs=6" in a_search(1e-4, (0.2, 0.3))
    assert "other methods in search.space (tried: freeze" in a_search(1e-4, (0.3, 0.2))


def test_of_several_bases_the_winner_is_compared_within_its_own() -> None:
    bases = {
        "org/a": {"hash": "1", "baselines": {"nearest_centroid": {"accuracy": 0.2}}},
        "org/b": {"hash": "2", "baselines": {"nearest_centroid": {"accuracy": 0.9}}},
    }
    score = {"name": "accuracy", "mode": "max"}
    record = SearchRecord("s", "m", score, SPACE, "random", "none", "x", bases=bases)
    made = [
        TrialRecord(f"t{n:04d}", n, {"base": base, "training.lr": 1e-4}, "finished", best={"accuracy": reached})
        for n, (base, reached) in enumerate([("org/a", 0.5), ("org/b", 0.4)])
    ]
    searched = spec(search={"space": SPACE})
    assert search_advice(searched, record, made, made[0]) == "", "the other base's centroid is better, its own is not"
    assert "nearest centroid" in search_advice(searched, record, made, made[1])
    made[1].status = "stopped"
    text = search_advice(searched, record, made, made[0])
    assert text == "nothing can be said of org/b (not compared: every trial was stopped before its end)"
