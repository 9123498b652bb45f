"""In which arithmetic may a base answer? bf16 where the processor has it and a model's answers stay what they are."""

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
from regraft.serving.predictor import on_device

Precision = Literal["auto", "fp32", "bf16"]
BOUND = 0.02
"""By how much a probability, or any other number of an answer relative to its size, may differ."""
WORDS = (2, 5, 9, 17, 30)
"""Words of the texts that are tried."""


def chosen(adapted: Adapted, delta: Mapping[str, Tensor], device: torch.device) -> tuple[torch.dtype, str]:
    """The arithmetic for a base whose first model this is, fresh and on the CPU, and why. The model is used up."""
    if not has_bf16(device):
        return torch.float32, "this processor has no bf16 of its own"
    apply_delta(adapted, delta)
    adapted.model.to(device).eval()
    exact = _answers(adapted, device, torch.float32)
    move_model(adapted.model, device, torch.bfloat16)
    try:
        quick = _answers(adapted, device, torch.bfloat16)
    except RuntimeError as error:
        return torch.float32, f"its model does not compute in bf16: {' '.join(str(error).split())[:200]}"
    if not close(exact, quick, BOUND):
        return torch.float32, f"bf16 changes an answer, or a number in it by more than {BOUND}"
    return torch.bfloat16, f"its answers in bf16 are those in fp32 within {BOUND}"


def _answers(adapted: Adapted, device: torch.device, dtype: torch.dtype) -> list[Any]:
    task, context = adapted.task, adapted.context
    found: list[Any] = []
    for words in WORDS:
        batch: Batch = on_device(collated(adapted, examples_of(adapted, words, 2)), device)
        inputs = {
            name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in batch.items()
        }
        with inference_context(device, dtype):
            output = task.predict_forward(adapted.forward, adapted.model, inputs, context)
            found += map(_by_label, task.answers(output, inputs, context))
    return found


def _by_label(answer: Answer) -> Answer:
    """The answer with its labels' scores in an order that does not depend on them."""
    scores = answer.get("scores")
    if not isinstance(scores, list) or len({item["label"] for item in scores}) < len(scores):
        return answer
    return {**answer, "scores": {item["label"]: item["score"] for item in scores}}
