"""What every test runs under; set before anything reads it."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it when it is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
for variable in ("REGRAFT_STORE", "RAY_ADDRESS"):
    os.environ.pop(variable, None)
