"""The values of `auto`: the method states them, written values win, and names tell the two apart."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from regraft.contracts import Method, TrainingDefaults, TrainingFacts
from regraft.errors import SpecError
from regraft.spec.auto import KEYS, as_before, as_begun, choose, resolve_auto, same_choice
from regraft.spec.run import RunSpec

STEPPING = [name for name in Method.names() if not Method.lookup(name).closed_form]


def spec_of(method: str = "full", task: str = "text-classification", **training: Any) -> RunSpec:
    """A spec that is never trained."""
    return RunSpec.resolve(
        {
            "name": "some",
            "base": "somewhere/some",
            "task": task,
            "method": method,
            "data": {"train": "rows.csv"},
            "training": training,
        }
    )


@pytest.mark.parametrize("task", ["text-classification", "image-classification"])
@pytest.mark.parametrize("method", [name for name in Method.names() if Method.lookup(name).fits == "prototypes"])
@pytest.mark.parametrize("rows", [1, 779, 1_000_000])
def test_every_method_has_a_usable_number_for_each_key(method: str, task: str, rows: int) -> None:
    resolved = resolve_auto(spec_of(method, task), rows)
    assert "auto" not in resolved.training.model_dump().values()
    assert RunSpec.resolve(resolved.model_dump(mode="json")) == resolved


@pytest.mark.parametrize("key, value", [("lr", 0.5), ("head_factor", 7.0), ("epochs", 77), ("warmup", 0.33)])
@pytest.mark.parametrize("method", STEPPING)
def test_a_written_value_wins(method: str, key: str, value: float) -> None:
    spec = spec_of(method, **{key: value})
    assert getattr(resolve_auto(spec, 779).training, key) == value
    assert key not in choose(spec, 779).values


def test_nothing_is_chosen_or_said_where_everything_is_written() -> None:
    spec = spec_of(**asdict(TrainingDefaults()))
    assert choose(spec, 779).text == "" and resolve_auto(spec, 779) == spec
    assert choose(spec_of(lr=1e-3, epochs=2), 779).text == "" == choose(spec_of(lr=1e-3, steps=2), 779).text


@pytest.mark.parametrize("method", STEPPING)
def test_a_head_beside_a_written_rate_has_that_rate(method: str) -> None:
    assert resolve_auto(spec_of(method, lr=5e-4), 779).training.head_factor == 1.0


@pytest.mark.parametrize("method", STEPPING)
def test_more_rows_never_take_more_epochs(method: str) -> None:
    epochs = [resolve_auto(spec_of(method), rows).training.epochs for rows in (1, 100, 779, 10_000, 1_000_000)]
    assert epochs == sorted(epochs, reverse=True)


def test_a_number_of_steps_leaves_no_epochs_to_speak_of() -> None:
    assert "epochs" not in choose(spec_of(steps=20), 779).text


def test_the_sentence_names_the_values_the_method_and_the_rows() -> None:
    text = choose(spec_of("lora"), 1234).text
    assert all(word in text for word in ("training.lr 0.001", "training.epochs", "lora", "1,234 training rows"))


def test_what_is_left_open_has_the_name_that_it_had_before_auto() -> None:
    assert spec_of().run == as_before(spec_of()).run == spec_of(**asdict(TrainingDefaults())).run


def test_the_choice_tells_an_open_key_from_the_number_that_it_counts_as() -> None:
    left_open, written = spec_of(), spec_of(**asdict(TrainingDefaults()))
    chosen, nothing = choose(left_open, 779).values, choose(written, 779).values
    assert same_choice(left_open, chosen) and not same_choice(written, chosen)
    assert same_choice(written, nothing) and not same_choice(left_open, nothing)
    assert same_choice(left_open, None) and same_choice(written, None)


def test_a_stored_choice_fills_only_what_is_left_open() -> None:
    found = as_begun(spec_of(lr=0.25), dict(zip(KEYS, (0.5, 7.0, 77, 0.33), strict=True))).training
    assert (found.lr, found.head_factor, found.epochs, found.warmup) == (0.25, 7.0, 77, 0.33)
    assert as_begun(spec_of(), {}) == spec_of() and as_begun(spec_of(), None) == as_before(spec_of())


@pytest.mark.parametrize("key", KEYS)
def test_another_word_than_auto_is_refused_with_what_is_allowed(key: str) -> None:
    with pytest.raises(SpecError) as error:
        spec_of(**{key: "automatic"})
    assert f"training.{key}: 'automatic' is written" in str(error.value) and "'auto'" in str(error.value)


def test_a_method_without_defaults_of_its_own_keeps_those_of_0_1_0() -> None:
    assert Method.defaults(Method.lookup("full")(), TrainingFacts(10, 32, tokens=True)) == TrainingDefaults()
