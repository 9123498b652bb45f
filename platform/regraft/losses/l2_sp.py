"""L2-SP: what is fine-tuned is pulled back to where the base left it."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from regraft.contracts import Anatomy, Loss, Step, under
from regraft.errors import Unsupported


class L2SP(Loss):
    """Explicit inductive bias for transfer (Li et al., 2018): alpha/2 |w - w_base|^2 over the base's moving weights.

    Weight decay pulls to zero and so forgets the base; this pulls to the base.
    """

    alpha: float = Field(0.01, ge=0)
    """Strength of the pull."""

    def build(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """The term; Unsupported when nothing of the base moves."""
        chosen = [
            number
            for number, (name, parameter) in enumerate(model.named_parameters())
            if parameter.requires_grad and not under(name, anatomy.head) and ".lora_" not in name
        ]
        if not chosen:
            raise Unsupported(
                "l2-sp pulls weights of the base back to it, and this method moves none: remove one of the two",
                where="losses",
            )
        return StartingPoint(model, tuple(chosen), self.alpha)


class StartingPoint(nn.Module):
    """alpha/2 times the squared distance of a model's weights from their values when this was made; a scalar."""

    def __init__(self, model: nn.Module, chosen: tuple[int, ...], alpha: float) -> None:
        super().__init__()
        # A tuple hides the model, whose weights are not this term's; places in the model's order of parameters
        # outlive wrappers that rename parameters or put new ones (shards) in their stead.
        self._model = (model,)
        self._chosen = chosen
        self.alpha = alpha
        parameters = list(model.parameters())
        for number in chosen:
            start = parameters[number].detach().clone()
            self.register_buffer(f"start_{number}", start, persistent=False)

    def forward(self, step: Step) -> Tensor:
        """The penalty; `step` is not looked at."""
        parameters = list(self._model[0].parameters())
        total = torch.zeros((), device=parameters[self._chosen[0]].device)
        for number in self._chosen:
            weight = parameters[number]
            whole: Tensor = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
            total = total + (whole - self.get_buffer(f"start_{number}").to(whole.device)).square().sum()
        return 0.5 * self.alpha * total
