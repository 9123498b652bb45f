"""What several files of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of this module's own, and no keys of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRAFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("REGRAFT_KEYS", raising=False)
        yield
