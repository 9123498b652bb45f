"""What follows a paper agrees with skada, where it is installed (extra `oracle`).

Deviations of skada 0.6.0 that are left alone. Its SND keeps a row's similarity to itself, with the opposite sign, which
is e^-40 of a weight. Its DEV multiplies every weight with every loss (a column by a row) under its own loss, so it gets
one of a column here; and it weights a third of the source rows by a classifier of the rest, where ours weights every
row by a classifier of the other half, so risks are compared for given weights. Its CORAL moves source rows to the
target's covariance and by default shrinks features of unit scale, where ours moves target rows to the source's and
shrinks features as they are. It has no IM, no BNM and no prior by EM.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.model_selection import train_test_split
from torch.nn import functional as F

from regraft.adaptation.members import corrections, validators
from regraft.adaptation.sides import Side
from regraft.adaptation.validators.dev import risk
from unit.adaptation.made_rows import random, random_outputs

skada = pytest.importorskip("skada", reason="the extra `oracle` is not installed: skada is not there to compare with")
metrics = pytest.importorskip("skada.metrics")


class Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A model whose features are its logits."""

    module_ = SimpleNamespace(layer_name="features")

    def fit(self, rows: Any, labels: Any = None) -> Given:
        self.fitted_ = True
        self.classes_ = np.arange(4)
        return self

    def predict_features(self, rows: Any) -> Any:
        return rows

    def predict_proba(self, rows: Any, **_: Any) -> NDArray[np.float64]:
        return np.asarray(torch.from_numpy(np.asarray(rows)).softmax(1).numpy())


class Domains(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of domains that knows its odds: e to the first feature."""

    def fit(self, rows: Any, sides: Any) -> Domains:
        return self

    def predict_proba(self, rows: Any) -> NDArray[np.float64]:
        odds = np.exp(np.asarray(rows)[:, 0])
        return np.stack([odds / (1 + odds), 1 / (1 + odds)], 1)


def losses_of(labels: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cross entropies, (rows, 1)."""
    return -np.log(shares[np.arange(len(shares)), labels])[:, None]


def rows_of_both() -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    outputs = random_outputs(60)
    assert outputs.source_labels is not None
    rows = torch.cat([outputs.source_logits, outputs.target_logits]).numpy()
    labels = np.concatenate([outputs.source_labels.numpy(), np.zeros(60, dtype=np.int64)])
    return rows, labels, np.repeat([1, -2], 60)


def test_snd_is_skadas() -> None:
    rows, labels, domains = rows_of_both()
    found = metrics.SoftNeighborhoodDensity()._score(None, Given().fit(rows), rows, labels, sample_domain=domains)
    assert validators()["snd"].score(random_outputs(60)) == pytest.approx(found, abs=1e-6)


def test_devs_risk_is_skadas_for_the_same_weights() -> None:
    rows, labels, domains = rows_of_both()
    scorer = metrics.DeepEmbeddedValidation(domain_classifier=Domains(), loss_func=losses_of, random_state=3)
    found = scorer._score(None, Given().fit(rows), rows, labels, sample_domain=domains)
    fitting, held, _, wanted = train_test_split(
        rows[:60], labels[:60], test_size=0.33, random_state=np.random.RandomState(3)
    )
    weights = torch.from_numpy(np.exp(held[:, 0])) * len(fitting) / 60
    losses = F.cross_entropy(torch.from_numpy(held), torch.from_numpy(wanted), reduction="none")
    assert -risk(losses, weights) == pytest.approx(found, abs=1e-6)


def test_coral_is_skadas_with_the_sides_exchanged() -> None:
    source, target = random(200, 5, seed=1) @ random(5, 5, seed=2), random(150, 5, seed=3) @ random(5, 5, seed=4)
    source, target = source - source.mean(0), target - target.mean(0)
    shares = [ledoit_wolf_shrinkage(side.numpy(), assume_centered=True) for side in (target, source)]
    mapped = corrections()["coral"].mapped(Side(source), Side(target))
    parts = [
        skada.CORALAdapter(reg=share, assume_centered=True).fit(
            torch.cat([target, source]).numpy(), sample_domain=np.repeat([1, -2], [150, 200])
        )
        for share in shares
    ]
    wanted = target.numpy() @ parts[0].cov_source_inv_sqrt_ @ parts[1].cov_target_sqrt_
    np.testing.assert_allclose(mapped.numpy(), wanted, rtol=1e-6, atol=1e-6)
