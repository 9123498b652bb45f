"""Tokens that are hidden from a model, which is to find them again: a pure function of the tokens and a number."""

from __future__ import annotations

import hashlib
import re
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

_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af]"
)
"""Characters of scripts that put no space between words, so that no mark says where one begins: Thai, Lao, Tibetan,
Burmese, Khmer, Japanese and Chinese."""


def _byte_letters() -> dict[str, int]:
    """Return the bytes by the letters that byte-level tokenizers write for them."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + number): byte for number, byte in enumerate(others)}


_BYTES = _byte_letters()


def _first_letter(text: str) -> str:
    return text[:1]


def _first_of_bytes(text: str) -> str:
    """Return the first character of a byte-level piece; empty where the piece begins within a character.

    Of a character whose last bytes are in the next piece, one of the same script is returned.
    """
    if any(letter not in _BYTES for letter in text[:4]):
        return text[:1]
    found = bytes(_BYTES[letter] for letter in text[:4])
    if not found or 0x80 <= found[0] < 0xC0:
        return ""
    size = 1 + sum(found[0] >= least for least in (0xC0, 0xE0, 0xF0))
    return found[:size].ljust(size, b"\x81").decode(errors="replace")


_WORD_MARKS = {"\u2581": _first_letter, "\u0120": _first_of_bytes}
"""What stands before a word's first token, of SentencePiece and of byte-level tokenizers, and how either's pieces are
read."""


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
        on = (text.startswith("##") and not _WITHOUT_SPACES.match(text[2:3]) for text in texts)
        return np.array(list(on), dtype=np.bool_)
    for mark, first in _WORD_MARKS.items():
        if any(text.startswith(mark) and len(text) > 1 for text in texts):
            return np.array([text[:1] != mark and _goes_on(first(text)) for text in texts], dtype=np.bool_)
    return np.zeros(len(texts), dtype=np.bool_)


def _goes_on(character: str) -> bool:
    """Return whether a piece that begins with a character goes on with a word; an empty one is within a character."""
    return not character or (character.isalnum() and not _WITHOUT_SPACES.match(character))


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
    `whole_words`, words are chosen in place of tokens, as many as fit into the share, and a part of one at least. Raw
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
    """Return the positions of whole words, drawn in an order of positions, of at most `count` tokens.

    `inside` says of each position whether its token goes on with a word. A first word that is longer is cut: else a
    text of one long word would be hidden as a whole.
    """
    words = np.cumsum(~inside) - 1
    chosen: list[int] = []
    for word in words[order[~inside[order]]].tolist():
        tokens = places[words == word].tolist()
        if not chosen or len(chosen) + len(tokens) <= count:
            chosen += tokens[:count]
        if len(chosen) >= count:
            break
    return np.sort(np.array(chosen, dtype=np.int64))
