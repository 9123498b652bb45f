"""Paths of the checkout and of the data beside it."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
PLATFORM = ROOT / "platform"
"""The source root, for the PYTHONPATH of processes that tests start."""
SHARED = Path(os.environ.get("REGRAFT_SHARED") or ROOT.parent / "shared")
"""Real data and weights beside the checkout; tests that need them are skipped without them."""
