"""What to try next where a baseline is better than what was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from regraft.contracts import Score
from regraft.spec.run import RunSpec
from regraft.units import finite_number

MORE = 3
"""Factor on the number of epochs, and divisor of the learning rate, that are proposed."""
_STILL = 0.05
"""Share by which a loss may change over a run and still count as the same."""


def better_baselines(score: Score, metrics: Mapping[str, Any], baselines: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return name and value of the baselines that score better than `metrics`, the best first."""
    result = finite_number(metrics.get(score.name))
    found = []
    for name, measured in baselines.items():
        value = finite_number(measured.get(score.name) if isinstance(measured, Mapping) else measured)
        if value is not None and result is not None and score.better(value, result):
            found.append((name.replace("_", " "), value))
    return sorted(found, key=lambda pair: pair[1], reverse=score.mode == "max")


def below_text(score: Score, metrics: Mapping[str, Any], baselines: Mapping[str, Any]) -> str:
    """Return `accuracy 0.2540 does not reach the baseline majority (0.7670)`; empty if no baseline is better."""
    better = better_baselines(score, metrics, baselines)
    if not better:
        return ""
    named = " and ".join(f"{name} ({value:.4f})" for name, value in better)
    return f"{score.name} {metrics[score.name]:.4f} does not reach the baseline{'s' * (len(better) > 1)} {named}"


def run_advice(
    spec: RunSpec, metrics: Mapping[str, Any], baselines: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]
) -> str:
    """Return that a run's result is below a baseline, and what to try next; empty if it is not.

    `lines` are those of the run's metrics.jsonl, which show how training went.
    """
    below = below_text(spec.task.score, metrics, baselines)
    if not below:
        return ""
    if spec.method.closed_form:
        return f"{below}. Next: another method (regraft show methods)"
    scores = [line[key] for line in lines if (key := f"eval_{spec.task.score.name}") in line]
    losses = [line["loss"] for line in lines if "loss" in line]
    rate, factor = rate_of(spec, lines), _head_option(spec)
    search = f"; or let `regraft search` choose: {space_text(rate)}"
    if losses and losses[-1] > losses[0] * (1 + _STILL):
        return f"{below}. Next: smaller steps, since the loss rose: {_rate_option(rate, 1 / MORE)}{factor}{search}"
    if losses and losses[-1] > losses[0] * (1 - _STILL):
        return f"{below}. Next: larger steps, since the loss hardly fell: {_rate_option(rate, 10)}{factor}{search}"
    best = best_index(scores, spec.task.score)
    if scores and spec.task.score.better(scores[best], scores[-1]):
        why = f"evaluation {best + 1} of {len(scores)} was the best, and the last one was worse"
        return f"{below}. Next: smaller steps, since {why}: {_rate_option(rate, 1 / MORE)}{factor}{search}"
    how = "the last evaluation was the best" if len(scores) > 1 else "there was only one evaluation"
    return f"{below}. Next: train longer, since {how}: {longer(spec)}"


def _rate_option(rate: float | None, factor: float) -> str:
    """Return the option that multiplies the learning rate."""
    if rate is None:
        return "a larger training.lr" if factor > 1 else "a smaller training.lr"
    return f"--set training.lr={rate * factor:.2g}"


def _head_option(spec: RunSpec) -> str:
    """Return the option that keeps the factor of the head, which is 1 beside a written rate; empty where it is 1."""
    factor = spec.training.head_factor
    return "" if factor in ("auto", 1) else f" --set training.head_factor={factor:g}"


def best_index(scores: Sequence[float], score: Score) -> int:
    """Return the position of the best score, the first of equals; -1 without any."""
    best, at = None, -1
    for number, value in enumerate(scores):
        if score.better(value, best):
            best, at = value, number
    return at


def longer(spec: RunSpec) -> str:
    """Return the option that trains longer."""
    training = spec.training
    if training.steps:
        return f"--set training.steps={MORE * training.steps}"
    # A number of epochs that follows from method and rows is not a number in every spec.
    return f"--set training.epochs={MORE * training.epochs}" if isinstance(training.epochs, int) else "training.epochs"


def rate_of(spec: RunSpec, lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the peak learning rate: that of the spec, or the largest in the log."""
    written: object = spec.training.lr
    if isinstance(written, float):
        return written
    return max((line["lr"] for line in lines if line.get("lr")), default=None)


def space_text(rate: float | None) -> str:
    """Return a section `search` around a learning rate."""
    low, high = (rate / 10, rate * 10) if rate else (1e-5, 1e-2)
    return f"search: {{space: {{training.lr: {{loguniform: [{low:.1e}, {high:.1e}]}}}}}}"
