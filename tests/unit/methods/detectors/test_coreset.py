"""The bounded sample and the coreset: equal to their plain definitions, whatever the order of rows and workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from regraft.methods.detectors.coreset import farthest_first
from regraft.methods.detectors.nearest import NearestPatch
from regraft.methods.detectors.sampling import PatchSample, patch_keys


def sampled(patches: Tensor, parts: list[list[int]], most: int) -> PatchSample:
    found = PatchSample.empty(most, patches.shape[2])
    for part in parts:
        found.add(patches[part], torch.tensor(part))
    return found


def test_a_sample_depends_on_the_rows_alone() -> None:
    patches = torch.randn(30, 7, 3, generator=torch.Generator().manual_seed(0))
    rows = np.random.default_rng(0).permutation(30).tolist()
    whole = sampled(patches, [list(range(30))], 50)
    shuffled = sampled(patches, [rows[start : start + 4] for start in range(0, 30, 4)], 50)
    shared = PatchSample.merged([sampled(patches, [rows[worker::3]], 50) for worker in range(3)])
    for other in (shuffled, shared):
        assert torch.equal(other.patches, whole.patches) and (other.rows == whole.rows).all()
    assert len(whole.patches) == 50
    keys = patch_keys(np.repeat(np.arange(30), 7), np.tile(np.arange(7), 30))
    assert len(set(keys.tolist())) == 210 and whole.keys.tolist() == sorted(keys.tolist())[:50]


def test_all_patches_are_sampled_where_they_fit() -> None:
    patches = torch.randn(3, 4, 2)
    found = sampled(patches, [[0, 1, 2]], 100)
    assert sorted(found.patches.flatten().tolist()) == sorted(patches.flatten().tolist())


@pytest.mark.parametrize("width", [2, 20])
def test_each_chosen_patch_is_the_farthest_from_those_before_it(width: int) -> None:
    patches = torch.randn(60, width, generator=torch.Generator().manual_seed(1))
    chosen = farthest_first(patches, 12).tolist()
    assert len(set(chosen)) == 12
    for number in range(1, 12):
        away = torch.cdist(patches, patches[chosen[:number]]).amin(1)
        assert away[chosen[number]] == pytest.approx(float(away.max()), rel=1e-4)


def test_equal_patches_are_chosen_once() -> None:
    patches = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).repeat(10, 1)
    assert len(farthest_first(patches, 9)) == 2
    assert len(farthest_first(torch.zeros(0, 2), 9)) == 0


def test_distances_are_those_of_a_plain_search() -> None:
    draw = torch.Generator().manual_seed(2)
    layer = NearestPatch(20, 5, cosine=False, top_share=0)
    bank, asked = torch.randn(11, 5, generator=draw), torch.randn(2, 5, 3, 4, generator=draw)
    layer.fill(bank)
    flat = asked.permute(0, 2, 3, 1).reshape(-1, 5)
    expected = torch.cdist(flat, bank).amin(1).reshape(2, 3, 4)
    torch.testing.assert_close(layer.distances(asked), expected, rtol=1e-4, atol=1e-5)
    without = torch.zeros(20, dtype=torch.bool)
    without[:4] = True
    expected = torch.cdist(flat, bank[4:]).amin(1).reshape(2, 3, 4)
    torch.testing.assert_close(layer.distances(asked, without), expected, rtol=1e-4, atol=1e-5)


def test_a_full_bank_gives_up_the_patch_that_is_least_missed() -> None:
    layer = NearestPatch(3, 1, cosine=False, top_share=0)
    layer.fill(torch.tensor([[0.0], [10.0], [10.1]]))
    layer.put(torch.tensor([30.0]))
    kept = sorted(layer.bank.flatten().tolist())
    assert kept[0] == 0.0 and kept[-1] == 30.0 and kept[1] in (10.0, pytest.approx(10.1))
