"""L2-SP pulls weights of the base back to the base, and no others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regraft.contracts import Anatomy, Step
from regraft.errors import Unsupported
from regraft.losses.l2_sp import L2SP

ANATOMY = Anatomy("base", (), (), ("head",), "two layers")
STEP = Step({}, None, None, 0.0)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.head = nn.Linear(2, 2)


def test_the_penalty_is_half_alpha_times_the_squared_way_from_the_base() -> None:
    model = Model()
    model.base[0].requires_grad_(False)
    term = L2SP(alpha=0.3).build(model, ANATOMY)
    assert term(STEP).item() == 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    penalty = term(STEP)
    assert penalty.item() == pytest.approx(0.5 * 0.3 * 6 * 0.25)
    penalty.backward()
    torch.testing.assert_close(model.base[1].weight.grad, torch.full((2, 2), 0.3 * 0.5))
    assert model.head.weight.grad is None
    assert model.base[0].weight.grad is None


def test_it_brings_no_parameters_and_nothing_to_checkpoint() -> None:
    term = L2SP().build(Model(), ANATOMY)
    assert list(term.parameters()) == []
    assert term.state_dict() == {}


def test_it_follows_parameters_that_are_replaced() -> None:
    model = Model()
    term = L2SP(alpha=1.0).build(model, ANATOMY)
    model.base[0].register_parameter("weight", nn.Parameter(model.get_parameter("base.0.weight").detach() + 1))
    assert term(STEP).item() == pytest.approx(0.5 * 4)


def test_a_method_that_moves_nothing_of_the_base_is_refused() -> None:
    model = Model()
    model.base.requires_grad_(False)
    model.base.add_module("lora_A", nn.Linear(2, 1))
    with pytest.raises(Unsupported, match="this method moves none"):
        L2SP().build(model, ANATOMY)
