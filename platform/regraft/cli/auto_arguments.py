"""The arguments of `regraft auto`."""

from __future__ import annotations

import argparse


def auto_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `regraft auto` to its parser."""
    parser.add_argument("data", metavar="DATA", help="file, folder, glob or URL of labelled rows, as data.train has it")
    parser.add_argument("--task", metavar="TASK", help="the task, where the rows fit several (regraft show tasks)")
    parser.add_argument(
        "--bases",
        metavar="A,B",
        help="bases to choose among, with commas between, or a file with one a line; else those of the settings, of "
        "installed packages and of the hub's copies on this machine",
    )
    parser.add_argument("--budget", default="10m", metavar="TIME", help="for everything: 90s, 10m, 2h (10m)")
    parser.add_argument("--name", metavar="NAME", help="the model's name; else the name of the data")
    parser.add_argument(
        "--columns", action="append", default=[], metavar="A=B", help="the task's column A is called B in the file"
    )
    parser.add_argument("--format", metavar="SOURCE", help="what reads the file; else by its name and first rows")
    parser.add_argument("--plugins", action="append", default=[], metavar="FOLDER", help="a folder of your own plugins")
    parser.add_argument("--create", action="store_true", help="make the store in a folder that exists and holds none")
