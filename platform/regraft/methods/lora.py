"""LoRA: trained low-rank factors beside chosen layers of a frozen base, and a trained head."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import Field, field_validator
from torch import nn
from transformers.pytorch_utils import Conv1D

from regraft.contracts import Anatomy, Method, Serving, TrainingDefaults, TrainingFacts, under
from regraft.errors import Unsupported

QUERY_VALUE = frozenset(
    {"query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "query_proj", "value_proj", "q", "v", "wq", "wv"}
    | {"c_attn", "qkv", "qkv_proj", "query_key_value", "in_proj", "Wqkv"}
)
"""Names of the projections that `auto` adapts (Hu et al., 2022); the second line has those fused with the keys'."""
WORDS = ("auto", "attention", "linear", "conv")
_ON_THE_WRAPPER = ("stride", "kernel_size", "dilation", "padding", "padding_mode", "groups", "in_channels")


class Lora(Method):
    """Low-rank adaptation (Hu et al., 2022): y = Wx + scaling * B(Ax); the base itself stays frozen."""

    synonyms: ClassVar[frozenset[str]] = frozenset({"peft", "qlora", "adapter", "adapters", "low-rank"})

    automatic: ClassVar[Mapping[str, tuple[Any, ...]] | None] = {}

    rank: int = Field(8, ge=1)
    """Rank of the factors A and B."""
    alpha: float = Field(16, gt=0)
    """The factors' product is scaled by alpha / rank (by alpha / sqrt(rank) with `rslora`)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of A."""
    targets: Literal["auto", "attention", "linear", "conv"] | tuple[str, ...] = "auto"
    """Adapted layers: attention (all its projections), linear (every linear layer of the blocks), conv (every
    convolution that is not depthwise), or endings of module names. auto takes the query and value projections, else
    the blocks' linear layers, else convolutions."""
    rslora: bool = False
    """Rank-stabilised scaling (Kalajdzievski, 2023)."""
    dora: bool = False
    """Weight-decomposed adaptation (Liu et al., 2024): a learned magnitude for each output beside the factors."""

    @field_validator("targets", mode="before")
    @classmethod
    def _known_or_endings(cls, written: object) -> object:
        endings = written if isinstance(written, list | tuple) else ()
        if written in WORDS or (endings and all(isinstance(ending, str) and ending for ending in endings)):
            return written
        raise ValueError(
            f"{written!r} is written; allowed are {', '.join(WORDS)}, or a list of endings of module names"
        )

    @property
    def serves(self) -> Serving:  # type: ignore[override]
        """low_rank: factors can be stacked per row; whole for DoRA, which rescales the base's weights themselves."""
        return "whole" if self.dora else "low_rank"

    def defaults(self, facts: TrainingFacts) -> TrainingDefaults:
        """Return a larger rate than whole weights of a text encoder take: the factors begin at zero."""
        return TrainingDefaults(lr=1e-3, head_factor=3.0, epochs=facts.epochs(200, least=3, most=20))

    def adapt(self, model: nn.Module, anatomy: Anatomy) -> None:
        """Put factors beside the chosen layers, in place; only factors and head are trained, the model keeps its class.

        Raises Unsupported where `targets` matches no layer of the base.
        """
        names = self._chosen(model, anatomy)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            use_dora=self.dora,
            target_modules="|".join(re.escape(name) for name in names),
            bias="none",
        )
        inject(model, config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name or under(name, anatomy.head))

    def merge(self, model: nn.Module) -> None:
        """Add the factors' products to the weights and restore the base's own layers, with the same outputs."""
        merge_layers(model)

    def _chosen(self, model: nn.Module, anatomy: Anatomy) -> list[str]:
        """Return the names of the layers that `targets` matches. Raises Unsupported where there are none."""
        layers = {name: layer for name, layer in base_layers(model, anatomy).items() if _adaptable(layer)}
        # RT-DETR's blocks are convolutions; its attention follows after them.
        anywhere = [name for name, layer in layers.items() if not isinstance(layer, nn.Conv2d) and "pooler" not in name]
        linears = [name for name in anywhere if under(name, anatomy.blocks)] or anywhere
        convolutions = [name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)]
        if isinstance(self.targets, tuple):
            found = [name for name in layers if any(f".{name}".endswith(f".{ending}") for ending in self.targets)]
        elif self.targets == "attention":
            found = [name for name in linears if re.search(r"att(ention|n)\.", name, re.IGNORECASE)]
        elif self.targets == "linear":
            found = linears
        elif self.targets == "conv":
            found = convolutions
        else:
            queries = [name for name in linears if name.rpartition(".")[2] in QUERY_VALUE]
            found = queries or linears or convolutions
        if not found:
            endings = sorted({name.rpartition(".")[2] for name in layers})
            raise Unsupported(
                f"{self.targets!r} names no layer of this base; allowed are auto, attention, linear, conv or a list of "
                f"endings of its layers' names: {', '.join(endings) or 'it has none that LoRA can adapt'}",
                where="method.targets",
            )
        return found


def inject(model: nn.Module, config: PeftConfig) -> None:
    """Wrap the layers that PEFT's configuration names, in place."""
    with warnings.catch_warnings():
        # PEFT uses names that transformers has deprecated; users cannot change that.
        warnings.simplefilter("ignore", FutureWarning)
        # GPT-2 stores its weights transposed: PEFT warns about it and handles it.
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out")
        with _tolerate_missing_embeddings(model):
            inject_adapter_in_model(config, model)
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            _copy_attributes(layer)


def merge_layers(model: nn.Module) -> None:
    """Merge every wrapped layer into the base's own, in place, and remove the wrappers."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
            model.set_submodule(name, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config


def base_layers(model: nn.Module, anatomy: Anatomy) -> dict[str, nn.Module]:
    """Return the base's linear layers and convolutions by name, without those that PEFT may not wrap."""
    spared = (*anatomy.idle, *_opaque(model))
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D | nn.Conv2d) and _in_base(name, anatomy) and not under(name, spared)
    }


@contextmanager
def _tolerate_missing_embeddings(model: nn.Module) -> Iterator[None]:
    """Make `get_input_embeddings` of a model without word embeddings return an empty module meanwhile.

    PEFT asks for it in search of tied weights, and fails on detectors that tie heads.
    """
    asked: Any = getattr(model, "get_input_embeddings", nn.Module)
    try:
        asked()
    except NotImplementedError:
        model.__dict__["get_input_embeddings"] = nn.Module
    try:
        yield
    finally:
        model.__dict__.pop("get_input_embeddings", None)


def _in_base(name: str, anatomy: Anatomy) -> bool:
    return not under(name, anatomy.head) and (not anatomy.prefix or under(name, (anatomy.prefix,)))


def _opaque(model: nn.Module) -> list[str]:
    """Return the modules that read their layers' weights without calling them: factors there would get no gradient."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]


def _adaptable(layer: nn.Module) -> bool:
    """Return whether PEFT can adapt a layer.

    Depthwise convolutions have too few inputs for a rank and cannot be merged; PEFT's factor A ignores dilation.
    """
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and set(layer.dilation) == {1}
    return isinstance(layer, nn.Linear | Conv1D)


def _copy_attributes(layer: BaseTunerLayer) -> None:
    """Copy to a convolution's wrapper the attributes that models read: MobileNet pads by stride and kernel size."""
    inner = layer.get_base_layer()
    for name in (*_ON_THE_WRAPPER, "out_channels"):
        if hasattr(inner, name) and not hasattr(layer, name):
            setattr(layer, name, getattr(inner, name))
