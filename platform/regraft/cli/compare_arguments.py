"""The arguments of comparisons."""

from __future__ import annotations

import argparse


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Add `--compare` to a command that trains."""
    parser.add_argument(
        "--compare",
        action="store_true",
        help="also train and measure controls (random weights, a head on the frozen base, words or colours alone, the "
        "last version), and warn where the base does not help",
    )
