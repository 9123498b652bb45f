"""A trial that was stopped early wins only by a better score, and is called so wherever the winner is named."""

from __future__ import annotations

import random
import shlex
from pathlib import Path

import pytest

from doubles.fake_pool import EPOCHS, FakePool, a_spec, accuracy
from regraft.cli.models import _lineage
from regraft.spec.document import parse_set
from regraft.spec.run import RunSpec
from regraft.store.card import model_card
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.tuning.driver.finish import SearchOutcome
from regraft.tuning.records import TrialRecord, best_first
from regraft.tuning.session import search_session
from regraft.tuning.study import GridPoints, NoStopping, Study

MAX = {"name": "accuracy", "mode": "max"}


class StopsFirst(NoStopping):
    """Ends the first trial after an evaluation."""

    def __init__(self, evaluation: int) -> None:
        self._evaluation = evaluation

    def goes_on(self, trial: str, evaluation: int, score: float) -> bool:
        """Return False for the first trial from that evaluation on."""
        return trial != "t0000" or evaluation < self._evaluation


def searched(folder: Path, rates: list[float], *, evaluation: int = 1) -> tuple[RunSpec, SearchOutcome]:
    search = {"space": {"training.lr": {"grid": rates}}, "sampler": "grid", "keep": len(rates)}
    spec = a_spec(folder, search)

    def study(spec: RunSpec) -> Study:
        return Study(spec, GridPoints(spec), StopsFirst(evaluation))

    return spec, search_session(spec, study, FakePool)


def test_a_stopped_winner_is_called_so_with_the_command_that_trains_it_to_its_end(tmp_path: Path) -> None:
    spec, outcome = searched(tmp_path, [1e-3, 1e-5])
    assert [trial["status"] for trial in outcome.trials] == ["stopped", "finished"]
    assert accuracy({"training.lr": 1e-3}, 1) > accuracy({"training.lr": 1e-5}, EPOCHS)
    assert outcome.winner == "t0000", "it is better than what trained to its end"
    assert "trial t0000 was stopped after 1 epoch" in outcome.advice
    command = shlex.split(outcome.advice.partition("its end: ")[2])
    assert command[:3] == ["regraft", "train", "SPEC"]
    assert parse_set(command[4::2]) == outcome.overrides == {"training.lr": 1e-3}
    assert outcome.document()["advice"] == outcome.advice
    version = Registry(open_store(spec.store)).version("tiny")
    assert version.meta["lineage"]["search"]["status"] == "stopped"
    assert ("training", "stopped early by the search that it is from") in _lineage(version.meta)
    assert "stopped early by the search that it is from" in model_card(version.meta, {})


def test_a_winner_that_ran_to_its_end_is_not(tmp_path: Path) -> None:
    spec, outcome = searched(tmp_path, [1e-5, 1e-3])
    assert (outcome.winner, outcome.advice) == ("t0001", "")
    version = Registry(open_store(spec.store)).version("tiny")
    assert version.meta["lineage"]["search"]["status"] == "finished"
    assert "stopped" not in str(_lineage(version.meta))


def test_of_equal_results_that_of_a_whole_training_wins(tmp_path: Path) -> None:
    """Rates as far above the best as below it have one score; the first trial is stopped at its last evaluation."""
    _, outcome = searched(tmp_path, [1e-2, 1e-4], evaluation=EPOCHS)
    results = [trial["metrics"]["accuracy"] for trial in outcome.trials]
    assert results[0] == results[1]
    assert (outcome.winner, outcome.advice) == ("t0001", "")


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_order_is_by_score_then_by_end_then_by_number(mode: str) -> None:
    draw = random.Random(5)
    records = [
        TrialRecord(f"t{number:04d}", number, {}, status=draw.choice(["finished", "stopped"]), best={"accuracy": score})
        for number, score in enumerate(draw.choice([0.1, 0.2, 0.3]) for _ in range(40))
    ]
    nothing = [TrialRecord("t0098", 98, {}, best=None), TrialRecord("t0099", 99, {}, best={"loss": 1.0})]
    shuffled = [*records, *nothing]
    draw.shuffle(shuffled)
    found = best_first(shuffled, {**MAX, "mode": mode})
    sign = -1 if mode == "max" else 1
    assert len(found) == 40
    keys = [(sign * (one.best or {})["accuracy"], one.status == "stopped", one.number) for one in found]
    assert keys == sorted(keys)
