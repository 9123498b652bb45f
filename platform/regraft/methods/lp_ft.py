"""LP-FT: the head is trained alone, and then the model is fine-tuned from that head."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import nn

from regraft.contracts import Anatomy, Phase, TrainingDefaults, TrainingFacts
from regraft.errors import Unsupported
from regraft.methods.feature_extraction import FeatureExtraction
from regraft.methods.freeze import Depth, Freeze


class LpFt(Freeze):
    """Linear probe, then fine-tuning from that head (Kumar et al., 2022), in two phases.

    A new head distorts what the base knows before it has learned anything; a trained one does not. In the first phase
    only the head moves, at `probe_lr`, on outputs of the base that are kept where that pays. In the second all that is
    not frozen moves, at `training.lr`. Each phase has a new optimizer, a warm-up over its own steps and its own course
    of the learning rate. `training.early_stopping` counts in the second phase alone.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset({"lpft", "lp+ft", "probe-then-finetune", "linear-probe-fine-tune"})
    by_depth: ClassVar[bool] = False

    depth: Depth = Field(0, examples=[0, "50%"])
    """Blocks that stay frozen in both phases, counted from the input, as in `freeze`."""
    probe: float = Field(0.65, gt=0, lt=1, examples=[0.65])
    """Share of the run's steps that the first phase takes, in whole epochs where there are two or more."""
    probe_lr: float = Field(1e-2, gt=0)
    """Peak learning rate of the head in the first phase."""

    def defaults(self, facts: TrainingFacts) -> TrainingDefaults:
        """Return the steps of `feature-extraction` and `full` together, and one small rate: the head is not new."""
        rate = 1e-4 if facts.tokens else 3e-4
        return TrainingDefaults(lr=rate, head_factor=1.0, epochs=facts.epochs(600, least=8, most=70))

    def depth_of(self, anatomy: Anatomy) -> int:
        """Return the written depth in blocks; 0 also on a base without blocks."""
        return super().depth_of(anatomy) if self.depth else 0

    def adapt(self, model: nn.Module, anatomy: Anatomy) -> None:
        """Free all that either phase moves. Raises Unsupported where the model has no head."""
        if not anatomy.head:
            raise Unsupported(
                f"it first trains what a task adds to a base, and there is nothing new in this {type(model).__name__}: "
                "all of it is the base's; write lora, freeze or full",
                where="method",
            )
        super().adapt(model, anatomy)

    def phases(self, steps: int, per_epoch: int, anatomy: Anatomy) -> tuple[Phase, ...]:
        """Return the probe and the fine-tuning."""
        unit = per_epoch if steps >= 2 * per_epoch else 1
        units = steps // unit
        end = unit * min(max(1, round(self.probe * units)), units - 1)
        return (Phase(moves=FeatureExtraction(), end=end, lr=self.probe_lr), Phase(moves=self, end=steps))
