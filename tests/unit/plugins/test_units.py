"""Numbers as texts, and documents that JSON can hold."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from regraft.units import bytes_text, finite, finite_number, seconds_text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (-5e9, "-5.0 GB"), (3e15, "3000.0 TB")],
)
def test_bytes_have_the_largest_unit_that_fits(count: float, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (8.44, "8.4 s"), (59.4, "59 s"), (192, "3 min 12 s"), (7500, "2 h 05 min"), (90_000, "25 h 00 min")],
)
def test_seconds_have_two_units_at_most(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_a_finite_document_is_json_and_keeps_everything_else() -> None:
    document = {"a": (1, 2.5, math.nan), 3: [{"b": -math.inf}], "c": np.float32(0.5), "d": np.array([1.0, np.inf])}
    found = finite(document)
    assert found == {"a": [1, 2.5, None], "3": [{"b": None}], "c": 0.5, "d": [1.0, None]}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert finite(found) == found and finite("text") == "text" and finite(True) is True and finite(None) is None


@pytest.mark.parametrize(("value", "number"), [(2, 2.0), (0.5, 0.5), (math.inf, None), (math.nan, None), ("2", None)])
def test_a_finite_number_is_a_number(value: object, number: float | None) -> None:
    assert finite_number(value) == number
