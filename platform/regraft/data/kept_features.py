"""Features of evaluation rows that a version keeps: what its head's last layer read, and the class of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from regraft.data.rows import Rows
from regraft.errors import Damaged
from regraft.store.extension_panics import panics_as_damage

FILE = "eval-features.safetensors"
"""Name of the file beside a version's delta."""
MOST_ROWS = 2000
"""Rows that a version keeps at most."""
MOST_BYTES = 256 << 20
"""Largest file that is read."""
TEACHABLE = frozenset({"features", "classes", "baselines"})
"""What a task supports whose models may learn another class: one label a row, by logits from one vector."""
_ROUNDING = 2.0**-10
"""Rounding to halves, as a share of what sets rows apart; with more, numbers are stored in 32 bits."""


@dataclass(frozen=True, eq=False)
class KeptFeatures:
    """Features (rows, width) in fp32, and classes (rows,), both on the CPU."""

    features: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.classes)

    def chosen(self, most: int = MOST_ROWS) -> Self:
        """Return at most that many rows."""
        rows = torch.from_numpy(chosen_rows(self.classes.numpy(), most))
        return type(self)(self.features[rows], self.classes[rows])

    def dump(self) -> bytes:
        """Return the stored form: halves where rounding does not matter, and else 32 bits."""
        half, full = self.features.half(), self.features.double()
        rounding, apart = (half.double() - full).norm(), (full - full.mean(dim=0)).norm()
        features = half if bool(rounding <= _ROUNDING * apart) else self.features.float()
        return save({"features": features.contiguous(), "classes": self.classes.to(torch.int32)})

    @classmethod
    def load(cls, data: bytes, classes: int, where: str) -> Self:
        """Read the stored form of a model with that many classes. Raises Damaged, which names the version."""
        try:
            with panics_as_damage(FILE, where):
                found = load(data)
            features, numbers = found["features"].float(), found["classes"].long()
        except (SafetensorError, ValueError, KeyError) as error:
            raise Damaged(f"{FILE} cannot be read: {error}", where=where) from error
        fits = features.ndim == 2 and numbers.shape == features.shape[:1] and bool(features.isfinite().all())
        if not fits or (len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < classes):
            raise Damaged(f"{FILE} holds no features of rows of {classes} classes", where=where)
        return cls(features, numbers)


def chosen_rows(classes: NDArray[np.int64], most: int = MOST_ROWS) -> NDArray[np.int64]:
    """Return the indices of at most `most` rows, in order, with the classes' shares as among all rows."""
    if len(classes) <= most:
        return np.arange(len(classes))
    by_class = np.argsort(classes, kind="stable")
    places = np.linspace(0, len(classes) - 1, most).round().astype(np.int64)
    return np.sort(by_class[places])


def classes_of(rows: Rows, labels: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the number of each row's label, (rows,), where the task counts one label a row; -1 for another label."""
    found = np.full(len(rows), -1, np.int64)
    for number, label in enumerate(labels):
        if label in rows.counts:
            found[rows.labelled(label)] = number
    return found
