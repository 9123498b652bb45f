"""Probe of whether a trial's head can be trained on features alone, on a real batch of the model itself."""

from __future__ import annotations

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
from regraft.training.cut_check import CutSite, check_encoded_alike, probes
from regraft.training.evaluate import to_device
from regraft.trunk.boundary import GIVEN, Boundary
from regraft.trunk.cut import Cut, NotCut, capture_only
from regraft.trunk.shapes import ROWS, Dim, Sizes
from regraft.trunk.verify import relative_deviation

SAME = 1e-5
"""Largest deviation of the head's own arithmetic from the model's, relative to the largest value."""


class NeedsModel(Exception):
    """The head cannot be trained on features alone; the message says why."""


@dataclass(frozen=True)
class FeatureHead:
    """A head that can be trained on features alone."""

    cut: Cut
    """The cut before it: one value per row."""
    output_type: type
    """The type of the model's output."""

    def output(self, logits: Tensor) -> Any:
        """Wrap logits, (rows, outputs), as the model's output."""
        return self.output_type(logits=logits)


def head_only_obstacle(spec: RunSpec) -> str:
    """Return why a spec cannot train a head on features alone, whatever the model; empty if it may."""
    if spec.losses:
        return "loss terms need the whole model"
    if spec.training.accumulation > 1:
        return "training.accumulation makes several batches of one"
    task = type(spec.task)
    if task.eval_forward is not Task.eval_forward or task.target_tensor is Task.target_tensor:
        return f"task {spec.task.key()} does more than answer a row by one vector"
    return ""


def feature_head(site: CutSite) -> FeatureHead:
    """Return the head of a model before its first step, checked on a batch.

    Raises NeedsModel if it is not one linear layer on frozen features.
    """
    adapted = site.adapted
    if why := head_only_obstacle(site.spec):
        raise NeedsModel(why)
    try:
        linear = adapted.linear_head()
        (_, long), _ = probes(adapted, site.snapshot.train)
        check_encoded_alike(adapted, site.snapshot.train)
    except (Unsupported, NotCut) as error:
        raise NeedsModel(str(error)) from error
    trained = {id(parameter) for parameter in adapted.model.parameters() if parameter.requires_grad}
    if type(linear) is not nn.Linear or trained - {id(parameter) for parameter in linear.parameters()}:
        raise NeedsModel("more trains than one plain linear layer")
    batch = to_device(long, site.harness.device)
    adapted.eval_mode()
    with torch.no_grad():
        try:
            output, seen = _forward(adapted, batch)
        except Unsupported as error:
            raise NeedsModel(str(error)) from error
        with site.accelerator.autocast():
            _, kept = _forward(adapted, batch)  # in the precision of the computation
        made = FeatureHead(_cut(adapted, linear, kept), type(output))
        _check_task(adapted, made, output, F.linear(seen, linear.weight, linear.bias), batch=batch)
    return made


def head_dropout(site: CutSite) -> float:
    """Return the probability of the dropout before the head. Raises NeedsModel if training does more before it."""
    adapted = site.adapted
    (_, long), _ = probes(adapted, site.snapshot.train)
    batch = to_device(long, site.harness.device)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        adapted.eval_mode()
        _, still = _forward(adapted, batch)
        adapted.train_mode()
        torch.manual_seed(0)
        _, moved = _forward(adapted, batch)
        adapted.eval_mode()
        found = {module.p for module in adapted.model.modules() if isinstance(module, _DropoutNd)}
        for probability in sorted({0.0, *found}):
            torch.manual_seed(0)
            if torch.equal(F.dropout(still, probability, training=True) if probability else still, moved):
                return float(probability)
    raise NeedsModel("more happens before the head in training than a dropout")


def head_targets(task: Task, adapted: Adapted, rows: Rows) -> Tensor:
    """Return the targets of the head, (rows, ...), without opening an image."""
    found = task.target_tensor((rows.stored(index) for index in range(len(rows))), adapted.context)
    if found is None:
        raise NeedsModel(f"task {task.key()} gives no target tensor of its rows")
    return found


def _forward(adapted: Adapted, batch: Batch) -> tuple[Any, Tensor]:
    """Return the model's output and the features that its head read."""
    outputs: list[Any] = []
    hook = adapted.model.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        features = adapted.features(batch)
    finally:
        hook.remove()
    return outputs[-1], features


def _cut(adapted: Adapted, linear: nn.Linear, seen: Tensor) -> Cut:
    name = next(name for name, module in adapted.model.named_modules() if module is linear)
    boundary = Boundary(name, GIVEN, "kept", None, (Dim(ROWS, 1), Dim(None, seen.shape[1])), seen.dtype, order=(0, 1))
    return capture_only([boundary], Sizes())


def _check_task(adapted: Adapted, head: FeatureHead, output: Any, logits: Tensor, *, batch: Batch) -> None:
    """Check that the task needs only logits and labels, and that its loss is a sum over rows, as stacked heads need.

    Raises NeedsModel.
    """
    task, context = adapted.task, adapted.context
    labels_only = {"labels": batch.get("labels")}
    if not isinstance(labels_only["labels"], Tensor) or not _close(output.logits, logits):
        raise NeedsModel("the model does more with the head's output than hand it on")
    try:
        two = torch.cat([logits, logits * 0.5 + 0.1])
        twice = {"labels": torch.cat([labels_only["labels"], labels_only["labels"]])}
        whole, first = task.loss(output, batch, context), task.loss(head.output(logits), labels_only, context)
        second, both = (
            task.loss(head.output(two[len(logits) :]), labels_only, context),
            task.loss(head.output(two), twice, context),
        )
        records = task.records(output, batch, context), task.records(head.output(logits), labels_only, context)
        metrics = [task.metrics(found, context) for found in records]
    except Exception as error:
        raise NeedsModel(f"its task asks for more than logits and labels ({type(error).__name__}: {error})") from error
    pairs = [
        *zip(whole, first, strict=True),
        *zip(both, (a + b for a, b in zip(first, second, strict=True)), strict=True),
    ]
    if not all(_close(one, two) for one, two in pairs) or metrics[0].keys() != metrics[1].keys():
        raise NeedsModel("its loss is not a sum over rows that depends only on their logits and labels")


def _close(one: Tensor, two: Tensor) -> bool:
    return relative_deviation(two, one) <= SAME
