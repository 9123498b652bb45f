"""L2-SP: a penalty on the distance of trained weights from the base's values."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from regraft.contracts import Anatomy, Loss, Step, under
from regraft.errors import Unsupported

_ADDED = (".lora_", ".ia3_l")
"""In names of parameters that a method adds beside the base's."""


class L2SP(Loss):
    """Explicit inductive bias for transfer (Li et al., 2018): alpha/2 |w - w_base|^2 over the base's trained weights.

    Weight decay pulls weights to zero, and so away from the base; this term pulls them to the base.
    """

    alpha: float = Field(0.01, ge=0)
    """Strength of the pull."""

    def build(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Return the term. Raises Unsupported where no weight of the base is trained."""
        chosen = [
            number
            for number, (name, parameter) in enumerate(model.named_parameters())
            if parameter.requires_grad and not under(name, anatomy.head) and not any(part in name for part in _ADDED)
        ]
        if not chosen:
            raise Unsupported(
                "l2-sp pulls weights of the base back to it, and this method moves none: remove one of the two",
                where="losses",
            )
        return StartingPoint(model, tuple(chosen), self.alpha)


class StartingPoint(nn.Module):
    """alpha/2 times the squared distance of a model's weights from their values at construction."""

    def __init__(self, model: nn.Module, chosen: tuple[int, ...], alpha: float) -> None:
        super().__init__()
        # In a tuple, the model is not registered as a submodule: its weights are not this term's. Indices in the order
        # of its parameters survive wrappers that rename parameters or replace them by shards.
        self._model = (model,)
        self._chosen = chosen
        self.alpha = alpha
        parameters = list(model.parameters())
        for number in chosen:
            start = parameters[number].detach().clone()
            self.register_buffer(f"start_{number}", start, persistent=False)

    def forward(self, step: Step) -> Tensor:
        """Return the penalty, a scalar; `step` is not used."""
        parameters = list(self._model[0].parameters())
        total = torch.zeros((), device=parameters[self._chosen[0]].device)
        for number in self._chosen:
            weight = parameters[number]
            whole: Tensor = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
            total = total + (whole - self.get_buffer(f"start_{number}").to(whole.device)).square().sum()
        return 0.5 * self.alpha * total
