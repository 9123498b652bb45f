"""One registry for the tests of a process, and a hub client that may connect to this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from unit.endpoint.model_store import Endpoint, ModelStore


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRAFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("REGRAFT_KEYS", raising=False)
        patch.setattr(
            huggingface_hub.constants, "HF_HUB_OFFLINE", False
        )  # otherwise it refuses this machine's addresses
        yield


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A store with `text-classification`; tests add other models under names of their own."""
    made = ModelStore(tmp_path_factory.mktemp("shop"))
    made.add()
    return made


@pytest.fixture(scope="session")
def endpoint(model_store: ModelStore) -> Iterator[Endpoint]:
    """An endpoint over every model of the registry."""
    with model_store.open() as running:
        yield running


@pytest.fixture
def own(tmp_path: Path) -> ModelStore:
    """A separate registry for one test."""
    made = ModelStore(tmp_path)
    made.add()
    return made
