"""Made shifts of SST-2, tickets and pneumonia, from which the thresholds of `regraft.adaptation` come.

python tests/benchmarks/adapt_rules.py

Only rows of training files are read. For every shift: what the diagnosis measures, each candidate's accuracy beside
source-only's, and what `choose` takes without labels.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import record
import torch
from adapt_features import changed, development, fitted, parts
from torch import Tensor
from torch.nn import functional as F

from regraft.adaptation.choice import AdaptCandidate, Evidence, choose
from regraft.adaptation.correction import outputs_of
from regraft.adaptation.grounds import grounds_of
from regraft.adaptation.members import corrections
from regraft.adaptation.probabilities import accuracy
from regraft.adaptation.shift import Shift, diagnose
from regraft.adaptation.sides import LinearHead, Side
from regraft.adaptation.validator import Outputs
from regraft.losses.mcc import class_confusion, row_weights

SETS = ("tickets", "sst2", "pneumonia")
STEPS, RATE = 200, 0.02
DRAWS = 4
"""Draws of each label shift and of no shift."""


def main() -> int:
    """Measure all shifts and print a line for each."""
    torch.set_num_threads(1)
    rows = [row for name in SETS for row in (*same_features(name), *other_features(name))]
    summary = {
        kind: {
            "shifts": len(found),
            "diagnosed": {name: sum(row["kind"] == name for row in found) for name in ("none", "label", "covariate")},
            "largest_auc": max(row["auc"] for row in found),
            "weighted_auc": [min(row["weighted_auc"] for row in found), max(row["weighted_auc"] for row in found)],
            "largest_mmd": max(row["mmd"] for row in found),
            "mean_gain": round(sum(row["gain"] for row in found) / len(found), 4),
            "worst_gain": min(row["gain"] for row in found),
        }
        for kind in ("none", "label", "features")
        if (found := [row for row in rows if row["made"] == kind])
    }
    record.write("adapt_rules", {"summary": summary, "shifts": rows})
    return 0


def same_features(name: str) -> list[dict[str, Any]]:
    """Measure draws without a shift, and with moved shares of the classes."""
    training, held, pool = development(name)
    head = fitted(training)
    rows = []
    for seed in range(DRAWS):
        target = parts(pool, (min(pool.rows, 600),), seed)[0]
        rows.append(measured(f"{name} as it is {seed}", "none", (head, held, target)))
        for strength in (0.3, 1.0):
            shares = skewed(head.classes, strength, seed)
            rows.append(
                measured(f"{name} Dirichlet({strength}) {seed}", "label", (head, held, drawn(pool, shares, seed)))
            )
    return rows


def other_features(name: str) -> list[dict[str, Any]]:
    """Measure changed texts and pictures, as they are and with moved shares."""
    training, held, _ = development(name)
    head = fitted(training)
    rows = []
    for change, side in changed(name).items():
        rows.append(measured(f"{name} {change}", "features", (head, held, side), training))
        shares = skewed(head.classes, 1.0, 0)
        rows.append(measured(f"{name} {change} and shares", "features", (head, held, drawn(side, shares, 0)), training))
    return rows


def skewed(classes: int, strength: float, seed: int) -> Tensor:
    """Return shares of the classes from a Dirichlet distribution."""
    torch.manual_seed(seed)
    return torch.distributions.Dirichlet(torch.full((classes,), strength, dtype=torch.float64)).sample()


def drawn(pool: Side, shares: Tensor, seed: int, rows: int = 300) -> Side:
    """Return rows whose classes have these shares, drawn with replacement."""
    assert pool.labels is not None
    weights = (shares / torch.bincount(pool.labels, minlength=len(shares)).clamp_min(1))[pool.labels]
    chosen = torch.multinomial(weights, rows, replacement=True, generator=torch.Generator().manual_seed(seed))
    return Side(pool.features[chosen], pool.labels[chosen])


def measured(
    name: str, made: str, sides: tuple[LinearHead, Side, Side], training: Side | None = None
) -> dict[str, Any]:
    """Return what is found of one shift; trained candidates are tried where `training` rows are given."""
    head, held, target = sides
    shift = diagnose(held, Side(target.features), head)
    offered = candidates(head, held, target)
    if training is not None:
        offered += trained(head, (training, held, target))
    usual = AdaptCandidate("source-only", outputs_of(head, held, target))
    choice = choose(offered, usual, shift)
    assert target.labels is not None
    right = {one.name: round(accuracy(one.outputs.target_logits, target.labels), 4) for one in (usual, *offered)}
    values = {one.name: one.scores for one in choice.judgements}
    row = {
        "name": name,
        "made": made,
        **figures(shift),
        **asdict(grounds_of(usual.outputs, next(one.outputs for one in offered if one.name == "zscore"))),
        "accuracy": right,
        "im": {key: round(found["im"] or 0, 4) for key, found in values.items()},
        "chosen": choice.name,
        "gain": round(right[choice.name] - right["source-only"], 4),
        "against": {one.name: one.reason[:90] for one in choice.judgements[1:] if not one.chosen},
    }
    print({key: value for key, value in row.items() if key != "against"}, flush=True)
    return row


def figures(shift: Shift) -> dict[str, Any]:
    """Return a diagnosis as numbers."""
    assert shift.classifier and shift.mmd and shift.prior and shift.weighted_auc is not None
    return {
        "kind": str(shift.kind),
        "auc": round(shift.classifier.statistic, 3),
        "auc_p": round(shift.classifier.p, 5),
        "mmd": round(shift.mmd.statistic, 5),
        "mmd_p": shift.mmd.p,
        "moved": shift.prior.moved,
        "distance": round(shift.prior.distance, 3),
        "weighted_auc": round(shift.weighted_auc, 3),
    }


def candidates(head: LinearHead, held: Side, target: Side) -> list[AdaptCandidate]:
    """Return the folded corrections."""
    found = []
    for name in ("prior", "zscore", "coral"):
        member = corrections()[name]
        evidence = Evidence.PRIOR if member.for_label_shift else Evidence.VALIDATORS
        found.append(AdaptCandidate(name, outputs_of(head, held, target, member), evidence))
    return found


def trained(head: LinearHead, sides: tuple[Side, Side, Side]) -> list[AdaptCandidate]:
    """Return heads that MCC trained: on features as they are, and on z-scores; and one that collapsed."""
    training, held, target = sides
    mapped = Side(corrections()["zscore"].mapped(held, target))
    found = []
    for name, rows in (("mcc", target), ("zscore-mcc", mapped)):
        one = mcc(head, training, rows)
        outputs = Outputs(
            held.features, one.logits(held.features), held.labels, rows.features, one.logits(rows.features)
        )
        found.append(AdaptCandidate(name, outputs, aligned=rows is mapped))
    flat = outputs_of(head, held, target)
    logits = flat.target_logits + 50 * torch.eye(head.classes)[0]
    collapsed = Outputs(flat.source_features, flat.source_logits, flat.source_labels, flat.target_features, logits)
    return [*found, AdaptCandidate("collapsed", collapsed)]


def mcc(head: LinearHead, source: Side, target: Side) -> LinearHead:
    """Return the head after steps of cross entropy on the source and class confusion on the target."""
    weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
    optimizer = torch.optim.Adam([weight, bias], lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        shares = ((target.features @ weight.T + bias) / 2.5).softmax(1)
        loss = F.cross_entropy(source.features @ weight.T + bias, source.labels)
        (loss + class_confusion(shares, row_weights(shares))).backward()
        optimizer.step()
    return LinearHead(weight, bias)


if __name__ == "__main__":
    raise SystemExit(main())
