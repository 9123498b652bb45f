"""Batch prediction: each row is answered exactly once and in order, even if processes die.

The input becomes blocks in a work folder beside the output. A worker answers a block and puts its answers there as one
part. When every block has its part, the parts become the output in one atomic step, and the work folder is removed. The
same command after a crash continues from the blocks and parts that exist.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from regraft.contracts import Progress, Stepped, note
from regraft.errors import DataError, RequestError, RunError
from regraft.plugins import add_folder
from regraft.serving.batch.input_blocks import BLOCK_ROWS, PROBLEM, WHERE, InputBlocks, ReadOptions
from regraft.serving.batch.limits import BlockLimits, budget_of, refuse_large_base
from regraft.serving.batch.output_parts import Form, OutputParts, assemble, block_output
from regraft.serving.batch.target import Target, resolve_target
from regraft.serving.batch.work_folder import (
    DONE,
    JOB,
    WorkJob,
    cleared,
    empty,
    read_work,
    refuse_existing,
    work_folder,
)
from regraft.serving.encoder import Dtype, Encoder, chosen_dtype
from regraft.serving.predictor import Predictor, resolve_device
from regraft.spec.document import STANDARD_INPUT, absolute
from regraft.spec.sections import AnySource
from regraft.store.objects import ObjectStore, open_store

WORTH_MEASURING = 1000
"""Rows from which it pays to load a base twice more to compare bf16 with fp32."""
SUFFIXES: dict[str, Form] = {".jsonl": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}


@dataclass(frozen=True)
class BatchRequest:
    """A request for a batch prediction: the model, the rows and the output."""

    model: str
    """`name[@alias|@version]`; for features also a base, written as in a spec."""
    input: str
    """File, folder, glob or s3:// URL; `-` is standard input."""
    output: str
    """OUT.jsonl, OUT.csv, OUT.tsv or OUT.parquet, local or s3://."""
    store: str = "./regraft-store"
    features: bool = False
    """Whether the output holds feature vectors instead of answers."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The file's column names by the task's, as in a spec."""
    format: AnySource | None = None
    bad_rows: Literal["fail", "skip"] = "fail"
    dtype: Dtype = "fp32"
    """Precision of a base's features; answers are computed in fp32."""
    plugins: tuple[str, ...] = ()
    base: str | None = None
    """Reference of the model's base, if it is not at the version's own."""
    device: str = "auto"
    block_rows: int = BLOCK_ROWS
    budget: Mapping[str, float] = field(default_factory=dict)
    """Limits of this command, as in a spec's section `budget`."""


@dataclass(frozen=True)
class BatchJob:
    """Everything that a worker needs, as plain data."""

    target: Target
    work: str
    """URL of the work folder."""
    form: Form
    bad_rows: Literal["fail", "skip"]
    dtype: Dtype
    device: str
    plugins: tuple[str, ...]


@dataclass(frozen=True)
class BatchResult:
    """The outcome of a batch prediction."""

    rows: int
    out: str
    seconds: float
    """Wall time of this command."""
    failed: int = 0
    """Rows that have an error in place of an answer."""

    def document(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        found = asdict(self)
        return found if self.failed else {name: value for name, value in found.items() if name != "failed"}


ExecuteBlocks = Callable[[BatchJob, list[int], Callable[[int], None]], None]
"""Answers the blocks of these numbers in any order, and calls the function with each number once it is answered."""
ChooseDtype = Callable[[BatchJob], Mapping[str, Any]]
"""Returns `dtype` and `why`, decided where the job will run."""


class BatchWorker:
    """Answers blocks with a model that is loaded once."""

    def __init__(self, job: BatchJob) -> None:
        for folder in job.plugins:
            add_folder(Path(folder))
        self.job = job
        store = open_store(job.work)
        self._blocks = complete_blocks(store)
        self._kinds = job.target.row_schema().columns
        self._parts = OutputParts(store, job.form)
        self._answer = _answer_function(job)

    def rows(self, number: int) -> tuple[int, int]:
        """Return the first and the last row of a block."""
        return self._blocks.starts[number], self._blocks.starts[number + 1] - 1

    def __call__(self, number: int) -> int:
        """Answer a block, put its part, and return its number."""
        rows = self._blocks.block(number, self._kinds)
        good = [place for place, row in enumerate(rows) if not row[PROBLEM]]
        answers = self._answer([_task_columns(rows[place]) for place in good])
        for place, answer in zip(good, answers, strict=True):
            if isinstance(answer, DataError) and self.job.bad_rows == "fail":
                raise DataError(
                    f"{answer.message}: repair the row, or pass --bad-rows skip", rows[place][WHERE]
                ) from answer
        results = dict(zip(good, answers, strict=True))
        self._parts.put(number, block_output(rows, results, self.job.form, vectors=self.job.target.vectors))
        return number


def _answer_function(job: BatchJob) -> Callable[[list[dict[str, Any]]], list[Any]]:
    target, device = job.target, resolve_device(job.device)
    if target.base is not None:
        assert job.dtype != "auto"
        return Encoder(target.located(), device=device, dtype=job.dtype).vectors
    predictor = Predictor.open(target.store, target.reference, device=job.device, base=target.elsewhere)
    if predictor.hash != target.id:
        raise RunError(f"{target.reference} has changed since the output was begun", target.store)
    if not target.vectors:
        return predictor.attempt
    return lambda rows: [
        vector if isinstance(vector, DataError) else vector.numpy() for vector in predictor.features(rows)
    ]


def _task_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task's columns and `row`."""
    return {name: value for name, value in row.items() if not name.startswith(":")}


def complete_blocks(store: ObjectStore) -> InputBlocks:
    """Return the complete blocks of a work folder."""
    blocks = InputBlocks.existing(store)
    if blocks is None:
        raise RunError("the work folder is gone: another command removed it; run this one again", store.url)
    return blocks


def choose_here(job: BatchJob) -> Mapping[str, Any]:
    """Choose the precision for a base's features by measuring on the first block, in this process."""
    block = complete_blocks(open_store(job.work)).block(0, job.target.row_schema().columns)
    rows = [_task_columns(row) for row in block if not row[PROBLEM]]
    return chosen_dtype(job.target.located(), rows, device=resolve_device(job.device))


def execute_here(job: BatchJob, numbers: list[int], done: Callable[[int], None]) -> None:
    """Answer the blocks in this process, one after the other."""
    worker = BatchWorker(job)
    for number in numbers:
        done(worker(number))


def predict_here(request: BatchRequest, *, fresh: bool = False, progress: Progress | None = None) -> BatchResult:
    """Answer a request in this process, without Ray."""
    return predict_session(request, execute_here, choose_here, fresh=fresh, progress=progress)


def predict_session(
    request: BatchRequest,
    execute: ExecuteBlocks,
    choose: ChooseDtype,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> BatchResult:
    """Read the input into blocks, let `execute` answer them, and write the output; a lease allows one driver an output.

    Raises RequestError when the output exists (unless `fresh`) or its folder does not. It also does when an unfinished
    output was begun with another model, another input or other options.
    """
    started = time.monotonic()
    prepared = prepare(request)
    store = prepared.store
    refuse_existing(prepared.request.output, store, fresh=fresh)
    with cleared(store, prepared.request.output) as lease:
        if fresh:
            empty(store)
        budget = budget_of(request.budget)
        refuse_large_base(budget, prepared.target)
        blocks, job = begin(prepared, choose, progress)
        rest = _Remaining(blocks, OutputParts(store, prepared.form), progress)
        if budget.limits:
            rest.limits = BlockLimits(budget, store, prepared.request.output, started)
        execute(job, rest.numbers, rest.done)
        lease.raise_if_lost("another command took this output over", prepared.request.output)
        return finish(prepared, blocks, started)


@dataclass(frozen=True)
class PreparedRequest:
    """A request with absolute paths, its target, and the work folder and format of its output."""

    request: BatchRequest
    target: Target
    form: Form
    store: ObjectStore
    """The work folder."""

    def identity(self) -> dict[str, Any]:
        """Return everything that must be unchanged for an unfinished output to be continued."""
        request = self.request
        return {
            "model": self.target.document(),
            "columns": dict(sorted(request.columns.items())),
            "format": None if request.format is None else request.format.model_dump(mode="json"),
            "bad rows": request.bad_rows,
            "dtype": request.dtype,
            "output": self.form,
            "block rows": request.block_rows,
        }

    def read_options(self) -> ReadOptions:
        """Return how the input is read."""
        request, schema = self.request, self.target.row_schema()
        return ReadOptions(
            input=request.input,
            wanted=schema.columns,
            check=schema.check,
            columns=request.columns,
            trained=schema.trained,
            source=request.format,
            bad_rows=request.bad_rows,
            block_rows=request.block_rows,
            remarks=schema.remarks,
        )

    def job(self) -> BatchJob:
        """Return the job for workers."""
        request = self.request
        plugins = tuple(absolute(folder) for folder in request.plugins)
        return BatchJob(
            target=self.target,
            work=self.store.url,
            form=self.form,
            bad_rows=request.bad_rows,
            dtype=request.dtype,
            device=request.device,
            plugins=plugins,
        )


def prepare(request: BatchRequest) -> PreparedRequest:
    """Resolve a request's paths, format, plugins and target. Raises RequestError, NotFound, BaseError."""
    source = request.input if request.input == STANDARD_INPUT else absolute(request.input)
    request = replace(request, output=absolute(request.output), input=source)
    form = form_of(request)
    for folder in request.plugins:
        add_folder(Path(folder).expanduser())
    target = resolve_target(request.model, request.store, features=request.features, base=request.base)
    if target.base is None and request.dtype == "bf16":
        raise RequestError("bf16 is written; models answer in fp32, and only a base's features in bf16", where="dtype")
    return PreparedRequest(request, target, form, open_store(work_folder(request.output)))


def form_of(request: BatchRequest) -> Form:
    """Return the output's format, from its suffix."""
    suffix = Path(request.output).suffix.lower()
    form = SUFFIXES.get(suffix)
    if form is None:
        *most, last = SUFFIXES
        allowed = f"{', '.join(most)} or {last}"
        raise RequestError(f"{request.output} is written; allowed are names that end with {allowed}", "output")
    if request.features and form != "parquet":
        raise RequestError(f"{request.output} is written; features go into a file that ends with .parquet", "output")
    return form


def begin(prepared: PreparedRequest, choose: ChooseDtype, progress: Progress | None) -> tuple[InputBlocks, BatchJob]:
    """Return the blocks and the job: those of an unfinished output of the same request, else new ones."""
    if prepared.store.exists(JOB):
        return _resume(prepared, read_work(prepared.store, JOB, WorkJob), progress)
    return _start(prepared, choose, progress)


def _resume(
    prepared: PreparedRequest, known: Mapping[str, Any], progress: Progress | None
) -> tuple[InputBlocks, BatchJob]:
    refuse_other(known["identity"], prepared.identity(), prepared.request.output)
    blocks = complete_blocks(prepared.store)
    blocks.verify(prepared.read_options())
    answered = len(OutputParts(prepared.store, prepared.form).keys())
    note(progress, f"continues: {answered} of {len(blocks.rows)} blocks of the unfinished output are answered")
    return blocks, replace(prepared.job(), dtype=known["dtype"])


def _start(prepared: PreparedRequest, choose: ChooseDtype, progress: Progress | None) -> tuple[InputBlocks, BatchJob]:
    store, job = prepared.store, prepared.job()
    empty(store)
    reading = prepared.read_options()
    blocks = InputBlocks.read(store, reading)
    for text in reading.observations.lines():
        note(progress, text)
    if job.target.base is not None and job.dtype == "auto":
        few = blocks.total < WORTH_MEASURING
        plain: Mapping[str, Any] = {"dtype": "fp32", "why": f"fewer than {WORTH_MEASURING} rows"}
        chosen = plain if few else choose(job)
        note(progress, f"computing in {chosen['dtype']}: {chosen['why']}")
        job = replace(job, dtype=chosen["dtype"])
    store.put(JOB, json.dumps({"identity": prepared.identity(), "dtype": job.dtype}).encode())
    return blocks, job


def refuse_other(known: Mapping[str, Any], wanted: Mapping[str, Any], output: str) -> None:
    """Raise RequestError, which names what differs, unless the identities are equal."""
    differ = [
        f"{name} was {known.get(name)}, now {value}" for name, value in wanted.items() if known.get(name) != value
    ]
    if differ:
        raise RequestError(
            f"its unfinished output was begun differently ({'; '.join(differ)}): repeat that request to continue, "
            "or pass --fresh to start again",
            where=output,
        )


class _Remaining:
    """The blocks that remain, and the progress over them."""

    def __init__(self, blocks: InputBlocks, parts: OutputParts, progress: Progress | None) -> None:
        answered = parts.keys()
        self.numbers = [number for number in range(len(blocks.rows)) if number not in answered]
        self.limits: BlockLimits | None = None
        self._left = len(self.numbers)
        self._rows, self._total, self._progress = blocks.rows, blocks.total, progress
        self._before = self._done = sum(blocks.rows[number] for number in answered if number < len(blocks.rows))
        self._started = time.monotonic()

    def done(self, number: int) -> None:
        """Record that a block has its part, and report progress. Raises Stopped where the budget holds no other."""
        self._done, self._left = self._done + self._rows[number], self._left - 1
        self._report()
        if self.limits is not None:
            self.limits.check(self._left)

    def _report(self) -> None:
        if self._progress is None:
            return
        rate = (self._done - self._before) / max(time.monotonic() - self._started, 1e-9)
        self._progress(
            Stepped(
                step=self._done,
                steps=self._total,
                rows_per_second=rate,
                left_s=(self._total - self._done) / rate,
                unit="row",
            )
        )


def finish(prepared: PreparedRequest, blocks: InputBlocks, started: float) -> BatchResult:
    """Assemble the output from the parts, and remove the work folder."""
    store, output, target = prepared.store, prepared.request.output, prepared.target
    parts = OutputParts(store, prepared.form)
    missing = set(range(len(blocks.rows))) - set(parts.keys())
    if missing:
        raise RunError(f"{len(missing)} blocks have no answers: run the command again", where=output)
    failed = parts.failed()

    def record_size(size: int) -> None:
        store.put(DONE, json.dumps({"size": size}).encode())

    assemble(parts, output, {"model": target.reference, "hash": target.id}, record_size)
    empty(store)
    return BatchResult(blocks.total, output, round(time.monotonic() - started, 3), failed)
