"""What every medium must be, the platform's own found by listing the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from regraft.bases.load import load_processor
from regraft.bases.locate import locate
from regraft.contracts import Column, MadeUp, Medium, Task, column_of, medium_of
from regraft.errors import BaseError
from unit.bases.families import FAMILIES, TWO_TOWERS
from unit.every.rows import base_of

NAMES = Medium.names()


@pytest.fixture(params=NAMES)
def medium(request: pytest.FixtureRequest) -> Medium:
    return medium_of(request.param)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny base for each medium."""
    found: dict[str, Path] = {}
    for family, made in FAMILIES.items():
        modality = made.task.modality
        if modality not in found and family not in TWO_TOWERS:
            found[modality] = tmp_path_factory.mktemp(modality)
            base_of(family, found[modality])
    return found


def test_every_tasks_medium_exists_and_every_medium_has_a_task() -> None:
    assert {Task.lookup(name).modality for name in Task.names()} == set(NAMES)


def test_it_says_what_it_is_called_and_which_files_it_needs(medium: Medium) -> None:
    assert medium.__doc__ and medium.__doc__ != Medium.__doc__
    assert medium.noun.split()[0] in ("a", "an") and medium.files
    assert hasattr(transformers, medium.auto)
    assert medium.column in Column.names()


def test_its_processor_is_found_and_loaded_and_no_other_is(medium: Medium, bases: dict[str, Path]) -> None:
    folder = bases[medium.key()]
    assert [name for name in NAMES if medium_of(name).found_in(folder)] == [medium.key()]
    assert load_processor(locate(str(folder)), medium.key()) is not None


def test_a_base_without_its_files_is_refused_in_words(medium: Medium, bases: dict[str, Path]) -> None:
    other = next(folder for name, folder in bases.items() if name != medium.key())
    with pytest.raises(BaseError, match=f"the files of {medium.noun} are missing: one of "):
        load_processor(locate(str(other)), medium.key())


def test_a_made_up_value_becomes_what_a_model_takes(medium: Medium, bases: dict[str, Path]) -> None:
    processor: Any = load_processor(locate(str(bases[medium.key()])), medium.key())
    value = column_of(medium.column).made_up(MadeUp(0, ("w5", "w6")))
    if medium.tokens:
        assert all(isinstance(number, int) for number in processor(value)["input_ids"])
    else:
        tensors = medium.tensors(processor, value)
        assert tensors and all(isinstance(tensor, torch.Tensor) and tensor.ndim for tensor in tensors.values())
