"""PatchCore: a small bank of usual patches; what is far from all of them is an anomaly (Roth et al., 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from regraft.contracts import FeatureRows
from regraft.methods.detectors.coreset import farthest_first
from regraft.methods.detectors.detector import Detector
from regraft.methods.detectors.nearest import NearestPatch
from regraft.methods.detectors.patch_method import PatchMethod, learned_from, refuse_none_good
from regraft.methods.detectors.sampling import PatchSample

TAUGHT = 0.1
"""Share of the bank that is left free for what a model is taught later."""


class Patchcore(PatchMethod):
    """A greedy coreset of patches of good rows, chosen from a sample of bounded size that is read row by row.

    The score of an image is the distance of its patch that is farthest from the bank. Scores of good rows, against
    which a score is judged, are found without their own patches.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset({"patch-core", "coreset", "spade"})
    cosine: ClassVar[bool] = False

    sample: PositiveInt = 20_000
    """Patches of good rows from which the bank is chosen: those of a hash of row and position, whatever the order."""

    def detector(self, width: int) -> Detector:
        """Return an empty bank."""
        return NearestPatch(max(2, self.floats() // width), width, cosine=self.cosine, top_share=self.top_share)

    def fit(self, layer: Any, rows: FeatureRows) -> str | None:
        """Fill the bank from one pass over the rows, and keep the scores of good rows from a second one."""
        width = layer.bank.shape[1]
        sample = PatchSample.empty(self.sample, width)
        sums = rows.summed(_sums(rows, sample))
        good, total = int(sums["good"]), int(sums["rows"])
        refuse_none_good(good, total)
        if not self.cosine:
            layer.scale.copy_(_inverse_deviation(sums))
        sample = PatchSample.merged(rows.gathered(sample))
        owners = self._fill(layer, sample, rows)
        scores = list(_scores_without_own(layer, rows, owners))
        layer.keep_scores([score for part in rows.gathered(scores) for score in part])
        kept = f"{layer.size:,} of {len(sample.patches):,} sampled patches are kept"
        return learned_from(good, total, f"{kept}, {4 * layer.size * width / 1e6:.2f} MB")

    def _fill(self, layer: NearestPatch, sample: PatchSample, rows: FeatureRows) -> Tensor:
        """Fill the bank and return the training row of each of its patches."""
        patches = layer.scaled(sample.patches.to(layer.bank.device)).cpu()
        most = max(1, round((1 - TAUGHT) * len(layer.bank)))
        chosen = rows.gathered(farthest_first(patches, most))[0]  # another processor could choose otherwise
        layer.fill(patches[chosen])
        owners = torch.full((len(layer.bank),), -1, dtype=torch.long)
        owners[: len(chosen)] = torch.from_numpy(sample.rows)[chosen]
        return owners

    def learn(self, layer: Any, features: Tensor, largest: float) -> list[int]:
        """Add the farthest patches of each row to the bank, one by one, until its score is small enough."""
        changed = []
        for row in features[:, None]:
            flat = row.permute(0, 2, 3, 1).flatten(0, 2)
            added = 0
            while added < len(flat):
                distances = layer.distances(row)
                if float(layer.scores(distances)) <= largest:
                    break
                layer.put(layer.scaled(flat[int(distances.argmax())]))
                added += 1
            changed.append(added)
        return changed


def _sums(rows: FeatureRows, sample: PatchSample) -> Iterator[dict[str, Tensor]]:
    """Sample the patches of good rows, and yield sums over all of them in float64."""
    for features, targets, indices in rows:
        good = targets >= 0
        patches = features[good].float().flatten(2).transpose(1, 2)
        sample.add(patches, indices[good.cpu()])
        flat = patches.flatten(0, 1).double()
        counts = {"rows": len(targets), "good": int(good.sum()), "patches": len(flat)}
        yield {
            "sum": flat.sum(0),
            "square": flat.square().sum(0),
            **{name: flat.new_tensor(float(count)) for name, count in counts.items()},
        }


def _inverse_deviation(sums: dict[str, Tensor]) -> Tensor:
    """Return one over the deviation of each channel; 1 for a channel that never changes."""
    mean = sums["sum"] / sums["patches"]
    deviation = (sums["square"] / sums["patches"] - mean.square()).clamp_min(0).sqrt()
    steady = deviation <= 1e-6 * deviation.max()
    return torch.where(steady, torch.ones_like(deviation), 1 / deviation.clamp_min(1e-12)).float()


def _scores_without_own(layer: NearestPatch, rows: FeatureRows, owners: Tensor) -> Iterator[float]:
    """Yield the score of each good row by a bank without its own patches."""
    owners = owners.to(layer.bank.device)
    for features, targets, indices in rows:
        for row, target, index in zip(features[:, None], targets.tolist(), indices.tolist(), strict=True):
            if target >= 0:
                own = owners == index
                without = None if bool(own[: layer.size].all()) else own  # a bank of one row has no other patches
                yield float(layer.scores(layer.distances(row, without)))
