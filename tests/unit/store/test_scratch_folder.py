"""Scratch folders end with their process: at once where it can, else by the next command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from regraft.store.scratch_folder import scratch_folder, sweep_scratch

HELD = """
import sys, time
from regraft.store.scratch_folder import scratch_folder
with scratch_folder() as folder:
    (folder / "big").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the temporary folder one of this test's own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_folder_is_deleted_at_the_end_and_after_an_error(temporary: Path) -> None:
    with scratch_folder() as folder:
        (folder / "inner").mkdir()
        assert folder.parent == temporary
    with pytest.raises(KeyboardInterrupt), scratch_folder():
        raise KeyboardInterrupt
    assert list(temporary.iterdir()) == []


def test_the_folder_of_a_killed_process_is_deleted_by_the_next_and_that_of_a_living_one_stays(temporary: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([sys.executable, "-c", HELD], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.parent == temporary and sweep_scratch() == [] and (folder / "big").exists()
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        assert folder.exists()
        with scratch_folder():
            assert not folder.exists()
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close() if process.stdout else None


def test_folders_of_others_are_left_alone(temporary: Path) -> None:
    mine = temporary / "regraft-notes"
    mine.mkdir()
    (mine / "text").write_text("not a scratch folder")
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "in-use").touch()
    (temporary / "regraft-link").symlink_to(elsewhere)
    assert sweep_scratch() == []
    assert (mine / "text").exists() and (elsewhere / "in-use").exists()
