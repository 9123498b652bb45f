"""The parser of the command line: every command with its arguments; it imports nothing heavy."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from regraft import __version__
from regraft.cli.adapt_arguments import add_arguments
from regraft.cli.argument_types import among as _among
from regraft.cli.argument_types import count as _count
from regraft.cli.argument_types import registered as _registered
from regraft.cli.auto_arguments import auto_arguments
from regraft.cli.compare_arguments import add_compare
from regraft.cli.plan_arguments import budget_arguments, plan_arguments
from regraft.cli.select_arguments import add_select_arguments
from regraft.cli.teach_arguments import teach_arguments
from regraft.errors import RequestError

FAMILIES = ("tasks", "methods", "losses", "sources", "columns", "media")
SECTIONS = ("spec", "data", "training", "compute", "budget", "stages", "search", "serve")
"""Parts of a spec whose fields `show` explains; `spec` are the fields outside the others."""

_EPILOG = """\
exit codes  0 done, 1 failed, 2 wrong request, 130 interrupted
store       commands with a SPEC: --store (or --set store=...), then REGRAFT_STORE, then the spec
            others: --store, then REGRAFT_STORE, then ./regraft-store
"""


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises RequestError, so that its errors are shown like all others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["allow_abbrev"] = False
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)
        self.commands: Any = None
        # SUPPRESS: a default here would overwrite the -v of `regraft -v train` with the sub-command's own default.
        self.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object on stdout")
        self.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="show everything")

    def group(self) -> Any:
        """Return the action that sub-commands are added to."""
        self.commands = self.add_subparsers(title="commands", metavar="COMMAND", required=True)
        return self.commands

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments here: the root parser does not know a sub-command's options."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown arguments: {' '.join(unknown)}")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        """Raise RequestError with the nearest match for a command or an option that does not exist."""
        if choice := re.search(r"invalid choice: '([^']*)'", message):
            names = list(self.commands.choices) if self.commands else [*FAMILIES, *SECTIONS]
            raise RequestError(
                f"unknown {choice[1]!r}.{_nearest(choice[1], names)} Known: {', '.join(names)}", where=self.prog
            )
        if option := re.search(r"unknown arguments: (--?[a-z-]+)", message):
            message += f".{_nearest(option[1], list(self._option_string_actions))}"
        raise RequestError(f"{message} (see {self.prog} --help)", where=self.prog)


def _nearest(written: str, known: Sequence[str]) -> str:
    near = get_close_matches(written, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def build() -> Parser:
    """Build the parser; a parsed namespace holds `command`, its key in the dispatch table."""
    parser = Parser(
        prog="regraft",
        description="Adapt a pretrained model with one spec and one command; keep only what moved.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"regraft {__version__}")
    commands = parser.group()
    _train(commands)
    _evaluate(commands)
    _predict(commands)
    teach_arguments(
        _command(commands, "teach", "a new class for a model from a few examples, without training", store=True)
    )
    _models(commands)
    _runs(commands)
    _inspection(commands)
    _upkeep(commands)
    _serve(commands)
    _search(commands)
    plan_arguments(_command(commands, "plan", "what a spec moves, needs and takes, before anything starts", store=True))
    add_select_arguments(_command(commands, "select", "rank bases for a task's rows before fine-tuning", store=True))
    add_arguments(_command(commands, "adapt", "adapt to another domain without its labels, or say why not", store=True))
    auto_arguments(_command(commands, "auto", "data alone become a registered model, with page and spec", store=True))
    return parser


def _command(commands: Any, name: str, text: str, *, store: bool = False) -> Parser:
    parser: Parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(command=parser.prog.removeprefix("regraft "))
    if store:
        parser.add_argument("--store", metavar="URL", help="folder or s3://bucket/prefix")
    return parser


def _group(commands: Any, name: str, text: str) -> Any:
    parser: Parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    return parser.group()


def _plugins(parser: Parser) -> None:
    parser.add_argument("--plugins", action="append", default=[], metavar="FOLDER", help="a folder of your own plugins")


def _create(parser: Parser) -> None:
    parser.add_argument(
        "--create",
        action="store_true",
        help="make the store in a folder that exists and holds none",
    )


def _train(commands: Any) -> None:
    train = _command(commands, "train", "train the model that a spec describes", store=True)
    train.add_argument("spec", metavar="SPEC", help="YAML file")
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace a field: training.lr=1e-4"
    )
    train.add_argument("--fresh", action="store_true", help="start another run instead of continuing this spec's")
    _create(train)
    train.add_argument("--same", action="store_true", help="keep to this spec's run, whatever its rows are now")
    add_compare(train)
    train.add_argument(
        "--address", metavar="URL", help="a cluster to submit to (http://head:8265), or a Ray to join (host:6379)"
    )


def _evaluate(commands: Any) -> None:
    evaluate = _command(commands, "evaluate", "measure models on labelled rows, as a page and as JSON", store=True)
    models = "a version (@v3) or an alias (@production); else the newest. Several: all on the same rows, compared"
    evaluate.add_argument("models", nargs="+", metavar="NAME[@REF]", help=models)
    evaluate.add_argument("data", metavar="DATA", help="file, folder, glob or s3:// URL of labelled rows")
    evaluate.add_argument("--output", metavar="FOLDER", help="where the page goes; else ./evaluation-NAME-VERSION-DATA")
    evaluate.add_argument(
        "--columns",
        action="append",
        default=[],
        metavar="A=B",
        help="column A is called B in the file; else as trained",
    )
    evaluate.add_argument("--format", metavar="SOURCE", help="what reads the file (auto: by its name); else as trained")
    evaluate.add_argument(
        "--bad-rows",
        type=_among("fail", "skip"),
        default="fail",
        metavar="fail|skip",
        help="how unusable rows are treated",
    )
    evaluate.add_argument("--against", metavar="NAME[@REF]", help="another model, compared on the same rows")
    evaluate.add_argument("--worst", type=_count, default=12, metavar="N", help="rows shown of the worst (12)")
    evaluate.add_argument(
        "--resamples", type=_count, default=1000, metavar="N", help="for the intervals (1000; 0: none)"
    )
    evaluate.add_argument("--seconds", type=float, default=20.0, metavar="S", help="that the intervals may take (20)")
    _episodes(evaluate)
    evaluate.add_argument("--base", metavar="REFERENCE", help="where the base is now, if it has moved")
    evaluate.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:1")
    _plugins(evaluate)


def _episodes(evaluate: Parser) -> None:
    text = "few-shot: N random episodes (600) of any classes, answered by class means; --way or --shot ask for it too"
    evaluate.add_argument("--episodes", type=_count, nargs="?", const=600, metavar="N", help=text)
    evaluate.add_argument("--way", type=_count, metavar="W", help="classes of an episode (5)")
    evaluate.add_argument("--shot", type=_count, metavar="S", help="rows of each class to learn from (1)")
    evaluate.add_argument("--query", type=_count, metavar="Q", help="most rows of each class that are asked (15)")
    evaluate.add_argument("--cosine", action="store_true", help="compare directions of features, not distances")


def _predict(commands: Any) -> None:
    predict = _command(
        commands, "predict", "answer every row of a file, in order; an interrupted command resumes", store=True
    )
    predict.add_argument(
        "model", metavar="NAME[@REF]", help="a version (@v3) or an alias (@production); else the newest"
    )
    predict.add_argument("input", metavar="INPUT", help="file, folder, glob or s3:// URL of rows; -: standard input")
    predict.add_argument(
        "--output", required=True, metavar="OUT", help="OUT.jsonl, .csv, .tsv or .parquet, local or s3://"
    )
    predict.add_argument(
        "--features", action="store_true", help="vectors instead of answers; NAME may also be a base, as in a spec"
    )
    predict.add_argument(
        "--dtype",
        type=_among("auto", "fp32", "bf16"),
        default="auto",
        metavar="DTYPE",
        help="of a base's features: fp32, bf16; auto: bf16 where it is native and agrees",
    )
    predict.add_argument(
        "--columns", action="append", default=[], metavar="A=B", help="the model's column A is called B in the file"
    )
    predict.add_argument("--format", metavar="SOURCE", help="what reads the file (auto: by its name)")
    predict.add_argument(
        "--bad-rows",
        type=_among("fail", "skip"),
        default="fail",
        metavar="fail|skip",
        help="skip: their line holds the error",
    )
    predict.add_argument("--workers", type=_count, metavar="N", help="processes on Ray; 0: this process, without Ray")
    predict.add_argument("--base", metavar="REFERENCE", help="where the base is now, if it has moved")
    predict.add_argument("--fresh", action="store_true", help="replace the output, also an unfinished one")
    budget_arguments(predict)
    predict.add_argument(
        "--address", metavar="URL", help="a cluster to submit to (http://head:8265), or a Ray to join (host:6379)"
    )
    _plugins(predict)


def _models(commands: Any) -> None:
    models = _group(commands, "models", "look at, promote, compare, export and delete model versions")
    _command(models, "list", "every model with its versions and aliases", store=True)
    show = _command(models, "show", "one version: metrics, baselines, lineage, files", store=True)
    show.add_argument("model", metavar="NAME[@REF]", help="a version (@v3) or an alias (@production); else the newest")
    promote = _command(models, "promote", "point an alias at a version", store=True)
    promote.add_argument("model", metavar="NAME@VERSION")
    promote.add_argument("alias", metavar="ALIAS")
    rollback = _command(models, "rollback", "point an alias at what it pointed at before", store=True)
    rollback.add_argument("model", metavar="NAME")
    rollback.add_argument("alias", metavar="ALIAS")
    diff = _command(models, "diff", "what two versions differ in: spec and metrics", store=True)
    diff.add_argument("one", metavar="NAME@REF")
    diff.add_argument("other", metavar="NAME@REF")
    delete = _command(models, "delete", "remove a version that no alias points at", store=True)
    delete.add_argument("model", metavar="NAME@VERSION")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    export = _command(models, "export", "write a complete transformers model into a folder", store=True)
    export.add_argument("model", metavar="NAME[@REF]")
    export.add_argument("folder", metavar="FOLDER")
    export.add_argument("--base", metavar="REFERENCE", help="where the base is now, if it has moved")
    _plugins(export)


def _runs(commands: Any) -> None:
    runs = _group(commands, "runs", "look at, stop and delete runs")
    _command(runs, "list", "every run, search and adaptation with its state, score and time", store=True)
    show = _command(runs, "show", "one run: state, checkpoints, metrics", store=True)
    show.add_argument("run", metavar="RUN")
    stop = _command(
        runs, "stop", "end a run at its next step, with a checkpoint; the same command continues it", store=True
    )
    stop.add_argument("run", metavar="RUN")
    stop.add_argument("--wait", type=_count, default=60, metavar="S", help="seconds to wait for its end (60)")
    logs = _command(runs, "logs", "the log of a run, from any machine", store=True)
    logs.add_argument("run", metavar="RUN")
    logs.add_argument("-f", "--follow", action="store_true", help="follow until the run ends")
    delete = _command(runs, "delete", "remove runs, searches and adaptations; versions stay", store=True)
    delete.add_argument("runs", metavar="RUN", nargs="+", help="a run, a search or an adaptation")
    delete.add_argument("--yes", action="store_true", help="do not ask")


def _inspection(commands: Any) -> None:
    show = _command(commands, "show", "every field of a spec, what it may name, kinds of columns, and media")
    show.add_argument("family", metavar="|".join((*FAMILIES, *SECTIONS)), choices=(*FAMILIES, *SECTIONS))
    show.add_argument("name", nargs="?", metavar="NAME", help="one of them, with its fields; of a section one field")
    _plugins(show)
    schema = _command(commands, "schema", "the JSON Schema of a spec, for editors and checks")
    _plugins(schema)


def _upkeep(commands: Any) -> None:
    doctor = _command(commands, "doctor", "check whether this machine can train, and what to do if not", store=True)
    doctor.add_argument(
        "spec", metavar="SPEC", nargs="?", help="also check that the cluster has the resources it asks for"
    )
    doctor.add_argument(
        "--address", metavar="URL", help="also look at a cluster from inside: http://head:8265, or host:6379"
    )
    for name in ("compute", "client"):
        doctor.add_argument(f"--{name}", help=argparse.SUPPRESS)  # set by the client for the job
    doctor.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    gc = _command(
        commands, "gc", "delete what crashed runs left unfinished; say what stays and why it does", store=True
    )
    gc.add_argument(
        "--optimizer-states",
        action="store_true",
        help="also those of finished runs, which nothing reads again; without this they are only listed",
    )
    gc.add_argument(
        "--verify",
        metavar="RUN",
        nargs="?",
        const="",
        help="also kept outputs of frozen parts that do not agree: with their checksums, or with what is computed from "
        "the rows and the base of RUN",
    )
    gc.add_argument(
        "--data",
        action="store_true",
        help="also checked rows that no run or search names, a day old; else only counted",
    )
    gc.add_argument(
        "--checkpoints",
        action="store_true",
        help="also all checkpoints of registered runs whose versions are whole; else only counted",
    )
    gc.add_argument(
        "--cache",
        action="store_true",
        help="also this machine's copies of bases and of files in S3, and what it knows about files, that were idle "
        "for a day; commands get them again",
    )
    _command(commands, "version", "versions of regraft and its main libraries")


def _serve(commands: Any) -> None:
    serve = _command(commands, "serve", "answer over HTTP, with a page to try models by hand", store=True)
    serve.add_argument(
        "models",
        nargs="*",
        metavar="NAME[@REF]|SERVE.yaml",
        help="models, or one file that describes the endpoint; none: every model, also those to come",
    )
    serve.add_argument("--host", metavar="HOST", help="where to listen (127.0.0.1); elsewhere only with keys")
    serve.add_argument("--port", type=_count, metavar="N", help="8000; 0 with --replicas 0: any")
    serve.add_argument(
        "--keys", metavar="FILE", help="keys of its users (regraft key); else REGRAFT_KEYS, else open on this machine"
    )
    serve.add_argument(
        "--allow-origin", action="append", metavar="ORIGIN", help="web pages that may ask: https://app.example.org"
    )
    serve.add_argument("--replicas", type=_count, metavar="N", help="on Ray Serve (1); 0: this process, without Ray")
    serve.add_argument("--min-replicas", type=_count, metavar="N", help="fewest; 0: none while there are no requests")
    serve.add_argument("--max-replicas", type=_count, metavar="N", help="most, depending on the load")
    serve.add_argument(
        "--precision", type=_among("auto", "fp32", "bf16"), metavar="DTYPE", help="fp32, bf16, or auto: by agreement"
    )
    serve.add_argument(
        "--address", metavar="URL", help="a running Ray (host:6379); else RAY_ADDRESS, else one started here"
    )
    _plugins(serve)
    key = _command(commands, "key", "make a key for an endpoint: shown once, kept as a hash")
    key.add_argument("name", metavar="NAME", help="whose it is")
    key.add_argument("--keys", default="regraft-keys.yaml", metavar="FILE", help="where hashes are kept")
    key.add_argument("--model", action="append", default=[], metavar="MODEL", help="only for this one; repeatable")


def _search(commands: Any) -> None:
    search = _command(commands, "search", "find the best point of a spec's search space, and register it", store=True)
    search.add_argument("spec", metavar="SPEC", help="YAML file with a section `search`")
    search.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace a field: search.trials=30"
    )
    search.add_argument("--fresh", action="store_true", help="start another search instead of continuing this spec's")
    _create(search)
    search.add_argument("--same", action="store_true", help="keep to this spec's search, whatever its rows are now")
    add_compare(search)
    search.add_argument(
        "--register",
        type=_registered,
        metavar="none|best|N|TRIAL",
        help="which trials become versions (best): N: the N best; a trial such as t0011: that one",
    )
    search.add_argument(
        "--address", metavar="URL", help="a cluster to submit to (http://head:8265), or a Ray to join (host:6379)"
    )
