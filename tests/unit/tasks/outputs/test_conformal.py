"""p-values hold what they promise, and agree with the limit."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.tasks.outputs.conformal import UsualScores


def of(scores: np.ndarray, kept: int = 1000) -> UsualScores:
    ordered = np.sort(scores)[::-1].astype(np.float32)
    return UsualScores.of(ordered[:kept], len(scores))


@pytest.mark.parametrize("count", [19, 60, 180, 999])
@pytest.mark.parametrize("asked", [0.01, 0.05, 0.1, 0.5])
def test_a_score_is_above_the_limit_where_its_p_value_is_small_enough(count: int, asked: float) -> None:
    draw = np.random.default_rng(count)
    usual = of(draw.random(count))
    limit = usual.limit(asked)
    for score in np.float32(draw.random(300) * 1.2):
        raised = limit is not None and score > limit
        assert (usual.p_value(float(score)) <= asked) == raised


def test_the_share_of_false_alarms_is_at_most_what_is_asked_for_and_near_it() -> None:
    draw = np.random.default_rng(0)
    shares = []
    for _ in range(2000):
        *known, new = draw.normal(size=61)
        shares.append(of(np.array(known)).p_value(float(new)) <= 0.1)
    assert 0.07 <= np.mean(shares) <= 0.115


def test_too_few_usual_rows_raise_no_alarm() -> None:
    assert of(np.arange(18.0)).limit(0.05) is None
    assert of(np.arange(18.0)).p_value(99.0) > 0.05
    assert of(np.arange(19.0)).limit(0.05) == 18.0
    assert of(np.zeros(0)).p_value(1.0) == 1.0 and of(np.zeros(0)).limit(0.05) is None
