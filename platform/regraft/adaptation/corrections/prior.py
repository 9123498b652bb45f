"""Prior correction: classes are more or less frequent among target rows, and look the same."""

from __future__ import annotations

from typing import ClassVar

from regraft.adaptation.correction import Correction
from regraft.adaptation.label_prior import point_estimate
from regraft.adaptation.sides import LinearHead, Side, check_sides
from regraft.errors import RequestError


class PriorCorrection(Correction):
    """Calibrated logits plus ln(target share / source share), the target's shares by EM (Saerens et al., 2002).

    It is right under label shift alone, and loses much where features moved: apply it where `diagnose` says so.
    """

    name: ClassVar[str] = "prior"
    for_label_shift: ClassVar[bool] = True

    def fold(self, head: LinearHead, source: Side, target: Side) -> LinearHead:
        """Return the calibrated head with moved biases. The source rows are labelled and not those it was fitted on."""
        check_sides(source, target, head)
        if source.labels is None:
            raise RequestError("the prior's correction needs labelled source rows")
        found = point_estimate(head.logits(source.features), source.labels, head.logits(target.features))
        scale = found.calibration.temperature
        return LinearHead(head.weight / scale, found.calibration.logits(head.bias) + found.ratio.log())
