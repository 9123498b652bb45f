"""The verdict: when the base is said not to help, and what is said of controls that know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pytest

from regraft.comparison.page import comparison_page
from regraft.comparison.verdict import MeasuredModel, verdict
from regraft.contracts import Record, Score
from regraft.store.comparisons import comparison_texts

ROWS = 200


def mean_of(records: Sequence[Record]) -> Mapping[str, float]:
    return {"accuracy": float(np.mean([record["correct"] for record in records]))}


def model(name: str, share: float, *, knows_base: bool = True, rows: int = ROWS) -> MeasuredModel:
    """A model that is right on the first rows; a better one is right wherever a worse one is."""
    records: list[Record] = [{"correct": int(number < share * rows)} for number in range(rows)]
    return MeasuredModel(name, mean_of, records, knows_base=knows_base)


RANDOM = "random_weights"


def compared(*controls: MeasuredModel, of: float = 0.9, mode: Literal["min", "max"] = "max") -> dict[str, Any]:
    return verdict(model("this_model", of), controls, Score("accuracy", mode), [("last_version", "there is none")])


@pytest.mark.parametrize(
    ("random", "words", "negative", "named"),
    [
        (0.6, 0.7, False, ()),
        (0.895, 0.7, True, ("random weights",)),
        (0.6, 0.95, True, ("words",)),
        (0.9, 0.9, True, ("random weights", "words")),
    ],
)
def test_transfer_is_negative_where_a_control_without_the_base_is_not_beaten(
    random: float, words: float, negative: bool, named: tuple[str, ...]
) -> None:
    found = compared(model("random_weights", random, knows_base=False), model("words", words, knows_base=False))
    assert found["negative_transfer"] is negative
    assert bool(found["warning"]) is negative
    for control in named:
        assert control in found["warning"]
    assert "random weights" in found["sentence"] and "words" in found["sentence"]


def test_smaller_is_better_where_the_score_is_a_loss() -> None:
    assert compared(model(RANDOM, 0.5, knows_base=False), of=0.2, mode="min")["negative_transfer"] is False
    assert compared(model(RANDOM, 0.1, knows_base=False), of=0.2, mode="min")["negative_transfer"] is True


def test_a_better_head_on_the_frozen_base_is_no_negative_transfer() -> None:
    found = compared(model(RANDOM, 0.5, knows_base=False), model("frozen_probe", 0.99))
    assert (found["negative_transfer"], found["warning"]) == (False, "")
    assert "frozen probe is better" in found["adaptation"]


def test_nothing_is_known_of_transfer_without_a_control_that_lacks_the_base() -> None:
    found = compared(model("frozen_probe", 0.5))
    assert found["negative_transfer"] is None
    assert comparison_texts(found)[-1] == "Not compared with last version: there is none."
    assert comparison_texts(None) == []


@pytest.mark.parametrize(("words", "negative"), [(0.2, None), (0.95, True)])
def test_a_dull_baseline_that_is_beaten_says_nothing_of_transfer_by_itself(words: float, negative: bool | None) -> None:
    found = compared(model("words", words, knows_base=False))
    assert (found["negative_transfer"], bool(found["warning"])) == (negative, bool(negative))


@pytest.mark.parametrize("words", [0.2, 0.95])
def test_a_model_that_began_with_random_weights_says_nothing_of_transfer(words: float) -> None:
    this = model("this_model", 0.9, knows_base=False)
    found = verdict(this, [model("words", words, knows_base=False)], Score("accuracy", "max"))
    assert found["negative_transfer"] is None
    assert "what the base has learned" not in found["warning"] and "another base" not in found["warning"]
    assert bool(found["warning"]) is (words > 0.9)


@pytest.mark.parametrize(("side", "said"), [("test", "200 test rows, which chose nothing"), ("eval", "also chose")])
def test_a_comparison_says_whether_its_rows_chose(side: Literal["test", "eval"], said: str) -> None:
    controls = [model(RANDOM, 0.5, knows_base=False)]
    found = verdict(model("this_model", 0.9), controls, Score("accuracy", "max"), side=side)
    assert found["side"] == side
    assert any(said in text for text in comparison_texts(found))
    assert said in comparison_page("tiny@v1", found)
    old = {name: value for name, value in found.items() if name != "side"}
    assert not any("chose" in text for text in comparison_texts(old)) and "also chose" in comparison_page("a@v1", old)


def test_one_row_does_not_show_how_sure_it_is() -> None:
    found = verdict(
        model("this_model", 1.0, rows=1), [model(RANDOM, 0.0, knows_base=False, rows=1)], Score("accuracy", "max")
    )
    assert found["controls"][0]["low"] is None
    assert found["negative_transfer"] is False  # ahead of it, as far as one row says
    assert "no interval is known" in found["sentence"]


def test_a_page_shows_every_control_and_escapes_what_is_written() -> None:
    hostile = MeasuredModel("<b>words", mean_of, model("x", 0.7).records, knows_base=False, facts={"run": "<i>run"})
    page = comparison_page("tiny@v1", compared(hostile, model("frozen_probe", 0.8)))
    assert "&lt;b&gt;words" in page and "&lt;i&gt;run" in page and "<b>words" not in page
    assert "frozen probe" in page and 'class="zero"' in page
