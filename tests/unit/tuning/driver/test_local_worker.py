"""A search that one process can run neither starts Ray nor imports it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from regraft.spec.run import RunSpec
from regraft.tuning.space import one_process_suffices
from support.tiny import document

HEADS: dict[str, Any] = {
    "space": {"training.lr": {"grid": [1e-3, 1e-2]}},
    "sampler": "grid",
    "scheduler": "none",
}
SEARCHED = """
import sys
from regraft.cli import main

code = main(["search", sys.argv[1], "--json"])
assert "ray" not in sys.modules, "Ray was read from disk"
sys.exit(code)
"""


def test_heads_alone_are_searched_without_ray(tmp_path: Path) -> None:
    written = document(tmp_path, method="feature-extraction") | {"search": HEADS, "compute": {"workers": 1}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(written))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", SEARCHED, str(tmp_path / "spec.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "store" / "models" / "tiny" / "v1").is_dir()


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "lora"},
        {"search": {**HEADS, "concurrency": 2}},
        {"search": {**HEADS, "space": {"method": {"grid": ["feature-extraction", {"type": "freeze", "depth": 1}]}}}},
        {"compute": {"workers": 2}},
        {"compute": {"workers": 1, "gpus": 1}},
    ],
)
def test_what_several_workers_may_share_is_not_searched_in_one_process(changes: dict[str, Any], tmp_path: Path) -> None:
    written = document(tmp_path, method="feature-extraction") | {"search": HEADS, "compute": {"workers": 1}}
    assert one_process_suffices(RunSpec.resolve(written))
    assert not one_process_suffices(RunSpec.resolve(written | changes))
