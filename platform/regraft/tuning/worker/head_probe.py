"""May a trial's head be trained on features alone? Asked of the model itself, on a real batch, never of its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from regraft.bases.adapted import Adapted
from regraft.contracts import Batch, Task
from regraft.data.rows import Rows
from regraft.errors import Unsupported
from regraft.spec.run import RunSpec
from regraft.tasks.outputs.one_vector import OneVector
from regraft.training.cut_check import CutSite, check_encoded_alike, probes
from regraft.training.evaluate import to_device
from regraft.trunk.boundary import GIVEN, Boundary
from regraft.trunk.cut import Cut, NotCut, capture_only
from regraft.trunk.shapes import ROWS, Dim, Sizes
from regraft.trunk.verify import relative_deviation

SAME = 1e-5
"""How far the head's own arithmetic may be from the model's, relative to its largest value."""


class NotBare(Exception):
    """Why the head cannot be trained on features alone, in words."""


@dataclass(frozen=True)
class Bare:
    """What a head on features is made of."""

    cut: Cut
    """What it sees, as one value a row."""
    kind: type
    """Of the model's output."""

    def output(self, logits: Tensor) -> Any:
        """Logits (rows, outputs) as the model's output."""
        return self.kind(logits=logits)


def head_only_obstacle(spec: RunSpec) -> str:
    """Why a spec, whatever the model, does not train a head on features alone; empty when it may."""
    if spec.losses:
        return "loss terms look at the whole model"
    if spec.training.accumulation > 1:
        return "training.accumulation makes several batches of one"
    if type(spec.task).eval_forward is not Task.eval_forward or not isinstance(spec.task, OneVector):
        return f"task {spec.task.key()} does more than answer a row by one vector"
    return ""


def bare(site: CutSite) -> Bare:
    """What the head of a freshly made model is, checked on a batch; NotBare says why it is not one linear layer on
    frozen features."""
    adapted = site.adapted
    if why := head_only_obstacle(site.spec):
        raise NotBare(why)
    try:
        linear = adapted.linear_head()
        (_, long), _ = probes(adapted, site.snapshot.train)
        check_encoded_alike(adapted, site.snapshot.train)
    except (Unsupported, NotCut) as error:
        raise NotBare(str(error)) from error
    trained = {id(parameter) for parameter in adapted.model.parameters() if parameter.requires_grad}
    if type(linear) is not nn.Linear or trained - {id(parameter) for parameter in linear.parameters()}:
        raise NotBare("more trains than one plain linear layer")
    batch = to_device(long, site.harness.device)
    adapted.eval_mode()
    with torch.no_grad():
        try:
            output, seen = _answered(adapted, batch)
        except Unsupported as error:
            raise NotBare(str(error)) from error
        with site.accelerator.autocast():
            _, kept = _answered(adapted, batch)  # in the precision in which it will be computed
        made = Bare(_cut(adapted, linear, kept), type(output))
        _agree(adapted, made, output, F.linear(seen, linear.weight, linear.bias), batch)
    return made


def dropout_before(site: CutSite) -> float:
    """The probability with which the features of a model are dropped before its head; NotBare when something else
    happens to them in training."""
    adapted = site.adapted
    (_, long), _ = probes(adapted, site.snapshot.train)
    batch = to_device(long, site.harness.device)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        adapted.eval_mode()
        _, still = _answered(adapted, batch)
        adapted.train_mode()
        torch.manual_seed(0)
        _, moved = _answered(adapted, batch)
        adapted.eval_mode()
        found = {module.p for module in adapted.model.modules() if isinstance(module, _DropoutNd)}
        for probability in sorted({0.0, *found}):
            torch.manual_seed(0)
            if torch.equal(F.dropout(still, probability, training=True) if probability else still, moved):
                return float(probability)
    raise NotBare("more happens before the head in training than a dropout")


def truths(task: Task, adapted: Adapted, rows: Rows) -> Tensor:
    """What the head should answer, (rows, ...); no image is opened for it."""
    assert isinstance(task, OneVector)
    return task.targets([task.target(rows.stored(index), adapted.context) for index in range(len(rows))])


def _answered(adapted: Adapted, batch: Batch) -> tuple[Any, Tensor]:
    """The model's output, and what its head saw."""
    outputs: list[Any] = []
    hook = adapted.model.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        return _last(outputs, adapted.features(batch))
    finally:
        hook.remove()


def _last(outputs: Sequence[Any], features: Tensor) -> tuple[Any, Tensor]:
    return outputs[-1], features


def _cut(adapted: Adapted, linear: nn.Linear, seen: Tensor) -> Cut:
    name = next(name for name, module in adapted.model.named_modules() if module is linear)
    part = Boundary(name, GIVEN, "kept", None, (Dim(ROWS, 1), Dim(None, seen.shape[1])), seen.dtype, order=(0, 1))
    return capture_only([part], Sizes())


def _agree(adapted: Adapted, made: Bare, output: Any, logits: Tensor, batch: Batch) -> None:
    """NotBare unless the task gives, for bare logits and labels alone, what it gives for the model's output and the
    whole batch; and unless its loss is a sum over rows, so that several heads' may be asked for at once."""
    task, context = adapted.task, adapted.context
    alone = {"labels": batch.get("labels")}
    if not isinstance(alone["labels"], Tensor) or not _close(output.logits, logits):
        raise NotBare("the model does more with the head's output than hand it on")
    try:
        two = torch.cat([logits, logits * 0.5 + 0.1])
        twice = {"labels": torch.cat([alone["labels"], alone["labels"]])}
        whole, first = task.loss(output, batch, context), task.loss(made.output(logits), alone, context)
        second, both = (
            task.loss(made.output(two[len(logits) :]), alone, context),
            task.loss(made.output(two), twice, context),
        )
        records = task.records(output, batch, context), task.records(made.output(logits), alone, context)
        metrics = [task.metrics(found, context) for found in records]
    except Exception as error:
        raise NotBare(f"its task asks for more than logits and labels ({type(error).__name__}: {error})") from error
    pairs = [
        *zip(whole, first, strict=True),
        *zip(both, (a + b for a, b in zip(first, second, strict=True)), strict=True),
    ]
    if not all(_close(one, two) for one, two in pairs) or metrics[0].keys() != metrics[1].keys():
        raise NotBare("its loss is no sum over rows of what their logits and labels say")


def _close(one: Tensor, two: Tensor) -> bool:
    return relative_deviation(two, one) <= SAME
