"""BitFit: the biases of the base and the head are trained."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from regraft.contracts import Anatomy, Method, TrainingDefaults, TrainingFacts, under
from regraft.errors import Unsupported


class BitFit(Method):
    """Bias-term fine-tuning (Ben Zaken et al., 2022): every bias of the base, those of norms too, and the head.

    Weights, scales of norms and running statistics stay the base's.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset({"bias", "biases", "bias-only", "bias-tuning", "bias-term"})

    def defaults(self, facts: TrainingFacts) -> TrainingDefaults:
        """Return the values of `lora`, which moves about as few numbers."""
        return TrainingDefaults(lr=1e-3, head_factor=3.0, epochs=facts.epochs(200, least=3, most=20))

    def frozen(self, model: nn.Module, anatomy: Anatomy) -> tuple[str, ...]:
        """Return every parameter and buffer of the base but its biases.

        Raises Unsupported where the base has no biases.
        """
        names = [name for name, _ in model.named_parameters() if not under(name, anatomy.head)]
        moving = {name for name in names if _is_bias(name) and not under(name, anatomy.idle)}
        if not moving:
            raise Unsupported(
                f"bitfit trains the biases of the base, and this {type(model).__name__} has none; "
                "write ia3 or lora, which add a few weights beside those of the base",
                where="method",
            )
        buffers = [name for name, _ in model.named_buffers() if not under(name, anatomy.head)]
        return tuple(name for name in (*names, *buffers) if name not in moving)


def _is_bias(name: str) -> bool:
    """Return whether a parameter is added to a layer's outputs: `bias`, or `in_proj_bias` of PyTorch's attention."""
    leaf = name.rpartition(".")[2]
    return leaf == "bias" or leaf.endswith("_bias")
