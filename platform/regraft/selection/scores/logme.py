"""LogME: how probable the labels are under a linear model of the features."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from regraft.selection.evidence import best_evidence
from regraft.selection.score import FeatureScore, FeatureTarget, Floats, Scored
from regraft.selection.spectrum import centred, spectrum


class LogMaximumEvidence(FeatureScore):
    """The maximum log evidence (You et al., 2021) a degree of freedom, the mean over classes, numbers or tags.

    Unlike the published code it does not depend on the scale of features: they are centred and divided by their root
    mean square, columns of labels by their deviation, and the maximum is found without an absolute epsilon.
    """

    name: ClassVar[str] = "logme"

    def _evaluate(self, features: Floats, target: FeatureTarget, draw: np.random.Generator) -> Scored:
        columns = target.columns()
        columns = columns[:, columns.std(0) > 0]
        columns = (columns - columns.mean(0)) / columns.std(0)
        return Scored(float(best_evidence(spectrum(centred(features)), columns, len(target) - 1).mean()))
