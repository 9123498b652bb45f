"""A base whose token states are pooled to one vector of length 1, as sentence encoders are used."""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from regraft.tasks.inputs.text import masked_mean
from regraft.tasks.outputs.embedding import EmbeddingOutput

Pooling = Literal["cls", "mean"]


class PooledEncoder(nn.Module):
    """A base without a head: the mean of its token states, or the first of them, with the length 1.

    Several texts of a row are passed through the base as rows of one batch.
    """

    base_model_prefix = "base"

    def __init__(self, base: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.base, self.pooling = base, pooling
        self.config = cast(PreTrainedConfig, base.config)

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self.config.hidden_size)

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
