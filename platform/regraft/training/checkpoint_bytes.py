"""The bytes of a run's checkpoints, from the shapes of what training moves."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.bases.delta import canonical_name, live_tensors
from regraft.spec.run import RunSpec
from regraft.spec.sections import TrainingSpec, number_of
from regraft.training.job import RunState
from regraft.training.optimizer import schedule
from regraft.training.safetensors_buffer import encode_header
from regraft.training.step import StepModule

LOG_LINES = 500
"""Limit of step lines that a run leaves in metrics.jsonl."""
ENTRIES = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
"""Tensors in the shape of a parameter that each optimizer keeps for it."""
_STEP = "step"
_MEASURED = {"loss": 1.0986123085021973, "norm": 0.8123456835746765}
"""Numbers as a log has them, for the length of their text."""
_METRICS = {f"eval_a_metric_{number}": 0.8333333333333334 for number in range(4)}
_MANIFEST = 870
"""Bytes of a manifest with a few metrics."""


@dataclass(frozen=True, slots=True)
class CheckpointBytes:
    """Bytes of one checkpoint by file, at the end of a run."""

    delta: int
    optimizer: int
    state: int
    """The state of the loop with its log, and the manifest."""

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return self.delta + self.optimizer + self.state


def checkpoint_bytes(
    spec: RunSpec, adapted: Adapted, untouched: Collection[str] = (), *, state: int = 0
) -> CheckpointBytes:
    """Return the bytes of a checkpoint; `untouched` are moving parameters without a gradient, `state` as counted."""
    return CheckpointBytes(
        delta=_file_bytes(live_tensors(adapted)),
        optimizer=_file_bytes(_optimizer_tensors(spec, adapted, untouched)),
        state=state,
    )


def state_bytes(training: TrainingSpec, steps: int, per_epoch: int, *, evaluations: int, eval_rows: int) -> int:
    """Return about how many bytes the state and the manifest of the last checkpoint have.

    Lines of steps are written as the run will write them, but for loss and norm, whose digits hardly differ in number.
    """
    stride, rate = max(1, -(-steps // LOG_LINES)), number_of(training.lr)
    log: list[dict[str, Any]] = [
        {"step": step, "epoch": step / per_epoch, **_MEASURED, "lr": rate * schedule(step - 1, steps, training)}
        for step in range(stride, steps + 1, stride)
    ]
    log += [{"step": steps, "epoch": 1.0, **_METRICS}] * evaluations
    correct = "0" * (2 * -(-eval_rows // 8))
    state = RunState(step=steps, best=_MEASURED["loss"], best_correct=correct, seconds=_MEASURED["norm"], log=log)
    return len(json.dumps(state.document())) + _MANIFEST


def _optimizer_tensors(spec: RunSpec, adapted: Adapted, untouched: Collection[str]) -> dict[str, Tensor]:
    terms = StepModule(adapted, [loss for loss in spec.losses if loss.weight]).terms
    found = {f"terms.{name}": value for name, value in terms.state_dict().items()}
    if spec.method.closed_form:
        return found
    prefix = adapted.anatomy.prefix
    moving: Mapping[str, Tensor] = {
        canonical_name(name, prefix): one
        for name, one in adapted.model.named_parameters()
        if one.requires_grad and name not in untouched
    } | {f"terms.{name}": one for name, one in terms.named_parameters()}
    for name, parameter in moving.items():
        found |= {f"{name}|{entry}": parameter for entry in ENTRIES[spec.training.optimizer]}
        if spec.training.optimizer == "adamw":
            found[f"{name}|{_STEP}"] = torch.empty((), device="meta")
    return found


def _file_bytes(tensors: Mapping[str, Tensor]) -> int:
    head, values = encode_header(tensors)
    return len(head) + values
