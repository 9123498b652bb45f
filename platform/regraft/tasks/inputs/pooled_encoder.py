"""A base whose states are pooled to one vector of length 1, as sentence encoders are used."""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from regraft.tasks.inputs.text import masked_mean
from regraft.tasks.outputs.embedding import EmbeddingOutput

Pooling = Literal["cls", "mean"]


class PooledBase(nn.Module):
    """A base without a head, and how its states make a vector."""

    base_model_prefix = "base"

    def __init__(self, base: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.base, self.pooling = base, pooling
        self.config = cast(PreTrainedConfig, base.config)

    @property
    def width(self) -> int | None:
        """Numbers of a vector; None where the configuration does not say it."""
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

    def forward(self, pixel_values: Tensor) -> EmbeddingOutput:
        """Return vectors (rows, width) for pixels (rows, channels, height, width), and (rows, images, width) for those
        of several images a row."""
        several = pixel_values.shape[1] if pixel_values.ndim == 5 else None
        states = self.base(pixel_values if several is None else pixel_values.flatten(0, 1)).last_hidden_state.float()
        if states.ndim == 4:
            states = states.flatten(2).transpose(1, 2)
        pooled = states[:, 0] if self.pooling == "cls" else states.mean(1)
        found = F.normalize(pooled, dim=-1)
        return EmbeddingOutput(embeddings=found if several is None else found.reshape(-1, several, found.shape[-1]))
