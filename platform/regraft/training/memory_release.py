"""The release of what a model took, before another one is loaded."""

from __future__ import annotations

import gc

import torch

from regraft.training.harness import Harness


def free_memory(harness: Harness) -> None:
    """Return to the system what is no longer referred to."""
    gc.collect()
    if harness.device.type == "cuda":
        torch.cuda.empty_cache()
