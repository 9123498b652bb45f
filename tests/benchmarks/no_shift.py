"""No shift: target rows from the source's own distribution, 100 draws; `choose` must say "do not adapt".

python tests/benchmarks/no_shift.py

Half of the draws are of SST-2 and half of tickets. Source and target are drawn together from rows that judge, and the
candidates are the folded corrections and a head that MCC trained.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import record
import torch
from adapt_features import fitted, parts, sst2, text_side, tickets
from adapt_rules import candidates, figures, trained
from label_shift import judge

from regraft.adaptation.choice import AdaptCandidate, choose
from regraft.adaptation.correction import outputs_of
from regraft.adaptation.shift import Shift, ShiftKind, diagnose
from regraft.adaptation.sides import LinearHead, Side

DRAWS = 100
LEAST = 97
"""Fewest draws in which nothing is adapted."""
SIZES = {"sst2": (600, 600), "tickets": (120, 120)}
"""Held-out source rows and target rows of a draw."""


def main() -> int:
    """Measure every draw; return 1 if the goal is missed."""
    torch.set_num_threads(1)
    heads = {
        "sst2": parts(text_side("sst2-train", sst2("train")[:5000]), (2000,), 0)[0],
        "tickets": text_side("tickets-train", tickets("train")),
    }
    fits = {name: fitted(side) for name, side in heads.items()}
    rows: list[dict[str, Any]] = []
    for draw in range(DRAWS):
        name = "sst2" if draw % 2 else "tickets"
        held, target = parts(judge(name), SIZES[name], draw)
        head, unlabelled = fits[name], Side(target.features)
        shift = diagnose(held, unlabelled, head, draw)
        chosen = (
            "source-only" if shift.kind is ShiftKind.NONE else choice_of(head, (heads[name], held, unlabelled), shift)
        )
        rows.append({"set": name, "draw": draw, "chosen": chosen, **figures(shift)})
    left = sum(row["chosen"] == "source-only" for row in rows)
    found = {
        "do_not_adapt": left,
        "kinds": Counter(row["kind"] for row in rows),
        "goal": LEAST,
        "reached": left >= LEAST,
    }
    print(found)
    record.write("no_shift", {**found, "draws": rows})
    return 0 if left >= LEAST else 1


def choice_of(head: LinearHead, sides: tuple[Side, Side, Side], shift: Shift) -> str:
    """Return the candidate chosen. Where no shift is found it is source-only, whatever the candidates are."""
    offered = [*candidates(head, *sides[1:]), *trained(head, sides)]
    return choose(offered, AdaptCandidate("source-only", outputs_of(head, *sides[1:])), shift).name


if __name__ == "__main__":
    raise SystemExit(main())
