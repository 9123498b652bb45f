"""Batch norm: statistics are averaged over many batches, and one value of one row is no error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from regraft.bases.batch_norm import repair_batch_norm
from regraft.methods.full import Full
from unit.bases.families import adapted, located


@pytest.mark.parametrize("family", ["mobilenet_v1", "mobilenet_v2", "deeplabv3-mobilenet_v2"])
def test_running_statistics_are_those_of_many_batches_not_of_the_last(family: str, tmp_path: Path) -> None:
    made = adapted(family, located(family, tmp_path), Full())
    norms = [module for module in made.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and {norm.momentum for norm in norms} == {0.1}


def test_a_momentum_of_torchs_kind_stays() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=0.02), nn.BatchNorm1d(3, momentum=None))
    repair_batch_norm(model)
    assert [norm.momentum for norm in model] == [0.02, None]


def test_one_value_per_channel_is_normed_by_what_is_known_and_moves_nothing() -> None:
    norm = nn.BatchNorm2d(3)
    repair_batch_norm(norm)
    norm.running_mean = torch.tensor([1.0, 2.0, 3.0])
    one, several = torch.randn(1, 3, 1, 1), torch.randn(2, 3, 1, 1)
    known = norm.eval()(one)
    assert torch.equal(norm.train()(one), known)
    assert norm.training and norm.running_mean.tolist() == [1.0, 2.0, 3.0]
    norm(several)
    assert norm.running_mean.tolist() != [1.0, 2.0, 3.0]
