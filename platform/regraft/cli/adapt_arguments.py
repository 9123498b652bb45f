"""The arguments of `regraft adapt`."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `regraft adapt` to its parser."""
    parser.add_argument("spec", metavar="SPEC", help="YAML file of a run, with data.target")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace a field: data.target=rows.csv"
    )
    parser.add_argument(
        "--ladder",
        metavar="NAMES",
        help="candidates beside the source-only model, with commas between: corrections of the head, losses "
        "(regraft show losses), target-labels; else the cheap ones and the spec's own losses",
    )
    parser.add_argument(
        "--check", metavar="ROWS", help="labelled rows of the target, which choose nothing: whether the choice held"
    )
    parser.add_argument("--create", action="store_true", help="make the store in a folder that exists and holds none")
    parser.add_argument("--address", metavar="URL", help="a Ray to join (host:6379) for training")
