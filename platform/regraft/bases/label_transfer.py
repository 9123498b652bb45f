"""Transfer of head outputs: labels that the base's own head has begin training with its outputs, not random ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor


def known_labels(config: Any, labels: Sequence[str]) -> dict[int, int]:
    """Map outputs of the new head to outputs of the base's head that have the same name, ignoring case.

    Empty when the base's head already has exactly these labels. A name that occurs twice in one of the heads (ImageNet
    has two cranes) is left out.
    """
    base_names = [str(name).casefold() for _, name in sorted(config.id2label.items())]
    names = [label.casefold() for label in labels]
    if base_names == names:
        return {}
    repeated = {name for known in (base_names, names) for name, count in Counter(known).items() if count > 1}
    return {
        number: base_names.index(name)
        for number, name in enumerate(names)
        if name in base_names and name not in repeated
    }


def copy_known_outputs(model: Any, donor: Any, pairs: Mapping[int, int], lacking: Collection[str]) -> None:
    """Copy the outputs `pairs`, from `known_labels`, of `donor` into `model`.

    `donor` is a model of the same class with the base's own head. `lacking` names the parameters that the base's files
    do not hold: these are random in the donor, too.

    Which tensors have an output for each label, and along which dimension, is read from a model with one more label on
    the device `meta`. Outputs after those of the labels (DETR's `no object`) are copied too.
    """
    config = deepcopy(model.config)
    count, base_count = int(config.num_labels), int(donor.config.num_labels)
    config.id2label = dict.fromkeys(range(count + 1), "")
    with torch.device("meta"):
        grown = dict(type(model)(config).named_parameters())
    source = {name: tensor for name, tensor in donor.named_parameters() if name not in lacking}
    for name, tensor in model.named_parameters():
        if name in source and name in grown:
            axis = _labels_axis(tensor, grown[name])
            if axis is not None and tensor.shape[axis] - count == source[name].shape[axis] - base_count:
                after = range(tensor.shape[axis] - count)
                _copy(source[name], tensor, axis, {**pairs, **{count + more: base_count + more for more in after}})


def _labels_axis(tensor: Tensor, grown: Tensor) -> int | None:
    """Return the dimension that one more label makes longer by one; None unless it is the only one that changes."""
    longer = [axis for axis, sizes in enumerate(zip(tensor.shape, grown.shape, strict=True)) if sizes[0] != sizes[1]]
    return longer[0] if len(longer) == 1 and grown.shape[longer[0]] == tensor.shape[longer[0]] + 1 else None


def _copy(source: Tensor, target: Tensor, axis: int, pairs: Mapping[int, int]) -> None:
    to, out_of = (torch.tensor(list(numbers)) for numbers in (pairs.keys(), pairs.values()))
    with torch.no_grad():
        target.index_copy_(axis, to, source.index_select(axis, out_of))
