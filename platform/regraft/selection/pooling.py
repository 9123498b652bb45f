"""One vector of what a layer returns for a row: its mean over positions."""

from __future__ import annotations

import torch
from torch import Tensor

from regraft.trunk.boundary import Boundary
from regraft.trunk.shapes import ROWS, Dim


def pooled(value: Tensor, boundary: Boundary) -> Tensor:
    """Return the mean over positions of one row's value, as a vector in fp32.

    Positions are the axes that follow the batch's sizes. Where all axes are constant, two are (positions, width), as
    transformers have it, and three are (width, height, across), as convolutions have it.
    """
    value = value.float()
    dims = boundary.dims[1:]
    if boundary.dims and boundary.folds > 1:
        value = value.mean(0)
    varying = [axis for axis, dim in enumerate(dims) if dim.size is not None]
    if varying and len(dims) == value.ndim and len(varying) < value.ndim:
        return value.mean(varying).reshape(-1)
    if value.ndim >= 3:
        return value.flatten(1).mean(1)
    return value.mean(0) if value.ndim == 2 else value.reshape(-1)


def pooled_boundary(boundary: Boundary) -> Boundary:
    """Return the vector that a value is pooled to, as the feature store keeps it."""
    dims, first = (Dim(ROWS, 1),), boundary.first_only
    return Boundary(boundary.module, boundary.place, "kept", dims=dims, dtype=torch.float32, first_only=first)
