"""A base whose states are pooled to one vector of length 1, as sentence encoders are used."""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from regraft.errors import Unsupported
from regraft.tasks.inputs.text import masked_mean
from regraft.tasks.outputs.embedding import EmbeddingOutput

Pooling = Literal["cls", "mean"]
PicturePooling = Literal["cls", "mean", "token"]
"""`token` is the first position, and the mean where the base ends in a map, which has no place for a token."""


class PooledBase(nn.Module):
    """A base without a head, whose states make a vector."""

    base_model_prefix = "base"

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.config = cast(PreTrainedConfig, base.config)

    @property
    def width(self) -> int | None:
        """Numbers of a vector; None where neither timm's model nor the configuration says it."""
        if isinstance(made := getattr(_of_timm(self.base), "num_features", None), int):
            return made
        for name in ("hidden_size", "hidden_sizes"):
            found = getattr(self.config, name, None)
            found = found[-1] if isinstance(found, list | tuple) and found else found
            if isinstance(found, int):
                return found
        return None


class PooledEncoder(PooledBase):
    """A base whose token states are pooled: their mean, or the first of them, with the length 1.

    Several texts of a row are passed through the base as rows of one batch.
    """

    def __init__(self, base: nn.Module, pooling: Pooling) -> None:
        super().__init__(base)
        self.pooling = pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> EmbeddingOutput:
        """Return vectors (rows, width) for ids and mask (rows, tokens), and (rows, texts, width) for (rows, texts,
        tokens)."""
        texts = input_ids.shape[1] if input_ids.ndim == 3 else None
        given = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
        if texts is not None:
            given = {name: value.flatten(0, 1) for name, value in given.items()}
        states = self.base(**given).last_hidden_state
        pooled = states[:, 0].float() if self.pooling == "cls" else masked_mean(states, given["attention_mask"])
        found = F.normalize(pooled, dim=-1)
        return EmbeddingOutput(embeddings=found if texts is None else found.reshape(-1, texts, found.shape[-1]))


class PooledPictures(PooledBase):
    """A base whose last map or positions are pooled: their mean, or the first position, with the length 1.

    Several images of a row are passed through the base as rows of one batch.
    """

    def __init__(self, base: nn.Module, pooling: PicturePooling) -> None:
        super().__init__(base)
        self.pooling = pooling

    @property
    def channels_last(self) -> bool:
        """Whether the base ends in a map (rows, height, width, channels), as some networks of timm do."""
        return getattr(_of_timm(self.base), "output_fmt", None) == "NHWC"

    def forward(self, pixel_values: Tensor) -> EmbeddingOutput:
        """Return vectors (rows, width) for pixels (rows, channels, height, width), and (rows, images, width) for those
        of several images a row.

        Raises Unsupported where `cls` is asked of a map, and for a map whose channels are not where they should be.
        """
        several = pixel_values.shape[1] if pixel_values.ndim == 5 else None
        states = self.base(pixel_values if several is None else pixel_values.flatten(0, 1)).last_hidden_state.float()
        found = F.normalize(self._pooled(states), dim=-1)
        return EmbeddingOutput(embeddings=found if several is None else found.reshape(-1, several, found.shape[-1]))

    def _pooled(self, states: Tensor) -> Tensor:
        if states.ndim == 3:
            return states.mean(1) if self.pooling == "mean" else states[:, 0]
        if self.pooling == "cls":
            raise Unsupported(
                "cls is written, and this base ends in a map, which has no class token: write pooling: mean",
                where="task.pooling",
            )
        pooled = states.mean((1, 2) if self.channels_last else (2, 3))
        if self.width not in (None, pooled.shape[1]) and self._declares(states):
            raise Unsupported(
                f"the base ends in a map of the shape {tuple(states.shape[1:])}, in which its {self.width} channels "
                "are not where they are expected: name another base",
                where="base",
            )
        return pooled

    def _declares(self, states: Tensor) -> bool:
        """Return whether the known width is that of the map: some configurations name that of an earlier layer."""
        return _of_timm(self.base) is not None or self.width in states.shape[1:]


def _of_timm(base: nn.Module) -> nn.Module | None:
    """Return the network of timm that transformers wraps, if there is one."""
    return getattr(base, "timm_model", None)
