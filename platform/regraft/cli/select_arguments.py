"""The arguments of `regraft select`."""

from __future__ import annotations

import argparse


def add_select_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `regraft select` to its parser."""
    parser.add_argument("spec", metavar="SPEC", help="YAML file of a run; its own base is not among the compared ones")
    parser.add_argument(
        "--bases",
        metavar="BASES",
        help="bases with commas between, as a spec writes them, or a file with one a line; else search.space.base",
    )
    parser.add_argument("--sample", type=int, metavar="ROWS", help="training rows that are scored (500)")
    parser.add_argument("--fresh", action="store_true", help="decide again what was decided before")
    parser.add_argument(
        "--warm",
        action="store_true",
        help="compute the other rows of the first choice too, evaluation rows among them: its run computes none",
    )
    parser.add_argument(
        "--curve",
        action="store_true",
        help="measure the first choice at 5 to 100 %% of the labels: what more would bring, and what transfer saves",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out bases that cannot be used, with a note")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace a field: data.train=rows.csv"
    )
    parser.add_argument("--create", action="store_true", help="make the store in a folder that exists and holds none")
