"""Text generation by a language model: settings, end tokens and reproducible sampling."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation import TemperatureLogitsWarper, TopPLogitsWarper

from regraft.contracts import Context
from regraft.tasks.inputs.tokens import own_pad_id


@dataclass(frozen=True)
class Sampling:
    """The choice of the next token: at temperature 0, the most probable one.

    At a higher temperature, a token is drawn from the `top_p` share of the probability (Holtzman et al., 2020).
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


def generate(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    context: Context,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    **settings: Any,
) -> list[list[int]]:
    """Return the new token ids of each row, without prompt, start token, end token and padding.

    `inputs` holds `input_ids` and `attention_mask` (rows, tokens), padded on the left for a decoder (`left_padded`).
    Without `sampling`, the most probable token is taken. Sampling settings of the base's own generation_config are
    ignored, so that an answer depends on the task's fields alone. `settings` are more fields of GenerationConfig, such
    as `num_beams`.
    """
    ends, pad = end_ids(context, model), pad_id(context)
    own = getattr(model, "generation_config", None)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=ends or None,
        pad_token_id=pad,
        bos_token_id=getattr(own, "bos_token_id", None),
        decoder_start_token_id=getattr(own, "decoder_start_token_id", None),
        **settings,
    )
    before = 1 if getattr(context.config, "is_encoder_decoder", False) else inputs["input_ids"].shape[1]
    generator: Any = model
    generated = generator.generate(
        **inputs,
        generation_config=config,
        logits_processor=_sampling(inputs, sampling or Sampling()),
        # Ranks of a sharded model gather its weights together: none may stop while another still generates.
        synced_gpus=isinstance(model, FSDPModule),
    )
    return [_up_to_end(row, ends) for row in generated[:, before:].tolist()]


def left_padded(prompts: Sequence[Tensor], context: Context) -> dict[str, Tensor]:
    """Return prompts (tokens,) as `input_ids` and `attention_mask` (rows, tokens), padded on the left.

    A decoder continues at the right end.
    """
    rows = [{"input_ids": prompt, "attention_mask": torch.ones_like(prompt)} for prompt in prompts]
    fill = {"input_ids": pad_id(context), "attention_mask": 0}
    return {
        name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=value, padding_side="left")
        for name, value in fill.items()
    }


def end_ids(context: Context, model: Any = None) -> list[int]:
    """Return the tokens that end an answer, from the model's generation settings, its configuration and the tokenizer.

    Chat models name their end of turn in one of the three, not always in the same one.
    """
    places = (getattr(model, "generation_config", None), context.config, context.processor)
    found = [getattr(place, "eos_token_id", None) for place in places]
    return list(dict.fromkeys(number for entry in found for number in _numbers(entry)))


def pad_id(context: Context) -> int:
    """Return the padding id: the model's, the tokenizer's, or for bases without one the end token; padding is
    masked."""
    own = own_pad_id(context.config)
    known = [own, context.processor.pad_token_id, *end_ids(context), 0]
    return next(int(number) for number in known if number is not None)


def _numbers(entry: Any) -> Iterable[int]:
    return (entry,) if isinstance(entry, int) else entry or ()


def _up_to_end(row: list[int], ends: Sequence[int]) -> list[int]:
    end = next((position for position, token in enumerate(row) if token in ends), len(row))
    return row[:end]


def _sampling(inputs: Mapping[str, Tensor], sampling: Sampling) -> LogitsProcessorList:
    if sampling.temperature == 0:
        return LogitsProcessorList()
    nucleus = [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    return LogitsProcessorList(
        [TemperatureLogitsWarper(sampling.temperature), *nucleus, RowDraws(inputs, sampling.seed)]
    )


class RowDraws(LogitsProcessor):  # type: ignore[misc]
    """Adds Gumbel noise to logits, so that the largest is a draw from the softmax (Maddison et al., 2014).

    Each row has its own generator, seeded by its prompt. So a row's draws do not depend on the rest of its batch, as
    those of torch's multinomial do.
    """

    def __init__(self, inputs: Mapping[str, Tensor], seed: int) -> None:
        self._draws = []
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            digest = hashlib.sha256(f"{seed}/{ids[mask.bool()].tolist()}".encode()).digest()
            self._draws.append(torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (rows, vocabulary), each row with the next noise of its own generator."""
        noise = [torch.empty(scores.shape[1]).exponential_(generator=draw).log_() for draw in self._draws]
        return scores - torch.stack(noise).to(scores)
