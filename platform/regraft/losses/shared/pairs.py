"""What losses read of the source rows and the target rows of a step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regraft.contracts import Anatomy, ForwardPass, Step, under
from regraft.errors import Unsupported


def target_of(step: Step) -> ForwardPass:
    """Return the pass of the target rows. Raises Unsupported where a step has none."""
    if step.target is None:
        raise Unsupported("this loss compares the training rows with rows of data.target: name them", where="losses")
    return step.target


def features_of(step: Step) -> tuple[Tensor, Tensor]:
    """Return the features of both sides, (rows, width) each, in fp32 at least."""
    return features_of_rows(step), features_of_rows(target_of(step))


def features_of_rows(side: ForwardPass) -> Tensor:
    """Return the features of one side, (rows, width), in fp32 at least. Raises Unsupported where there are none."""
    if side.features is None or side.features.ndim != 2:
        raise Unsupported("this loss reads one vector for each row, and the head reads none", where="losses")
    return _precise(side.features)


def class_probabilities(step: Step, side: ForwardPass, temperature: float) -> list[Tensor]:
    """Return a side's probabilities (rows, classes); with several labels a row, one pair of columns a label."""
    logits = _precise(side.output.logits) / temperature
    if step.batch["labels"].ndim == 1:
        return [logits.softmax(1)]
    present = logits.sigmoid()
    return [torch.stack([one, 1 - one], 1) for one in present.unbind(1)]


def last_linear(model: nn.Module, anatomy: Anatomy) -> nn.Linear:
    """Return the head's last linear layer. Raises Unsupported where there is none."""
    layers = [
        module for name, module in model.named_modules() if under(name, anatomy.head) and isinstance(module, nn.Linear)
    ]
    if not layers:
        raise Unsupported("this loss reads what a linear layer of the head reads, and there is none", where="losses")
    return layers[-1]


def width_of_features(model: nn.Module, anatomy: Anatomy) -> int:
    """Return the width of the features that the head's last linear layer reads."""
    return last_linear(model, anatomy).in_features


def classes_of(model: nn.Module, anatomy: Anatomy) -> int:
    """Return the number of the head's outputs."""
    return last_linear(model, anatomy).out_features


def _precise(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
