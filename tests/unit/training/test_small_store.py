"""Stored outputs of the frozen part never take the room that a run needs for its checkpoints."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from regraft.spec.run import RunSpec
from regraft.store.folder import FolderStore
from regraft.training.cut_check import CutSite
from regraft.training.harness import LocalHarness
from regraft.training.session import train_local
from regraft.training.trunk_cache import free_bytes
from support.tiny import document


class SmallStore(FolderStore):
    """A folder with little room."""

    def free_bytes(self) -> int:
        return 1000


def test_room_is_measured_where_values_end(tmp_path: Path) -> None:
    spec = RunSpec.resolve(document(tmp_path) | {"compute": {"workers": 0, "cpus": 1}})
    unused = cast(Any, None)
    site = CutSite(spec, unused, unused, LocalHarness(), unused, SmallStore(str(tmp_path)))
    assert free_bytes(site, tmp_path)["disk"] == 500


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of some kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system of its own needs root and the permission to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", [500, 700, 900, 1100, 1300, 1500], indirect=True)
def test_a_run_that_fits_without_stored_outputs_fits_with_them(tmp_path: Path, small_disk: Path) -> None:
    method = {"type": "freeze", "depth": 1}
    written = document(tmp_path, method=method, rows=700) | {"compute": {"workers": 0, "cpus": 1}}
    straight = written | {"compute": {"workers": 0, "cpus": 1, "trunk": "off"}, "store": str(small_disk / "off")}
    train_local(RunSpec.resolve(straight))
    subprocess.run(["rm", "-r", str(small_disk / "off")], check=True)
    assert train_local(RunSpec.resolve(written | {"store": str(small_disk / "auto")})).version == "v1"
