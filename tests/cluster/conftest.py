"""One Ray for all cluster tests of a session; it ends only what it started itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from regraft.cluster.connect import start


@pytest.fixture(scope="session")
def on_ray() -> Iterator[None]:
    """Start a Ray for this session on this machine, with token authentication."""
    start("local", verbose=False)
    yield
    ray.shutdown()
