"""`python -m regraft` is `regraft`."""

from __future__ import annotations

import sys

from regraft.cli import console

if __name__ == "__main__":
    sys.exit(console())
