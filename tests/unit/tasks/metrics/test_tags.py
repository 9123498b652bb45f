"""Scores of tags that mark no spans agree with scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from regraft.tasks.metrics.tags import tag_counts, tag_findings, tag_scores

PAIRS = st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6), min_size=1)


@given(PAIRS)
def test_means_are_over_the_tags_that_occur(rows: list[list[tuple[int, int]]]) -> None:
    pairs = [(np.array([a for a, _ in row]), np.array([b for _, b in row])) for row in rows]
    found = tag_scores([tag_counts(true, predicted, 4) for true, predicted in pairs])
    true, predicted = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    expected = precision_recall_fscore_support(true, predicted, average="macro", zero_division=0)[:3]
    assert tuple(found.values()) == pytest.approx(expected)


def test_a_tag_without_words_has_no_recall_and_an_unread_word_is_no_prediction() -> None:
    findings = tag_findings([(np.array([0, 1]), np.array([0, -1]))], ("a", "b", "c"))
    assert findings.tables[0].rows == (
        ("a", 1.0, 1.0, 1.0, 1, 1),
        ("b", None, 0.0, 0.0, 1, 0),
        ("c", None, None, None, 0, 0),
    )
    assert findings.matrices[0].counts == ((1, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 0))
