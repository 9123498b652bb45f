"""Losses that compare vectors of a step's rows: in-batch negatives, triplets, and graded pairs.

`vectors` are (rows, columns, width) of length 1: an input, what belongs to it, and what does not. Each loss is a scalar
on the scale of a mean over rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def cut_to(vectors: Tensor, size: int) -> Tensor:
    """Return the first numbers of vectors (..., width), with the length 1 again."""
    return F.normalize(vectors[..., :size], dim=-1)


def every_size(vectors: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Return vectors as they are, then cut to each of the sizes (Kusupati et al., 2022)."""
    return [vectors, *(cut_to(vectors, size) for size in sizes)]


def ranking_loss(vectors: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Return the cross entropy of finding the pair of each input among those of all rows (Henderson et al., 2017).

    Negatives of all rows are candidates too. `keys` (rows, columns) are equal for equal contents: a candidate that
    equals the input, or what any row names as the pair of an equal input, is no negative and is left out.
    """
    candidates = vectors[:, 1:].transpose(0, 1).flatten(0, 1)
    scores = vectors[:, 0] @ candidates.T * scale
    return F.cross_entropy(scores.masked_fill(_no_negatives(keys), -torch.inf), _own(len(keys), keys.device))


def _no_negatives(keys: Tensor) -> Tensor:
    """Return which candidates are no negatives of a row, (rows, candidates); its own pair is none of them."""
    rows, found = len(keys), keys[:, 1:].T.flatten()
    inputs, contents = (torch.unique(part, return_inverse=True)[1] for part in (keys[:, 0], keys[:, 1:]))
    belongs = torch.zeros(rows, contents.numel(), dtype=torch.bool, device=keys.device)
    belongs[inputs, contents[:, 0]] = True
    alike = (found == keys[:, :1]) | belongs[inputs][:, contents.T.flatten()]
    own = _own(rows, keys.device)
    alike[own, own] = False
    return alike


def _own(rows: int, device: torch.device) -> Tensor:
    return torch.arange(rows, device=device)


def triplet_loss(vectors: Tensor, margin: float) -> Tensor:
    """Return the mean of how far a negative is not yet `margin` further, by cosine distance, than the pair."""
    near = (vectors[:, 0] * vectors[:, 1]).sum(-1, keepdim=True)
    far = torch.einsum("rw,rnw->rn", vectors[:, 0], vectors[:, 2:])
    return F.relu(far - near + margin).mean()


def cosent_loss(vectors: Tensor, scores: Tensor, scale: float) -> Tensor:
    """Return the CoSENT loss (Su, 2022): cosines of two rows should be ordered as their scores are."""
    cosines = (vectors[:, 0] * vectors[:, 1]).sum(-1) * scale
    apart = cosines.unsqueeze(1) - cosines
    wrong = apart.masked_fill(scores.unsqueeze(1) >= scores, -torch.inf).flatten()
    return torch.logsumexp(torch.cat([wrong.new_zeros(1), wrong]), 0)


def cosine_loss(vectors: Tensor, scores: Tensor) -> Tensor:
    """Return the mean squared difference of cosines and scores."""
    return F.mse_loss((vectors[:, 0] * vectors[:, 1]).sum(-1), scores)
