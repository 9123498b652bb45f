"""The precision in which a base answers: bf16 where the processor supports it and a model's answers stay the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.bases.delta import apply_delta
from regraft.contracts import Answer, Batch
from regraft.serving.encoder import has_bf16
from regraft.serving.engine.base_weights import inference_context, move_model
from regraft.serving.engine.dummy_rows import close, collated, examples_of
from regraft.serving.predictor import to_device

Precision = Literal["auto", "fp32", "bf16"]
BOUND = 0.02
"""Largest accepted difference of a probability, or of any other number in an answer relative to its size."""
WORDS = (2, 5, 9, 17, 30)
"""Words of the texts that are tried."""


def choose_precision(adapted: Adapted, delta: Mapping[str, Tensor], device: torch.device) -> tuple[torch.dtype, str]:
    """Return the precision for a base, and the reason, from its first model, which must be fresh and on the CPU.

    The model is moved and cast, so that it cannot be used afterwards.
    """
    if not has_bf16(device):
        return torch.float32, "this processor has no native bf16"
    apply_delta(adapted, delta)
    adapted.model.to(device).eval()
    exact = _answers(adapted, device, torch.float32)
    move_model(adapted.model, device, torch.bfloat16)
    try:
        rounded = _answers(adapted, device, torch.bfloat16)
    except RuntimeError as error:
        return torch.float32, f"its model does not compute in bf16: {' '.join(str(error).split())[:200]}"
    if not close(exact, rounded, BOUND):
        return torch.float32, f"bf16 changes an answer, or a number in it by more than {BOUND}"
    return torch.bfloat16, f"its answers in bf16 equal those in fp32 within {BOUND}"


def _answers(adapted: Adapted, device: torch.device, dtype: torch.dtype) -> list[Any]:
    task, context = adapted.task, adapted.context
    found: list[Any] = []
    for words in WORDS:
        batch: Batch = to_device(collated(adapted, examples_of(adapted, words, 2)), device)
        inputs = {
            name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in batch.items()
        }
        with inference_context(device, dtype):
            output = task.predict_forward(adapted.forward, adapted.model, inputs, context)
            found += map(_scores_by_label, task.answers(output, inputs, context))
    return found


def _scores_by_label(answer: Answer) -> Answer:
    """Return the answer with its scores as a mapping: their order depends on the scores."""
    scores = answer.get("scores")
    if not isinstance(scores, list) or len({item["label"] for item in scores}) < len(scores):
        return answer
    return {**answer, "scores": {item["label"]: item["score"] for item in scores}}
