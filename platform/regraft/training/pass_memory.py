"""The memory of a training pass, counted on a model of shapes: what lives beside the weights at the worst moment.

The pass runs on the meta device with torch's own autograd, so that exactly those tensors live that would live on a real
one. No kernel runs and no value is needed.
"""

from __future__ import annotations

import logging
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from regraft.bases.adapted import Adapted
from regraft.contracts import Batch
from regraft.training.evaluate import eval_output, to_device

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PassMemory:
    """Bytes beside the weights in fp32 arithmetic."""

    training: int
    """The most that lives at once in a forward and a backward pass, without the gradients."""
    logits: int
    """Of these, the outputs of the model and what their loss makes of them."""
    evaluation: int
    """The most that lives at once while rows are evaluated."""
    untouched: frozenset[str] = frozenset()
    """Parameters that move and get no gradient: the optimizer holds nothing for them."""


_ATEN = torch.ops.aten
_INDEXED = (_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default, _ATEN._index_put_impl_.default)
"""Operators whose second argument is a list of indices."""


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that were made inside and are still alive; those of `outside` do not count."""

    def __init__(self, outside: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._outside = [one.untyped_storage() for one in outside]  # held, so that no other gets an address of theirs
        self._known: dict[int, Any] = {one._cdata: one for one in self._outside}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _ATEN._local_scalar_dense.default and args[0].is_meta:
            return 0  # a question about values, such as whether a mask masks nothing: it does
        if func is _ATEN.nonzero.default and args[0].is_meta:
            found = torch.empty(args[0].numel(), args[0].dim(), dtype=torch.long, device="meta")
        else:
            found = func(*_without_masks(func, args), **(kwargs or {}))
        for tensor in (found,) if isinstance(found, Tensor) else _tensors(found):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                self._add(storage)
        return found

    def _add(self, storage: Any) -> None:
        key, count = storage._cdata, storage.nbytes()

        def gone(_: Any) -> None:
            if self._known.pop(key, None) is not None:
                self.live -= count

        self._known[key] = weakref.ref(storage, gone)
        self.live += count
        self.peak = max(self.peak, self.live)


class _FusedAttention(TorchFunctionMode):
    """Lets attention keep what its fused kernels keep: on the meta device, torch would take the plain formula."""

    def __init__(self, *, gpu: bool) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if given.get("dropout_p", 0.0) and not self._gpu:  # a CPU's kernel has no dropout
            return func(*args, **kwargs)
        query, key, value = (given[name] for name in names[:3])
        if query.dim() != 4:
            return func(*args, **kwargs)
        copies = query.shape[1] // key.shape[1]
        if copies > 1:
            key, value = key.repeat_interleave(copies, 1), value.repeat_interleave(copies, 1)
        mask = given.get("attn_mask")
        mask = mask.to(query.dtype) if mask is not None and mask.dtype == torch.bool else mask
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        found: Any = kernel(query, key, value, 0.0, bool(given.get("is_causal", False)), attn_mask=mask)
        return found[0]


def pass_memory(
    adapted: Adapted, batch: Batch, eval_batch: Batch, *, gpu: bool, accumulates: bool = False
) -> PassMemory:
    """Return the memory of passes over batches of the largest rows; the model's tensors are on the meta device.

    With `accumulates`, the gradients of an earlier micro-batch are there from the beginning.
    """
    model = adapted.model
    batch, eval_batch = (to_device(one, torch.device("meta")) for one in (batch, eval_batch))
    evaluation = _evaluated(adapted, eval_batch, gpu=gpu)
    adapted.train_mode()
    try:
        training, logits = _trained(adapted, batch, 2 if accumulates else 1, gpu=gpu)
        moving = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
        untouched = frozenset(name for name, one in moving if one.grad is None)
        gradients = sum(one.grad.numel() * one.grad.element_size() for _, one in moving if one.grad is not None)
    finally:
        model.zero_grad(set_to_none=True)
        adapted.eval_mode()
    return PassMemory(max(0, training - gradients), logits, evaluation, untouched)


def _trained(adapted: Adapted, batch: Batch, times: int, *, gpu: bool) -> tuple[int, int]:
    """Return the most that lives at once in passes with their gradients, and how much of it belongs to the outputs."""
    outputs = made = 0
    with _counting(adapted, batch, gpu=gpu) as count:
        for _ in range(times):
            output = adapted.forward(batch)
            outputs = sum(one.numel() * one.element_size() for one in _floats(output))
            before = count.live
            loss = _loss(adapted, output, batch)
            made = count.live - before
            del output
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
    return count.peak, outputs + max(0, made)


def _evaluated(adapted: Adapted, batch: Batch, *, gpu: bool) -> int:
    """Return the most that lives at once while a batch is evaluated."""
    adapted.eval_mode()
    for forward in (lambda: eval_output(adapted, dict(batch)), lambda: adapted.forward(batch)):
        try:
            with torch.no_grad(), _counting(adapted, batch, gpu=gpu) as count:
                forward()  # type: ignore[no-untyped-call]
            return count.peak
        except Exception as error:  # a task that generates asks for values; its forward pass does not
            log.info("evaluation is not counted as the task does it: %s", error)
    return 0


def _loss(adapted: Adapted, output: Any, batch: Batch) -> Tensor:
    """Return the task's loss, or the sum of the outputs where the loss asks for values (matched boxes)."""
    try:
        return adapted.task.loss(output, batch, adapted.context)[0]
    except Exception as error:
        log.info("the loss is counted as a sum of the outputs: %s", error)
        return torch.stack([one.sum() for one in _floats(output) if one.requires_grad]).sum()


@contextmanager
def _counting(adapted: Adapted, batch: Batch, *, gpu: bool) -> Iterator[_LiveBytes]:
    outside = [*adapted.model.parameters(), *adapted.model.buffers(), *_tensors(batch)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the library's own model does
        with _FusedAttention(gpu=gpu), _LiveBytes(outside) as count:
            yield count


def _without_masks(func: Any, args: Any) -> Any:
    """Return the arguments of an operator with indices in place of masks: which rows a mask takes is a value.

    Every row is taken, the most that there can be.
    """
    if func not in _INDEXED or not args[0].is_meta:
        return args
    target, indices, *rest = args
    found: list[Tensor | None] = []
    for index in indices:
        masks = index is not None and index.dtype in (torch.bool, torch.uint8)
        one = torch.empty(index.numel(), dtype=torch.long, device="meta") if masks else index
        found += [one] * (index.dim() if masks else 1)
    return (target, found, *rest)


def _floats(value: Any) -> list[Tensor]:
    return [one for one in _tensors(value) if one.is_floating_point()]


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in any nesting of mappings and sequences."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            yield from _tensors(item)
