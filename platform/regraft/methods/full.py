"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from regraft.contracts import Method


class Full(Method):
    """Full fine-tuning: every weight of the base is trained, and its running statistics are updated."""
