"""Rows of embeddings: which of a step are negatives, how many a step needs, and their ranks among all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from regraft.tasks.metrics.retrieval import of_ranks, ranks_of, share_by_rank
from regraft.tasks.outputs.contrastive import ranking_loss
from regraft.training.row_order import lone_step_notes
from unit.tasks.test_embeddings import spec_of, vectors


def loss_by_definition(made: torch.Tensor, known: list[list[int]]) -> torch.Tensor:
    """Return the ranking loss where no candidate is a negative that equals the input or belongs to an equal one."""
    rows, columns = len(known), len(known[0])
    scores = torch.stack([made[:, 0] @ made[:, place].T for place in range(1, columns)], 1).flatten(1) * 20
    for row, (asked, *_) in enumerate(known):
        right = {asked, *(pair for other, pair, *_ in known if other == asked)}
        for place in range(1, columns):
            for column in range(rows):
                number = (place - 1) * rows + column
                if number != row and known[column][place] in right:
                    scores[row, number] = -torch.inf
    return F.cross_entropy(scores, torch.arange(rows))


def test_the_pair_of_an_equal_input_is_no_negative_in_any_row() -> None:
    made, known = vectors(3, 2), [[0, 10], [0, 11], [1, 11]]
    scores = made[:, 0] @ made[:, 1].T * 20
    for row, column in ((0, 1), (0, 2), (1, 0), (1, 2), (2, 1)):
        scores[row, column] = -torch.inf
    wanted = F.cross_entropy(scores, torch.arange(3))
    torch.testing.assert_close(ranking_loss(made, torch.tensor(known), 20.0), wanted)
    torch.testing.assert_close(loss_by_definition(made, known), wanted)


@pytest.mark.parametrize("columns", [2, 4])
def test_equal_contents_are_never_negatives_wherever_they_stand(columns: int) -> None:
    draw = np.random.default_rng(columns)
    for seed in range(20):
        known = draw.integers(0, 9, (7, columns))
        made = vectors(7, columns, seed=seed)
        found = ranking_loss(made, torch.tensor(known), 20.0)
        torch.testing.assert_close(found, loss_by_definition(made, known.tolist()))


def test_ranks_of_equal_contents_are_those_of_comparing_each_with_all() -> None:
    draw = np.random.default_rng(0)
    for columns in (2, 3):
        known = draw.integers(-40, 40, (60, columns))
        contents, places = np.unique(known, return_inverse=True)
        of_content = draw.integers(-2, 3, (len(contents), 3)).astype(np.float32)
        made = of_content[places.reshape(known.shape)]
        candidates, wanted = np.unique(known[:, 1:]), []
        for asked, pair in known[:, :2]:
            scores = of_content[np.searchsorted(contents, candidates)] @ of_content[np.searchsorted(contents, asked)]
            own = scores[candidates == pair]
            right = np.append(known[known[:, 0] == asked, 1], asked)
            others = scores[~np.isin(candidates, right)]
            wanted.append(1 + (others > own).sum() + (others == own).sum() / 2)
        assert ranks_of(made, known).tolist() == wanted
        assert len(set(wanted)) > 9


def test_a_tie_is_counted_as_recall_counts_it() -> None:
    ranks = np.array([1, 1, 1.5, 2, 5, 5.5, 10, 10.5, 100.5])
    shares = {name: share for name, _, share in share_by_rank(ranks)}
    recall = of_ranks(ranks)
    assert shares["1"] == recall["recall_at_1"]
    assert shares["1"] + shares["2 to 5"] == pytest.approx(recall["recall_at_5"])
    assert shares["1"] + shares["2 to 5"] + shares["6 to 10"] == pytest.approx(recall["recall_at_10"])
    assert shares["beyond 100"] == 1 / 9


def run_of(folder: Path, batch_size: int, **task: Any) -> RunSpec:
    written = spec_of(folder, task.get("rows", "pairs"), batch_size=batch_size)
    return RunSpec.resolve({**written, "task": {**written["task"], **task}})


@pytest.mark.parametrize("task", [{}, {"rows": "graded"}])
def test_steps_of_one_row_are_refused_where_it_has_nothing_to_be_compared_with(
    task: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(
        RequestError, match=r"training\.batch_size: 1 is written, and task embeddings compares the rows"
    ):
        run_of(tmp_path, 1, **task)
    assert run_of(tmp_path, 2, **task).task.least_rows == 2
    (sentence,) = lone_step_notes(run_of(tmp_path, 4, **task), 33)
    assert sentence.startswith("one step of each epoch has 1 row, which task embeddings compares")
    assert lone_step_notes(run_of(tmp_path, 4, **task), 34) == ()


@pytest.mark.parametrize(
    "task",
    [{"rows": "triplets"}, {"rows": "triplets", "objective": "triplet"}, {"rows": "graded", "objective": "cosine"}],
)
def test_one_row_is_enough_where_it_teaches_by_itself(task: dict[str, Any], tmp_path: Path) -> None:
    assert run_of(tmp_path, 1, **task).task.least_rows == 1
    assert lone_step_notes(run_of(tmp_path, 4, **task), 33) == ()
