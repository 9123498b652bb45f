"""Features of a base that cannot be cut, or of pictures of several sizes: what its blocks return for each row alone."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from regraft.errors import Unsupported
from regraft.selection.depth_cuts import DepthCut, depths_of
from regraft.training.cut_check import CutSite
from regraft.training.evaluate import to_device
from regraft.trunk.boundary import Boundary


def direct_cuts(site: CutSite) -> list[DepthCut]:
    """Return the depths of a base by its blocks' names; the base itself where no blocks are known."""
    anatomy = site.adapted.anatomy
    blocks = len(anatomy.blocks)
    if not blocks and not anatomy.prefix:
        raise Unsupported("neither its blocks nor its head are known", where=site.adapted.base.reference)
    if not blocks:
        return [DepthCut("the whole base", 0, Boundary(anatomy.prefix, 0, "kept"))]
    return [
        DepthCut(f"depth {depth} of {blocks}", depth, Boundary(anatomy.blocks[depth - 1], 0, "kept"))
        for depth in depths_of(blocks)
    ]


def direct_values(site: CutSite, cuts: list[DepthCut], index: int) -> dict[str, Tensor]:
    """Return the first tensor that each place returns for one row, without the axis of rows."""
    adapted = site.adapted
    example = adapted.task.encode(site.snapshot.train.row(index), adapted.context, train=False)
    batch = to_device(adapted.task.collate([example], adapted.context), site.harness.device)
    found: dict[str, Tensor] = {}

    def catching(key: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            leaves, _ = tree_flatten(output)
            found[key] = next(leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point())[0].cpu()

        return hook

    with ExitStack() as stack:
        for one in cuts:
            module = adapted.model.get_submodule(one.read.module)
            stack.callback(module.register_forward_hook(catching(one.read.key)).remove)
        with torch.no_grad():
            adapted.forward(batch)
    return found
