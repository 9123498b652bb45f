"""The arguments of `regraft teach`."""

from __future__ import annotations

import argparse

from regraft.teaching.request import MAX_LOSS


def teach_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `regraft teach` to its parser."""
    parser.add_argument(
        "model", metavar="NAME[@REF]", help="a version (@v3) or an alias (@production); else the newest"
    )
    parser.add_argument("rows", metavar="ROWS", help="file, folder, glob or s3:// URL of examples of the class")
    parser.add_argument("--class", dest="label", required=True, metavar="CLASS", help="the name of the new class")
    parser.add_argument(
        "--max-loss",
        type=float,
        default=MAX_LOSS,
        metavar="POINTS",
        help=f"of recall that a class of before may lose ({MAX_LOSS:g}); with more nothing is published",
    )
    parser.add_argument("--promote", metavar="ALIAS", help="an alias that then means the new version")
    parser.add_argument("--eval", metavar="ROWS", help="labelled rows to measure on; else those that the version keeps")
    for name, metavar, text in (
        ("--format", "SOURCE", "what reads the examples (auto: by their name)"),
        ("--base", "REFERENCE", "where the base is now, if it has moved"),
    ):
        parser.add_argument(name, metavar=metavar, help=text)
    parser.add_argument(
        "--columns", action="append", default=[], metavar="A=B", help="column A is called B in the file"
    )
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--plugins", action="append", default=[], metavar="FOLDER", help="a folder of your own plugins")
