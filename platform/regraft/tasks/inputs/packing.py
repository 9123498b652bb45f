"""Documents packed into blocks of one length, and the check that a model keeps them apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from regraft.errors import Unsupported
from regraft.units import with_article

OPEN = 64
"""Most blocks that wait for more documents: few enough to search quickly, enough to be nearly full in the end."""
ALIKE = 1e-4
"""Largest difference of logits, as a share of the largest logit, that counts as rounding."""


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids, and a flag for each: 1 where it counts for the loss, else 0."""

    ids: list[int]
    counts: list[int]


@dataclass(slots=True)
class _Block:
    """A block that is being filled."""

    ids: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)

    def row(self) -> dict[str, list[int]]:
        return {"ids": self.ids, "counts": self.counts, "documents": self.documents}


def blocks(documents: Iterable[Document], size: int) -> Iterator[dict[str, list[int]]]:
    """Yield rows of at most `size` tokens: `ids`, `counts`, and `documents`, the length of each document in the block.

    Every token is in one row. A document goes undivided into the fullest block that has room (best fit: Ding et al.,
    2024). One that is longer than a block is cut into several, which count as documents of their own.
    """
    waiting: list[_Block] = []
    for document in documents:
        for piece in _pieces(document, size):
            fitting = [block for block in waiting if len(block.ids) + len(piece.ids) <= size]
            block = max(fitting, key=lambda block: len(block.ids)) if fitting else _Block()
            block.ids += piece.ids
            block.counts += piece.counts
            block.documents.append(len(piece.ids))
            if not fitting:
                waiting.append(block)
            if len(block.ids) == size or len(waiting) > OPEN:
                done = max(waiting, key=lambda block: len(block.ids))
                # By identity: two blocks may hold the same documents.
                waiting = [other for other in waiting if other is not done]
                yield done.row()
    yield from (block.row() for block in waiting)


def _pieces(document: Document, size: int) -> Iterator[Document]:
    for start in range(0, len(document.ids), size):
        yield Document(document.ids[start : start + size], document.counts[start : start + size])


def positions_in(documents: Sequence[int]) -> list[int]:
    """Return each token's position in its document, from the documents' lengths; each document begins at 0."""
    return [place for length in documents for place in range(length)]


def firsts_of(documents: Sequence[int]) -> list[int]:
    """Return the index of each document's first token."""
    return list(accumulate(documents, initial=0))[:-1]


def refuse_leaks(model: nn.Module, *, packed: bool) -> None:
    """Raise Unsupported if a prediction depends on later tokens or, if `packed`, on other documents of the block.

    The model is run on dummy tokens, since the family does not decide it: encoders have a class for this task too and
    read both ways, and families without attention carry their state from one document into the next. A model of shapes
    alone computes nothing, and is not asked.
    """
    if next(model.parameters()).is_meta:
        return
    config: Any = getattr(model, "config", None)
    size = int(getattr(config, "vocab_size", 8))
    ids = torch.arange(size // 2, size // 2 + 8) % size
    one, two, three = ids[:4], torch.cat([ids[:3], ids[4:5]]), torch.cat([ids[4:6], ids[2:4]])
    alone = _logits(model, torch.stack([one, two]))
    if not _alike(alone[0, :3], alone[1, :3]):
        raise Unsupported(
            f"{with_article(type(model).__name__)} sees the tokens that it is to predict: a base that reads from "
            "left to right is needed (Llama, Qwen, GPT-2, ...)",
            where="base",
        )
    if not packed:
        return
    together = _logits(model, torch.stack([one, three]), torch.tensor([[0, 1, 0, 1]] * 2))
    apart = _logits(model, one[None, 2:])
    if not (_alike(together[0, 2:], apart[0]) and _alike(together[1, 2:], apart[0])):
        raise Unsupported(
            f"documents that share a block see each other in {with_article(type(model).__name__)}: write "
            "packing: false",
            where="task.packing",
        )


def _logits(model: nn.Module, ids: Tensor, positions: Tensor | None = None) -> Tensor:
    device = next(model.parameters()).device
    given = {"position_ids": positions.to(device)} if positions is not None else {}
    with torch.no_grad():
        try:
            logits: Tensor = model(input_ids=ids.to(device), use_cache=False, **given).logits
        except TypeError as error:
            raise Unsupported(
                f"{with_article(type(model).__name__)} takes no position_ids, which separate the documents of a block: "
                f"write packing: false ({error})",
                where="task.packing",
            ) from error
    return logits.float()


def _alike(one: Tensor, two: Tensor) -> bool:
    return bool((one - two).abs().max() <= ALIKE * two.abs().max().clamp(min=1e-6))
