"""What every loss must be, the platform's own found by listing the folder."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from regraft.contracts import Anatomy, ForwardPass, Loss, Step

TEACHER = "model:NAME@v1"
ANATOMY = Anatomy("base", (), (), ("head",), "two layers")


class Model(nn.Module):
    """Two layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.head = nn.Linear(2, 2)


@pytest.fixture(params=Loss.names())
def member(request: pytest.FixtureRequest) -> type[Loss]:
    return Loss.lookup(request.param)


def step(model: Model) -> Step:
    source, target = model.base(torch.eye(3)[:, :2]), model.base(torch.linspace(-1, 2, 8).reshape(4, 2))
    outputs = [SimpleNamespace(logits=model.head(features)) for features in (source, target)]
    other = ForwardPass({}, outputs[1], target)
    teachers = {TEACHER: torch.tensor([[0.2, -0.4], [1.5, 0.3], [0.0, 0.1]])}
    return Step({"labels": torch.tensor([0, 1, 0]), "teachers": teachers}, outputs[0], source, 0.5, other)


def smallest(member: type[Loss]) -> Loss:
    """Return a loss with nothing written but the fields that have no default, at their first example."""
    required = {name: field for name, field in member.model_fields.items() if field.is_required()}
    return member.model_validate({name: (field.examples or [None])[0] for name, field in required.items()})


def test_the_folder_is_not_empty() -> None:
    assert Loss.names()


def test_the_loss_and_every_field_have_docs(member: type[Loss]) -> None:
    assert member.__doc__ and member.__doc__ != Loss.__doc__
    assert not [name for name, field in member.model_fields.items() if not field.description]


def test_a_dump_reads_back_equal(member: type[Loss]) -> None:
    loss = smallest(member)
    assert Loss.parse(json.loads(json.dumps(loss.model_dump(mode="json")))) == loss


def test_its_term_is_one_finite_number_that_gradients_flow_from(member: type[Loss]) -> None:
    model = Model()
    term = smallest(member).build(model, ANATOMY)
    assert isinstance(term, nn.Module)
    with torch.no_grad():
        for parameter in model.base.parameters():
            parameter.add_(0.5)
    value = term(step(model))
    assert value.ndim == 0 and torch.isfinite(value)
    value.backward()
    moved = [*model.parameters(), *term.parameters()]
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in moved)


def test_its_state_comes_back(member: type[Loss]) -> None:
    torch.manual_seed(1)
    loss, model = smallest(member), Model()
    first, second = loss.build(model, ANATOMY), loss.build(model, ANATOMY)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(step(model)), second(step(model)))
