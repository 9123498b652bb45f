"""Distillation: the model answers as a registered model does."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from regraft.contracts import Anatomy, Need, Step, TeacherLoss


class Distill(TeacherLoss):
    """Knowledge distillation (Hinton et al., 2015): T^2 KL(teacher || model) of probabilities at temperature T.

    With several labels a row, each label is a problem of two classes, and the mean over labels counts.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"classes"})

    temperature: float = Field(2.0, gt=0)
    """Divides the logits of both: above 1, what the teacher says of the other classes weighs more."""

    def build(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Return the term."""
        return Divergence(self.teacher, self.temperature)


class Divergence(nn.Module):
    """The divergence of the model's probabilities from a teacher's, as a mean over rows."""

    def __init__(self, teacher: str, temperature: float) -> None:
        super().__init__()
        self.teacher, self.temperature = teacher, temperature

    def forward(self, step: Step) -> Tensor:
        """Return the divergence, a scalar; 0 where the model answers as the teacher."""
        logits: Tensor = step.output.logits
        precise = logits.double() if logits.dtype.itemsize > 4 else logits.float()
        given = step.batch["teachers"][self.teacher].to(precise.dtype)
        found, wanted = precise / self.temperature, given / self.temperature
        if step.batch["labels"].ndim == 1:
            rows = F.kl_div(found.log_softmax(1), wanted.log_softmax(1), reduction="none", log_target=True).sum(1)
        else:
            chances = wanted.sigmoid()
            rows = (chances * (F.logsigmoid(wanted) - F.logsigmoid(found))).mean(1)
            rows = rows + ((1 - chances) * (F.logsigmoid(-wanted) - F.logsigmoid(-found))).mean(1)
        return rows.mean() * self.temperature**2
