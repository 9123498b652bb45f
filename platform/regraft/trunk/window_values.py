"""Values of a row that has several windows: packed into one tensor a row, as the feature store keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from regraft.trunk.cut import Cut


def pack(windows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the values of a row's windows as those of the row: flattened and joined where there are several."""
    if len(windows) == 1:
        return dict(windows[0])
    return {key: torch.cat([window[key].flatten() for window in windows]) for key in windows[0]}


def unpack(cut: Cut, row: Mapping[str, Tensor], sizes: Sequence[Mapping[str, int]]) -> list[Mapping[str, Tensor]]:
    """Return packed values window by window; `sizes` are those of each window in a batch of its own."""
    found: list[dict[str, Tensor]] = [{} for _ in sizes]
    for boundary in cut.kept:
        shapes = [torch.Size(boundary.row_shape(one)) for one in sizes]
        pieces = torch.split(row[boundary.key], [shape.numel() for shape in shapes])
        for window, piece, shape in zip(found, pieces, shapes, strict=True):
            window[boundary.key] = piece.reshape(shape)
    return list(found)
