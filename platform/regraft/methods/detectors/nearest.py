"""Distance of patches to the nearest of a bank of usual ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regraft.methods.detectors.detector import Detector


class NearestPatch(Detector):
    """A bank of usual patches; the distance of a patch is that to its nearest one in the bank."""

    def __init__(self, capacity: int, width: int, *, cosine: bool, top_share: float) -> None:
        """`cosine` compares directions, in place of the patches themselves."""
        super().__init__(top_share)
        self._cosine = cosine
        self.bank = nn.Parameter(torch.zeros(capacity, width))
        self.scale = nn.Parameter(torch.ones(width))
        self.held = nn.Parameter(torch.zeros(()))

    def code(self) -> str:
        """Return Python that makes a `score` of `patches` with the tensors `detector`."""
        scaled = "normalize(vectors, dim=1)" if self._cosine else 'vectors * detector["scale"]'
        return (
            "vectors = patches.permute(0, 2, 3, 1).flatten(0, 2)\n"
            f'distances = torch.cdist({scaled}, detector["bank"][: max(1, int(detector["held"]))]).amin(1)\n'
            f"{self.score_code()}"
        )

    @property
    def size(self) -> int:
        """The number of patches in the bank."""
        return min(max(0, int(self.held.item())), len(self.bank))

    def scaled(self, patches: Tensor) -> Tensor:
        """Return patches (..., width) as the bank holds them."""
        found = patches.float()
        scaled: Tensor = F.normalize(found, dim=-1) if self._cosine else found * self.scale.float()
        return scaled

    def distances(self, patches: Tensor, without: Tensor | None = None) -> Tensor:
        """Return distances (rows, height, width) to the bank, but for its patches `without`, (capacity,) of bool."""
        rows, width, height, across = patches.shape
        asked = self.scaled(patches.permute(0, 2, 3, 1).reshape(-1, width))
        bank = self.bank[: self.size].float()
        if not len(bank):
            bank = asked.new_zeros(1, width)
        products = asked @ bank.T
        away = bank.square().sum(1) - 2 * products
        if without is not None:
            away[:, without[: len(bank)]] = torch.inf
        # The difference itself: squares and products of a patch that is in the bank leave nothing but rounding.
        nearest: Tensor = (asked - bank[away.argmin(1)]).norm(dim=1)
        return nearest.reshape(rows, height, across)

    def fill(self, patches: Tensor) -> None:
        """Make these patches, as `scaled` returns them, the bank."""
        with torch.no_grad():
            self.bank[:] = patches[0].to(self.bank)  # in bf16 the number of patches is rounded: none is made up
            self.bank[: len(patches)] = patches.to(self.bank)
            self.held.fill_(float(len(patches)))

    def put(self, patch: Tensor) -> None:
        """Add a patch (width,); in a full bank it replaces the patch that is nearest to another one."""
        with torch.no_grad():
            size = self.size
            if size < len(self.bank):
                self.bank[size] = patch
                self.held.fill_(size + 1.0)
                return
            between = torch.cdist(self.bank, self.bank)
            between.fill_diagonal_(torch.inf)
            self.bank[int(between.amin(1).argmin())] = patch
