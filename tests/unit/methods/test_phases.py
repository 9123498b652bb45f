"""Phases of methods: when they end, what moves in each, and that no phase leaves still what an earlier one moved."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from regraft.bases.adapt import narrow
from regraft.bases.delta import canonical_name
from regraft.contracts import Anatomy, Method
from regraft.errors import Unsupported
from regraft.methods.gradual_unfreezing import GradualUnfreezing
from regraft.methods.lp_ft import LpFt
from regraft.training.phases import phases_of, trained_names
from unit.bases.families import FAMILIES, adapted, batch_for, located, step

QUICK = ("bert", "mobilenet_v2")
"""Families that are tried in every run of the tests."""
METHODS = [key for key in Method.names() if Method.lookup(key).has_phases()]


def anatomy(blocks: int, head: bool = True) -> Anatomy:
    names = tuple(f"block{number}" for number in range(blocks))
    return Anatomy("", ("stem",), names, ("head",) if head else (), "" if blocks else "nothing is repeated")


def plan(method: Method, steps: int, per_epoch: int, **made: Any) -> list[tuple[int, Any]]:
    """Return the end of each phase and the blocks that move in it; the method itself for all of its own."""
    found = []
    blocks = made.get("blocks", 6)
    for phase in method.phases(steps, per_epoch, anatomy(**{"blocks": blocks, **made})):
        depth = getattr(phase.moves, "depth", blocks)
        found.append((phase.end, "all" if phase.moves is method else blocks - depth))
    return found


def test_the_probe_takes_its_share_in_whole_epochs() -> None:
    assert plan(LpFt(), 100, 10) == [(60, 0), (100, "all")]
    assert plan(LpFt(probe=0.01), 100, 10) == [(10, 0), (100, "all")]
    assert plan(LpFt(probe=0.99), 105, 10) == [(90, 0), (105, "all")]
    assert plan(LpFt(probe=0.5), 15, 10) == [(8, 0), (15, "all")]
    assert plan(LpFt(), 1, 10) == [(0, 0), (1, "all")]
    assert LpFt().phases(100, 10, anatomy(6))[0].lr == 1e-2


def test_blocks_join_from_the_last_one_on_an_epoch_each() -> None:
    assert plan(GradualUnfreezing(), 30, 10) == [(10, 0), (20, 3), (30, "all")]
    assert plan(GradualUnfreezing(), 80, 10) == [(10 * k, k - 1) for k in range(1, 7)] + [(80, "all")]
    assert plan(GradualUnfreezing(), 10, 10) == [(3, 0), (6, 3), (10, "all")]
    assert plan(GradualUnfreezing(epochs=2, blocks=2), 100, 10) == [(20, 0), (40, 2), (60, 4), (100, "all")]
    assert plan(GradualUnfreezing(blocks=1), 40, 10) == [(10, 0), (20, 1), (30, 2), (40, "all")]
    assert plan(GradualUnfreezing(depth=4), 30, 10) == [(10, 0), (20, 1), (30, "all")]
    assert plan(GradualUnfreezing(), 1, 10) == [(1, "all")]


def test_a_plateau_ends_phases_that_have_no_other_end() -> None:
    method = GradualUnfreezing(by="plateau", patience=2)
    assert plan(method, 30, 10) == [(30, 0), (30, 2), (30, 4), (30, "all")]
    assert [phase.patience for phase in method.phases(30, 10, anatomy(6))] == [2, 2, 2, None]


def test_without_a_head_or_without_blocks_it_begins_with_what_there_is() -> None:
    assert plan(GradualUnfreezing(), 30, 10, blocks=0) == [(10, 0), (30, "all")]
    assert plan(GradualUnfreezing(), 30, 10, head=False) == [(10, 3), (30, "all")]
    with pytest.raises(Unsupported, match="write lora, freeze or full"):
        LpFt().adapt(torch.nn.Linear(1, 1), anatomy(3, head=False))


@pytest.mark.parametrize("key", METHODS)
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in FAMILIES]
)
def test_a_step_of_a_phase_moves_what_it_says_and_all_phases_the_delta(key: str, family: str, tmp_path: Path) -> None:
    method = Method.lookup(key)()
    made = adapted(family, located(family, tmp_path), method)
    assert isinstance(method, Method)
    before, trained, moved = dict(state(made)), trained_names(made), set[str]()
    counts = []
    for phase in phases_of(made, 40, 10):
        narrow(made, trained, phase.moves)
        step(made, batch_for(family), "sgd")
        after = state(made)
        now = {name for name in after if not torch.equal(after[name], before[name])}
        frozen = phase.moves.frozen(made.model, made.anatomy)
        assert now and not [name for name in now if any(name == root or name.startswith(f"{root}.") for root in frozen)]
        moved |= now
        before = after
        counts.append(sum(p.requires_grad for p in made.model.parameters()))
    assert counts == sorted(counts) and counts[0] < counts[-1] == len(trained)
    assert {canonical_name(name, made.anatomy.prefix) for name in moved} <= set(made.delta_names)


def state(made: Any) -> dict[str, torch.Tensor]:
    """Return copies of all parameters and buffers; tied ones once."""
    tensors = {**dict(made.model.named_parameters()), **dict(made.model.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def test_a_phase_that_leaves_still_what_moved_before_is_refused() -> None:
    class Backwards(LpFt):
        def phases(self, steps: int, per_epoch: int, anatomy: Anatomy) -> Any:
            return tuple(reversed(super().phases(steps, per_epoch, anatomy)))

    made: Any = SimpleNamespace(method=Backwards(), model=torch.nn.Linear(1, 1), anatomy=anatomy(1))
    with pytest.raises(RuntimeError, match="end at"):
        phases_of(made, 10, 2)
