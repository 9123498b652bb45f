"""Which labels does a base's own head know already? Their outputs are where training begins, instead of random ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor


def known(config: Any, labels: Sequence[str]) -> dict[int, int]:
    """Output asked for to output of the base, of the labels that both have by name, upper and lower case alike.

    Empty where the base's head already is the one asked for. A name that stands twice (ImageNet has two cranes) is
    nobody's.
    """
    theirs = [str(name).casefold() for _, name in sorted(config.id2label.items())]
    ours = [label.casefold() for label in labels]
    if theirs == ours:
        return {}
    once = {name for names in (theirs, ours) for name, count in Counter(names).items() if count > 1}
    return {number: theirs.index(name) for number, name in enumerate(ours) if name in theirs and name not in once}


def keep_known(model: Any, donor: Any, pairs: Mapping[int, int], lacking: Collection[str]) -> None:
    """Copy the `known` outputs of `donor`, the same class with the base's own head, into `model`.

    `lacking` names what the base's files do not hold: that is random in the donor, too.

    Which tensors have an output per label, and along which dimension, is seen in a model of one label more that holds
    no memory. What stands behind the labels there (DETR's `no object`) is copied too.
    """
    config = deepcopy(model.config)
    ours, theirs = int(config.num_labels), int(donor.config.num_labels)
    config.id2label = dict.fromkeys(range(ours + 1), "")
    with torch.device("meta"):
        grown = dict(type(model)(config).named_parameters())
    given = {name: tensor for name, tensor in donor.named_parameters() if name not in lacking}
    for name, tensor in model.named_parameters():
        if name in given and name in grown:
            axis = _labels_axis(tensor, grown[name])
            if axis is not None and tensor.shape[axis] - ours == given[name].shape[axis] - theirs:
                behind = range(tensor.shape[axis] - ours)
                _copy(given[name], tensor, axis, {**pairs, **{ours + more: theirs + more for more in behind}})


def _labels_axis(tensor: Tensor, grown: Tensor) -> int | None:
    """The only dimension that a label more makes longer by one."""
    longer = [axis for axis, sizes in enumerate(zip(tensor.shape, grown.shape, strict=True)) if sizes[0] != sizes[1]]
    return longer[0] if len(longer) == 1 and grown.shape[longer[0]] == tensor.shape[longer[0]] + 1 else None


def _copy(source: Tensor, target: Tensor, axis: int, pairs: Mapping[int, int]) -> None:
    to, out_of = (torch.tensor(list(numbers)) for numbers in (pairs.keys(), pairs.values()))
    with torch.no_grad():
        target.index_copy_(axis, to, source.index_select(axis, out_of))
