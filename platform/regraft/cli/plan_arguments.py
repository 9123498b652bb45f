"""The arguments of `regraft plan`, and those with which other commands limit what they take."""

from __future__ import annotations

import argparse


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `regraft plan` to its parser."""
    parser.add_argument("spec", metavar="SPEC", help="YAML file of a run")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace a field: training.batch_size=8"
    )
    parser.add_argument(
        "--measure", action="store_true", help="run a few steps here for the time; this reads the base's weights"
    )


def budget_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the limits of a budget to the parser of a command without a spec."""
    for name, metavar, text in (
        ("seconds", "S", "most seconds of this command; the same command goes on from there"),
        ("memory", "GB", "most memory of each worker"),
        ("store", "GB", "most that the unfinished output takes"),
    ):
        parser.add_argument(f"--budget-{name}", type=_positive, metavar=metavar, help=text)


def _positive(written: str) -> float:
    try:
        value = float(written)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{written!r} is written; allowed is a number above 0")
    return value
