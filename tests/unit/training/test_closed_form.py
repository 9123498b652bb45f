"""The second pass over the rows: its features are those of the first, kept or computed again."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.contracts import Batch
from regraft.spec.run import RunSpec
from regraft.training import closed_form
from regraft.training.session import train_local
from support.tiny import document


def test_features_are_kept_within_a_bound_and_the_head_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, passes, deltas = Adapted.features, [], []

    def counted(self: Adapted, batch: Batch) -> Tensor:
        passes[-1] += 1
        return features(self, batch)

    monkeypatch.setattr(Adapted, "features", counted)
    for kept in (1 << 20, 32 * 32 * 4, 0):
        monkeypatch.setattr(closed_form, "KEPT_BYTES", kept)
        passes.append(0)
        written = document(tmp_path, method={"type": "prototypes", "covariance": "shared"})
        train_local(RunSpec.resolve({**written, "store": str(tmp_path / f"store-{kept}")}))
        deltas.append((tmp_path / f"store-{kept}/models/tiny/v1/delta.safetensors").read_bytes())
    assert passes == [2, 3, 4]  # 60 rows are two batches
    assert deltas[0] == deltas[1] == deltas[2]
