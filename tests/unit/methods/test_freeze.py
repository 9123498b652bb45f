"""Depths of freezing: allowed values, and their meaning for a base."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from regraft.contracts import Anatomy, Method
from regraft.errors import Unsupported
from regraft.methods.freeze import Freeze
from unit.bases.families import adapted, located


def anatomy(blocks: int) -> Anatomy:
    return Anatomy("", ("stem",), tuple(f"layer.{number}" for number in range(blocks)), ("head",))


@pytest.mark.parametrize(
    ("written", "blocks", "depth"),
    [
        (0, 6, 0),
        (4, 6, 4),
        ("all", 6, 6),
        ("50%", 6, 3),
        ("0%", 6, 0),
        ("100%", 7, 7),
        ("33.3%", 12, 4),
        ("50%", 26, 13),
    ],
)
def test_a_depth_is_a_number_a_share_or_all(written: int | str, blocks: int, depth: int) -> None:
    assert Freeze(depth=written).depth_of(anatomy(blocks)) == depth


@pytest.mark.parametrize("written", [-1, "101%", "-5%", "half", "4", "%", 2.5, True, None, [2], ""])
def test_anything_else_is_refused_with_what_is_allowed(written: object) -> None:
    with pytest.raises(ValidationError, match=r"allowed are a number of blocks .0 or more., 0% to 100%, or all"):
        Method.parse({"type": "freeze", "depth": written})


def test_a_depth_beyond_the_base_says_how_deep_it_is(tmp_path: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        adapted("bert", located("bert", tmp_path), Freeze(depth=7))
    assert str(caught.value) == "method.depth: 7 is written; this base has 3 blocks: 0 to 3"


def test_the_stem_is_frozen_from_depth_one_and_the_pooler_never(tmp_path: Path) -> None:
    base = located("bert", tmp_path)
    assert "embeddings.word_embeddings.weight" in adapted("bert", base, Freeze(depth=0)).delta_names
    assert "embeddings.word_embeddings.weight" not in adapted("bert", base, Freeze(depth=1)).delta_names
    assert "pooler.dense.weight" in adapted("bert", base, Freeze(depth="all")).delta_names
