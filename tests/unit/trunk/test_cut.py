"""A cut model computes what the complete one does: every family, at several depths, outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch

from regraft.bases.adapted import Adapted
from regraft.bases.locate import Base
from regraft.contracts import Batch, Method
from regraft.trunk.cut import Cut, NotCut, capture, find_cut
from regraft.trunk.shapes import distinguishes, sizes_of
from regraft.trunk.verify import difference
from unit.bases.families import FAMILIES, adapted, batch_for, located, shake

METHODS: dict[str, Any] = {
    "1": {"type": "freeze", "depth": 1},
    "60%": {"type": "freeze", "depth": "60%"},
    "all": {"type": "freeze", "depth": "all"},
    "head": "feature-extraction",
}
EXACT = 1e-12
everywhere = pytest.mark.parametrize(("family", "depth"), [(f, d) for f in FAMILIES for d in METHODS])


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Adapted]:
    bases: dict[str, Base] = {}
    made: dict[tuple[str, str], Adapted] = {}

    def make(family: str, depth: str) -> Adapted:
        if family not in bases:
            bases[family] = located(family, tmp_path_factory.mktemp(family))
        if (family, depth) not in made:
            method: Method = Method.parse(METHODS[depth])  # type: ignore[assignment]
            made[family, depth] = adapted(family, bases[family], method)
            shake(made[family, depth].model)
        return deepcopy(made[family, depth])

    return make


def probes(family: str) -> tuple[Batch, Batch]:
    """Batches of two and of three rows; texts differ in length."""
    whole = batch_for(family)
    if "input_ids" not in whole:
        return {name: value[:2] for name, value in whole.items()}, whole
    return {name: value[:2, -5:] if value.ndim > 1 else value[:2] for name, value in whole.items()}, whole


def cut_of(made: Adapted, family: str) -> Cut:
    try:
        return find_cut(made, *probes(family))
    except NotCut as error:
        pytest.fail(str(error))


@everywhere
def test_a_cut_model_is_the_whole_model(make: Callable[[str, str], Adapted], family: str, depth: str) -> None:
    made, batch = make(family, depth), batch_for(family)
    cut = cut_of(made, family)
    made.eval_mode()
    boundary = capture(made, batch, cut.kept)
    assert difference(made, cut, batch, boundary) <= EXACT
    assert 0 < len(cut.kept) <= 12


@everywhere
def test_rows_kept_alone_make_the_batch_again(make: Callable[[str, str], Adapted], family: str, depth: str) -> None:
    made, batch = make(family, depth), batch_for(family)
    cut = cut_of(made, family)
    sizes = sizes_of(batch)
    rows = cut.split(capture(made, batch, cut.kept), [sizes | {"rows": 1}] * 3)
    # Kept rows are contiguous; where a model's own are not (ConvNeXt), sums are taken in another order.
    assert difference(made, cut, batch, cut.join(rows, sizes)) <= 1e-6


@everywhere
def test_another_batch_shape_is_cut_too(make: Callable[[str, str], Adapted], family: str, depth: str) -> None:
    made, (small, _) = make(family, depth), probes(family)
    cut = cut_of(made, family)
    made.eval_mode()
    assert difference(made, cut, small, capture(made, small, cut.kept)) <= EXACT


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.task.modality == "text"])
@pytest.mark.parametrize("depth", METHODS)
def test_a_padded_row_is_kept_without_its_padding(make: Callable[[str, str], Adapted], family: str, depth: str) -> None:
    made, batch = make(family, depth), batch_for(family)
    batch["attention_mask"][0, 4:] = 0
    pad = getattr(made.context.config, "pad_token_id", None) or 0
    batch["input_ids"][0, 3], batch["input_ids"][0, 4:] = 29, pad
    cut = cut_of(made, family)
    sizes = sizes_of(batch)
    own = [{name: 4 if name.endswith(".1") else size for name, size in sizes.items()} | {"rows": 1}]
    made.eval_mode()
    rows = cut.split(capture(made, batch, cut.kept), own + [sizes | {"rows": 1}] * 2)
    lengths = {row.shape[0] for part in cut.kept if len(part.dims) == 3 for row in [rows[0][part.key]]}
    assert lengths <= {4, 1}
    if family in ("t5", "bart", "marian"):
        pytest.skip("its decoder is fed the input here, padding included, without a mask of its own")
    assert difference(made, cut, batch, cut.join(rows, sizes)) <= 1e-5


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.task.modality == "text"])
def test_as_many_rows_as_tokens_are_not_mistaken(make: Callable[[str, str], Adapted], family: str) -> None:
    made, batch = make(family, "60%"), batch_for(family)
    cut = cut_of(made, family)
    square = {name: torch.cat([value, value]) for name, value in batch.items()}
    made.eval_mode()
    assert difference(made, cut, square, capture(made, square, cut.kept)) <= EXACT


def test_lengths_that_grow_alike_and_differ_are_not_distinguished() -> None:
    before, after = {"rows": 2, "a.1": 4, "b.1": 4}, {"rows": 3, "a.1": 7, "b.1": 7}
    assert distinguishes(before, after, [{"rows": 1, "a.1": 5, "b.1": 5}])
    assert not distinguishes(before, after, [{"rows": 1, "a.1": 5, "b.1": 6}])
    assert not distinguishes({**before, "b.1": 9}, {**after, "b.1": 9}, [{"rows": 1, "a.1": 5, "b.1": 6}])
    assert distinguishes(before, {**after, "b.1": 9}, [{"rows": 1, "a.1": 5, "b.1": 6}])


def test_a_row_of_another_size_is_not_split(make: Callable[[str, str], Adapted]) -> None:
    made, batch = make("resnet", "60%"), batch_for("resnet")
    cut = cut_of(made, "resnet")
    wider = {**batch, "pixel_values": torch.randn(3, 3, 33, 48)}
    made.eval_mode()
    with pytest.raises(NotCut, match="several sizes"):
        cut.split(capture(made, wider, cut.kept), [sizes_of(wider) | {"rows": 1}] * 3)


def test_a_model_that_trains_from_its_stem_is_not_cut(make: Callable[[str, str], Adapted]) -> None:
    made = make("bert", "1")
    for parameter in made.model.parameters():
        parameter.requires_grad_(True)
    with pytest.raises(NotCut, match="nothing is frozen"):
        find_cut(made, *probes("bert"))


def test_a_wrong_boundary_is_noticed(make: Callable[[str, str], Adapted]) -> None:
    made, batch = make("bert", "60%"), batch_for("bert")
    cut = cut_of(made, "bert")
    made.eval_mode()
    boundary = {key: value + 1e-3 for key, value in capture(made, batch, cut.kept).items()}
    assert difference(made, cut, batch, boundary) > 1e-5


def test_the_model_is_itself_again_after_the_cut(make: Callable[[str, str], Adapted]) -> None:
    made, batch = make("bert", "60%"), batch_for("bert")
    made.eval_mode()
    before = made.forward(batch).logits
    cut = cut_of(made, "bert")
    boundary = capture(made, batch, cut.kept)
    difference(made, cut, batch, boundary)
    made.eval_mode()
    assert torch.equal(made.forward(batch).logits, before)
    assert not any("forward" in vars(module) for module in made.model.modules())


def test_the_class_token_alone_is_kept_where_nothing_else_is_read(make: Callable[[str, str], Adapted]) -> None:
    (part,) = cut_of(make("vit", "head"), "vit").kept
    assert part.width == 8
