"""axe-core on an open page: `npm pack axe-core`, unpack it, and name its `axe.min.js` in AXE_CORE."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

GRAVE = ("serious", "critical")


needs_axe = pytest.mark.skipif("AXE_CORE" not in os.environ, reason="AXE_CORE names no axe.min.js")


def findings(page: Any) -> list[str]:
    """Return what axe-core finds serious or critical on a page, whose policy must not forbid scripts."""
    page.evaluate(Path(os.environ["AXE_CORE"]).read_text(encoding="utf-8"))
    violations = page.evaluate("axe.run().then(result => result.violations)")
    return [
        f"{found['id']} ({found['impact']}): {node['html'][:160]}"
        for found in violations
        if found["impact"] in GRAVE
        for node in found["nodes"]
    ]
