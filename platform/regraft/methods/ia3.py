"""IA3: learned vectors that scale keys, values and feed-forward activations of a frozen base, and a trained head."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar, Literal

from peft import IA3Config
from pydantic import Field, field_validator
from torch import nn

from regraft.contracts import Anatomy, Method, TrainingDefaults, TrainingFacts, under
from regraft.errors import Unsupported
from regraft.methods.lora import base_layers, inject, merge_layers

KEYS_VALUES = frozenset(
    {"key", "value", "k_proj", "v_proj", "k_lin", "v_lin", "key_proj", "value_proj", "k", "v", "wk", "wv"}
    | {"c_attn", "qkv", "qkv_proj", "query_key_value", "in_proj", "Wqkv"}
)
"""Names of the projections to keys and values; the second line has those fused with the queries'."""
SECOND = frozenset(
    {"wo", "fc2", "output_dense", "w2", "lin2", "down_proj", "c_proj", "pwconv2", "dense_4h_to_h", "fc_out"}
)
"""Names of the second layer of a feed-forward part, outside of attention; BERT's is `output.dense`."""
_ATTENTION = re.compile(r"att(ention|n)\.", re.IGNORECASE)


class Ia3(Method):
    """Infused adapter (IA)^3 (Liu et al., 2022): vectors, 1 at first, that scale activations of a frozen base.

    Outputs of the projections to keys and values are scaled, and inputs of each feed-forward part's second layer. An
    export has the vectors multiplied into the weights.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset({"(ia)^3", "ia-3", "infused-adapter", "t-few"})

    targets: Literal["auto"] | tuple[str, ...] = Field("auto", examples=["auto", ["key", "value"]])
    """Layers whose outputs are scaled: endings of module names. auto takes keys and values; a base that has neither
    attention nor feed-forward parts has the linear layers of its blocks scaled, else its convolutions."""
    feedforward: Literal["auto"] | tuple[str, ...] = Field("auto", examples=["auto", ["output.dense"], []])
    """Layers whose inputs are scaled: endings of module names, [] for none. auto takes the second layer of each
    feed-forward part."""

    @field_validator("targets", "feedforward", mode="before")
    @classmethod
    def _auto_or_endings(cls, written: object) -> object:
        if written == "auto" or (
            isinstance(written, list | tuple) and all(isinstance(ending, str) and ending for ending in written)
        ):
            return written
        raise ValueError(f"{written!r} is written; allowed are auto, or a list of endings of module names")

    def defaults(self, facts: TrainingFacts) -> TrainingDefaults:
        """Return the values of `lora`, which moves about as few numbers."""
        return TrainingDefaults(lr=1e-3, head_factor=3.0, epochs=facts.epochs(200, least=3, most=20))

    def adapt(self, model: nn.Module, anatomy: Anatomy) -> None:
        """Put vectors at the chosen layers, in place; only vectors and head are trained, the model keeps its class.

        Raises Unsupported where endings name no layer of the base, or where there is no layer to scale.
        """
        outputs, inputs = self._chosen(model, anatomy)
        config = IA3Config(target_modules=_pattern({*outputs, *inputs}), feedforward_modules=_pattern(inputs))
        inject(model, config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".ia3_l" in name or under(name, anatomy.head))

    def decays(self, name: str) -> bool:
        """Return False for the vectors: decay would pull them to 0, and the base's function is at 1."""
        return ".ia3_l" not in name

    def merge(self, model: nn.Module) -> None:
        """Multiply the vectors into the weights and restore the base's own layers, with the same outputs."""
        merge_layers(model)

    def _chosen(self, model: nn.Module, anatomy: Anatomy) -> tuple[list[str], list[str]]:
        """Return the names of the layers whose outputs are scaled, and of those whose inputs are."""
        layers = base_layers(model, anatomy)
        linears = [name for name, layer in layers.items() if not isinstance(layer, nn.Conv2d) and "pooler" not in name]
        outputs = [name for name in linears if _leaf(name) in KEYS_VALUES]
        inputs = [name for name in linears if _is_second(name)]
        if not outputs and not inputs:
            outputs = [name for name in linears if under(name, anatomy.blocks)] or list(layers)
        if self.targets != "auto":
            outputs = _matching(layers, self.targets, "method.targets")
        if self.feedforward != "auto":
            inputs = _matching(layers, self.feedforward, "method.feedforward")
        if not outputs and not inputs:
            raise Unsupported(
                f"no layer of this {type(model).__name__} is scaled; write targets or feedforward, or another method",
                where="method.targets",
            )
        return outputs, inputs


def _matching(layers: Iterable[str], endings: tuple[str, ...], where: str) -> list[str]:
    """Return the layers whose names have one of the endings. Raises Unsupported for an ending that no name has."""
    for ending in endings:
        if not any(f".{name}".endswith(f".{ending}") for name in layers):
            known = ", ".join(sorted({_leaf(name) for name in layers}))
            raise Unsupported(
                f"{ending!r} names no layer of this base; allowed are auto, or a list of endings of its layers' names: "
                f"{known}",
                where=where,
            )
    return [name for name in layers if any(f".{name}".endswith(f".{ending}") for ending in endings)]


def _is_second(name: str) -> bool:
    return not _ATTENTION.search(name) and (_leaf(name) in SECOND or name.endswith(".output.dense"))


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _pattern(names: Iterable[str]) -> str:
    """Return a pattern that matches these names alone; none, where there are none."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"
