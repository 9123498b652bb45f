"""Packing: blocks hold every token once, and documents in one block do not attend to each other."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertLMHeadModel, MambaConfig, MambaForCausalLM, PreTrainedModel

from regraft.errors import Unsupported
from regraft.tasks.inputs.packing import OPEN, Document, blocks, firsts_of, positions_in, refuse_leaks
from support.language_models import FAMILIES, model_of


def documents(lengths: list[int]) -> list[Document]:
    """Return documents with distinct ids; every third token does not count."""
    starts = accumulate(lengths, initial=0)
    ids = [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=False)]
    return [Document(some, [int(number % 3 > 0) for number in some]) for some in ids]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=300), st.integers(2, 12))
def test_every_token_is_in_one_block_in_the_order_of_its_document(lengths: list[int], size: int) -> None:
    given_documents = documents(lengths)
    found = list(blocks(given_documents, size))
    pieces = []
    for block in found:
        assert 0 < len(block["ids"]) == len(block["counts"]) == sum(block["documents"]) <= size
        assert block["counts"] == [int(number % 3 > 0) for number in block["ids"]]
        edges = [*firsts_of(block["documents"]), len(block["ids"])]
        pieces += [block["ids"][start:end] for start, end in pairwise(edges)]
    assert sorted(number for piece in pieces for number in piece) == list(range(sum(lengths)))
    wanted = [
        document.ids[start : start + size]
        for document in given_documents
        for start in range(0, len(document.ids), size)
    ]
    assert sorted(pieces) == sorted(wanted), "a document is cut only where it is longer than a block"


def test_blocks_are_nearly_full() -> None:
    lengths = [1 + number * 7 % 19 for number in range(2000)]
    assert len(list(blocks(documents(lengths), 32))) <= 1.05 * sum(lengths) / 32


def test_few_blocks_wait_at_once() -> None:
    """Rows are packed as they are read: a data set larger than memory must not accumulate in it."""
    taken = 0

    def counted() -> Any:
        nonlocal taken
        for document in documents([9] * 1000):
            taken += 1
            yield document

    for number, _ in enumerate(blocks(counted(), 16)):
        assert taken < number + OPEN + 3 or taken == 1000


def test_equal_blocks_are_all_kept() -> None:
    same = Document([7, 7], [1, 1])
    assert len(list(blocks([same] * 500, 3))) == 500


def test_positions_begin_anew_with_each_document() -> None:
    assert positions_in([3, 1, 2]) == [0, 1, 2, 0, 0, 1]
    assert firsts_of([3, 1, 2]) == [0, 3, 4]
    assert firsts_of([]) == positions_in([]) == []


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_with_attention_keep_documents_apart(family: str, attention: str) -> None:
    model = model_of(family).eval()
    model.set_attn_implementation(attention)
    refuse_leaks(model, packed=True)


def test_a_model_that_reads_both_ways_is_refused() -> None:
    config = BertConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=30)
    torch.manual_seed(0)
    with pytest.raises(Unsupported, match=r"base: a BertLMHeadModel sees the tokens that it is to predict"):
        refuse_leaks(BertLMHeadModel(config).eval(), packed=False)


def mamba() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 30, "state_size": 4}
    return MambaForCausalLM(MambaConfig(**sizes)).eval()


def test_a_model_that_carries_its_state_on_is_refused_packing_alone() -> None:
    refuse_leaks(mamba(), packed=False)
    with pytest.raises(Unsupported, match=r"task\.packing: .*write packing: false"):
        refuse_leaks(mamba(), packed=True)
