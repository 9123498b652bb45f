"""Corrections to batch norm in transformers' models: two defaults that end a training run or spoil it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

MOMENTUM = 0.1
"""The default of torch."""


def repair_batch_norm(model: nn.Module) -> None:
    """Make every batch norm of a model train as its authors intended; nothing changes in eval mode.

    MobileNetV1, V2 and EfficientNet have TensorFlow's momentum (0.9997, 0.997, 0.99). There it is the share of the
    old running statistics that is kept; in torch it is the share that is replaced. The statistics would be those of
    the last batch alone, often one or two rows, and a well-trained model would evaluate at chance level.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            if module.momentum is not None and module.momentum > 0.5:
                module.momentum = MOMENTUM
            module.register_forward_pre_hook(_use_running_statistics)
            module.register_forward_hook(_restore_train_mode)


def _use_running_statistics(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Use the running statistics in a batch norm that gets one value per channel.

    Some layers pool an image to one pixel (heads of DeepLab and PSPNet, deep networks with small images). There a
    micro-batch of one row has one value, which has no variance: torch raises ValueError in the middle of a run.
    """
    if module.training and inputs[0].numel() == inputs[0].shape[1]:
        module.training, module._was_training = False, True  # type: ignore[assignment]


def _restore_train_mode(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Undo `_use_running_statistics` after the forward pass."""
    if getattr(module, "_was_training", False):
        module.training, module._was_training = True, False  # type: ignore[assignment]
