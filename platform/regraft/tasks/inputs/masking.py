"""Tokens that are hidden from a model, which is to find them again: a pure function of the tokens and a number."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from regraft.errors import Unsupported
from regraft.tasks.inputs.tokens import table_size

HIDDEN, SWAPPED = 0.8, 0.9
"""Shares of the chosen tokens: up to the first the mask stands in their place, up to the second a random token, and
the rest stay as they are (Devlin et al., 2019)."""

_WORD_MARKS = ("\u2581", "\u0120")
"""What stands before a word's first token: of SentencePiece, and of byte-level tokenizers."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a tokenizer, as masks need them."""

    mask: int
    special: frozenset[int]
    """Tokens that are never hidden: those around a text, padding, unknown words, and the mask itself."""
    ordinary: NDArray[np.int64]
    """All other tokens, from which random ones are drawn."""
    continues: NDArray[np.bool_]
    """Whether each token goes on with the word of the token before it, (tokens,); false where tokens are words."""

    def within(self, table: int | None) -> Vocabulary:
        """Return the vocabulary with random tokens below `table`, the rows of an embedding table; None for all."""
        if table is None or not len(self.ordinary) or self.ordinary[-1] < table:
            return self
        return replace(self, ordinary=self.ordinary[: int(np.searchsorted(self.ordinary, table))])

    def positions(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """Return the positions of the tokens that may be hidden."""
        return np.array([place for place, token in enumerate(ids) if token not in self.special], dtype=np.int64)


_KNOWN: WeakKeyDictionary[Any, Vocabulary] = WeakKeyDictionary()
"""Vocabularies by their tokenizer: making one reads all of its tokens."""


def vocabulary_of(processor: Any, config: Any = None) -> Vocabulary:
    """Return a tokenizer's vocabulary. Raises Unsupported where it has no mask token, or the base no row for it."""
    found = _KNOWN.get(processor)
    if found is None:
        mask = getattr(processor, "mask_token_id", None)
        if mask is None:
            raise Unsupported(
                "its tokenizer has no mask token: masked language modelling needs an encoder that was pretrained with "
                "one, such as BERT, RoBERTa or DistilBERT",
                where="base",
            )
        special = frozenset(processor.all_special_ids)
        ordinary = [token for token in range(len(processor)) if token not in special]
        tokens = processor.convert_ids_to_tokens(list(range(len(processor))))
        found = Vocabulary(int(mask), special, np.array(ordinary, dtype=np.int64), _continuing(tokens))
        _KNOWN[processor] = found
    size = table_size(config) if config is not None else None
    if size is not None and found.mask >= size:
        raise Unsupported(
            f"the mask is token {found.mask:,} of the tokenizer, and the embedding table has {size:,} rows: save the "
            "base with resize_token_embeddings",
            where="base",
        )
    return found


def _continuing(tokens: Sequence[str | None]) -> NDArray[np.bool_]:
    """Return which tokens go on with a word, by the marks of WordPiece, SentencePiece or byte-level tokenizers."""
    texts = [token or "" for token in tokens]
    if any(text.startswith("##") and len(text) > 2 for text in texts):
        return np.array([text.startswith("##") for text in texts], dtype=np.bool_)
    for mark in _WORD_MARKS:
        if any(text.startswith(mark) and len(text) > 1 for text in texts):
            return np.array([text[:1] != mark and text[:1].isalnum() for text in texts], dtype=np.bool_)
    return np.zeros(len(texts), dtype=np.bool_)


def surrounding(processor: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before a text, and those behind it."""
    found = processor("a", return_special_tokens_mask=True, verbose=False)
    ids, added = list(found["input_ids"]), list(found["special_tokens_mask"])
    first = added.index(0) if 0 in added else len(added)
    last = len(added) - added[::-1].index(0) if 0 in added else len(added)
    return ids[:first], ids[last:]


def number_of_tokens(ids: Sequence[int]) -> int:
    """Return a number that tokens alone determine, for masks that are the same in every evaluation."""
    return int.from_bytes(hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).digest()[:8], "little")


def hide(
    ids: Sequence[int],
    vocabulary: Vocabulary,
    share: float,
    *,
    key: int,
    whole_words: bool = False,
) -> tuple[list[int], list[int]]:
    """Return the tokens as the model reads them, and the positions that it is to find again, in order.

    A `share` of the tokens that may be hidden is chosen, and one at least; fractions are rounded at random. With
    `whole_words`, words are chosen in place of tokens, as many as fit into the share, and one at least. Raw
    numbers of Philox are used, whose stream NumPy
    guarantees (NEP 19): a resumed run sees the same masks under every version.
    """
    places, ordinary = vocabulary.positions(ids), vocabulary.ordinary
    most = len(places)
    raw = np.random.Philox(key=key).random_raw(3 * most + 1)
    units = raw.astype(np.float64) / 2.0**64
    count = min(most, max(1, int(share * most + units[-1])))
    order = np.argsort(raw[:most], kind="stable")
    if whole_words:
        inside = (places > 0) & vocabulary.continues[np.asarray(ids)[places]] & np.isin(places - 1, places)
        chosen = _words_at(places, order, inside, count)
        count = len(chosen)
    else:
        chosen = np.sort(places[order[:count]])
    fates, draws = units[most : most + count], raw[2 * most : 2 * most + count]
    read = np.asarray(ids, dtype=np.int64).copy()
    swapped = ordinary[(draws % np.uint64(len(ordinary))).astype(np.int64)]
    read[chosen] = np.where(fates < HIDDEN, vocabulary.mask, np.where(fates < SWAPPED, swapped, read[chosen]))
    return read.tolist(), chosen.tolist()


def _words_at(
    places: NDArray[np.int64], order: NDArray[np.int64], inside: NDArray[np.bool_], count: int
) -> NDArray[np.int64]:
    """Return the positions of whole words, drawn in an order of positions, of at most `count` tokens; one at least.

    `inside` says of each position whether its token goes on with a word.
    """
    words = np.cumsum(~inside) - 1
    chosen: list[int] = []
    for word in words[order[~inside[order]]].tolist():
        tokens = places[words == word].tolist()
        if not chosen or len(chosen) + len(tokens) <= count:
            chosen += tokens
        if len(chosen) >= count:
            break
    return np.sort(np.array(chosen, dtype=np.int64))
