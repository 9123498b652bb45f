"""Full fine-tuning: every weight moves."""

from __future__ import annotations

from regraft.contracts import Method


class Full(Method):
    """Full fine-tuning: every weight and every running statistic of the base moves."""
