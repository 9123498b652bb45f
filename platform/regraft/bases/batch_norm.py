"""Two ways in which batch norm, as transformers' models come, ends a run or spoils it; both are mended here."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

MOMENTUM = 0.1
"""torch's own."""


def mend(model: nn.Module) -> None:
    """Make every batch norm of a model train as its authors meant it; nothing changes in eval mode.

    MobileNetV1, V2 and EfficientNet bring TensorFlow's momentum (0.9997, 0.997, 0.99), which there is the share of the
    old running statistics that stays and in torch the share that goes: the statistics would be those of the last batch
    alone, often of one or two rows, and a model that trained well would evaluate as if at random.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            if module.momentum is not None and module.momentum > 0.5:
                module.momentum = MOMENTUM
            module.register_forward_pre_hook(_spare_lone_values)
            module.register_forward_hook(_train_again)


def _spare_lone_values(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """A batch norm that gets one value per channel reads its running statistics instead.

    Where an image is pooled to one pixel (DeepLab's and PSPNet's heads, small images in deep networks), a micro-batch
    of one row holds one value, of which there is no variance: torch refuses it, in the middle of a run.
    """
    if module.training and inputs[0].numel() == inputs[0].shape[1]:
        module.training, module._lone = False, True  # type: ignore[assignment]


def _train_again(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    if getattr(module, "_lone", False):
        module.training, module._lone = True, False  # type: ignore[assignment]
