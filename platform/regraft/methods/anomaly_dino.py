"""AnomalyDINO: usual patches compared by direction, as suits self-supervised transformers (Damm et al., 2025)."""

from __future__ import annotations

from typing import ClassVar

from regraft.methods.patchcore import Patchcore


class AnomalyDino(Patchcore):
    """A bank of directions of usual patches; an image's score is the mean of its largest cosine distances.

    Patches are scaled to length 1, so that distances are those of directions. The bank holds all of the sample where
    the bound allows, and otherwise a greedy coreset of it.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset({"anomalydino", "dino-knn"})
    cosine: ClassVar[bool] = True
