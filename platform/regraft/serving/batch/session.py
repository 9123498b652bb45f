"""How do many rows get their answers, each exactly once and in order, though what runs may die at any moment?

The input becomes blocks in a work folder beside the output; whoever takes a block puts its answers there as one part;
when every block has its part they become the output, which appears whole, and the work folder goes. The same command
after a crash finds the blocks and the parts that are there and goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from regraft.contracts import Note, Progress, Stepped
from regraft.errors import DataError, LeaseHeld, RequestError, RunError
from regraft.plugins import add_folder
from regraft.serving.batch.input_blocks import BLOCK_ROWS, PROBLEM, WHERE, InputBlocks, ReadOptions
from regraft.serving.batch.output_parts import Form, OutputParts, assemble, block_output
from regraft.serving.batch.target import Target, resolve_target
from regraft.serving.encoder import Dtype, Encoder, chosen_dtype
from regraft.serving.predictor import Predictor, chosen_device
from regraft.spec.document import absolute
from regraft.spec.sections import AnySource
from regraft.store.lease import Lease
from regraft.store.objects import ObjectStore, open_store

JOB, DONE = "job.json", "done.json"
WORTH_MEASURING = 1000
"""Rows from which it pays to load a base twice more to see whether bf16 agrees."""
SUFFIXES: dict[str, Form] = {".jsonl": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True)
class BatchRequest:
    """What is asked: which model answers which rows, and where the answers go."""

    model: str
    """`name[@alias|@version]`; for features also a base, as a spec writes it."""
    input: str
    output: str
    """OUT.jsonl or OUT.parquet, local or s3://."""
    store: str = "./regraft-store"
    features: bool = False
    """The vectors of the rows in place of answers."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The task's names of columns to the file's, as in a spec."""
    format: AnySource | None = None
    bad_rows: Literal["fail", "skip"] = "fail"
    dtype: Dtype = "fp32"
    """Arithmetic of the features of a base; answers are in fp32."""
    plugins: tuple[str, ...] = ()
    base: str | None = None
    """Where the model's base is, if not where the version says."""
    device: str = "auto"
    block_rows: int = BLOCK_ROWS


@dataclass(frozen=True)
class BatchJob:
    """What a worker needs: plain data."""

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
    """What came of it."""

    rows: int
    out: str
    seconds: float
    """Wall time of this command."""
    failed: int = 0
    """Rows that have an error in place of an answer."""

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        found = asdict(self)
        return found if self.failed else {name: value for name, value in found.items() if name != "failed"}


ExecuteBlocks = Callable[[BatchJob, list[int], Callable[[int], None]], None]
"""Answers the blocks of these numbers in any order, and says of each that it is done."""
ChooseDtype = Callable[[BatchJob], Mapping[str, Any]]
"""`dtype` and `why`, decided where the job will run."""


class BatchWorker:
    """Answers blocks: a model, opened once."""

    def __init__(self, job: BatchJob) -> None:
        for folder in job.plugins:
            add_folder(Path(folder))
        self.job = job
        store = open_store(job.work)
        self._intake = sealed(store)
        self._kinds = job.target.row_schema().columns
        self._parts = OutputParts(store, job.form)
        self._answer = _answering(job)

    def rows(self, number: int) -> tuple[int, int]:
        """The first and the last row of a block."""
        return self._intake.starts[number], self._intake.starts[number + 1] - 1

    def __call__(self, number: int) -> int:
        """Put the part of a block; its number."""
        rows = self._intake.block(number, self._kinds)
        good = [place for place, row in enumerate(rows) if not row[PROBLEM]]
        answers = self._answer([_own(rows[place]) for place in good])
        for place, answer in zip(good, answers, strict=True):
            if isinstance(answer, DataError) and self.job.bad_rows == "fail":
                told = f"{answer.message}: repair the row, or pass --bad-rows skip"
                raise DataError(told, rows[place][WHERE]) from answer
        results = dict(zip(good, answers, strict=True))
        self._parts.put(number, block_output(rows, results, self.job.form, vectors=self.job.target.vectors))
        return number


def _answering(job: BatchJob) -> Callable[[list[dict[str, Any]]], list[Any]]:
    target, device = job.target, chosen_device(job.device)
    if target.base is not None:
        assert job.dtype != "auto"
        return Encoder(target.located(), device=device, dtype=job.dtype).vectors
    predictor = Predictor.open(target.store, target.reference, device=job.device, base=target.elsewhere)
    if predictor.hash != target.id:
        raise RunError(f"{target.reference} is another version now than when the output was begun", target.store)
    if not target.vectors:
        return predictor.attempt
    return lambda rows: [
        vector if isinstance(vector, DataError) else vector.numpy() for vector in predictor.features(rows)
    ]


def _own(row: Mapping[str, Any]) -> dict[str, Any]:
    """The task's columns and `row`."""
    return {name: value for name, value in row.items() if not name.startswith(":")}


def sealed(store: ObjectStore) -> InputBlocks:
    """The blocks of a work folder."""
    blocks = InputBlocks.sealed(store)
    if blocks is None:
        raise RunError("the work folder is gone: another command took it away; run this one again", store.url)
    return blocks


def choose_here(job: BatchJob) -> Mapping[str, Any]:
    """The arithmetic for a base's features, measured on the first block in this process."""
    block = sealed(open_store(job.work)).block(0, job.target.row_schema().columns)
    rows = [_own(row) for row in block if not row[PROBLEM]]
    return chosen_dtype(job.target.located(), rows, device=chosen_device(job.device))


def execute_here(job: BatchJob, numbers: list[int], done: Callable[[int], None]) -> None:
    """Answer the blocks in this process, one after the other."""
    worker = BatchWorker(job)
    for number in numbers:
        done(worker(number))


def predict_here(request: BatchRequest, *, fresh: bool = False, progress: Progress | None = None) -> BatchResult:
    """Answer everything in this process, without Ray."""
    return predict_session(request, execute_here, choose_here, fresh=fresh, progress=progress)


def predict_session(
    request: BatchRequest,
    execute: ExecuteBlocks,
    choose: ChooseDtype,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> BatchResult:
    """Take the input in, have the blocks answered, write the output; one driver an output, held by a lease.

    Raises RequestError when the output is there already (unless `fresh`), when its folder is not, and when what an
    earlier command left unfinished was of another model, another input or other options.
    """
    began = time.monotonic()
    request = replace(request, output=absolute(request.output), input=absolute(request.input))
    form = form_of(request)
    for folder in request.plugins:
        add_folder(Path(folder).expanduser())
    target = resolve_target(request.model, request.store, features=request.features, base=request.base)
    if target.base is None and request.dtype == "bf16":
        raise RequestError("bf16 is written; models answer in fp32, and only a base's features in bf16", where="dtype")
    store = open_store(work_folder(request.output))
    refuse_existing(request.output, store, fresh=fresh)
    with cleared(store, request.output) as lease:
        if fresh:
            empty(store)
        blocks, job = begin(request, target, store, form, choose, progress)
        rest = _Remaining(blocks, OutputParts(store, form), progress)
        execute(job, rest.numbers, rest.done)
        if lease.lost.is_set():
            raise LeaseHeld("another command took this output over", where=request.output)
        return finish(job, request, blocks, began)


def form_of(request: BatchRequest) -> Form:
    """The output's format, by its suffix."""
    suffix = Path(request.output).suffix.lower()
    form = SUFFIXES.get(suffix)
    if form is None:
        raise RequestError(f"{request.output} is written; allowed are names that end with .jsonl or .parquet", "output")
    if request.features and form != "parquet":
        raise RequestError(f"{request.output} is written; features go into a file that ends with .parquet", "output")
    return form


def work_folder(output: str) -> str:
    """Where an unfinished output lies: beside it, so that a rename finishes it."""
    folder, _, name = output.rpartition("/")
    return f"{folder}/.{name}.unfinished"


def refuse_existing(output: str, store: ObjectStore, *, fresh: bool) -> None:
    """RequestError when the output is there, or its folder is not."""
    if output.startswith("s3://"):
        folder, _, name = output.rpartition("/")
        here = next((stat.size for stat in open_store(folder).list(name) if stat.key == name), None)
    else:
        here = Path(output).stat().st_size if Path(output).exists() else None
        if Path(output).is_dir():
            raise RequestError("a folder has this name: name another output", where=output)
        if not Path(output).parent.is_dir():
            raise RequestError(f"there is no folder {Path(output).parent}: make it first", where=output)
    ours = store.exists(JOB) and store.exists(DONE) and json.loads(store.get(DONE))["size"] == here
    if here is not None and not fresh and not ours:
        raise RequestError("is there already: name another output, or pass --fresh to replace it", where=output)


@contextmanager
def cleared(store: ObjectStore, output: str) -> Iterator[Lease]:
    """Hold the work folder; one without a begun job in it goes when this ends."""
    with Lease(store, Path(output).name) as lease:
        try:
            yield lease
        finally:
            if not lease.lost.is_set() and not store.exists(JOB):
                # Under the lease: after it, the folder might be another command's.
                empty(store)
                store.delete([stat.key for stat in store.list()])
                _remove_folder(store)


def empty(store: ObjectStore) -> None:
    """Take away all that was begun; the mark of a job first, without which nothing else counts."""
    store.delete([JOB])
    store.delete([stat.key for stat in store.list() if not stat.key.endswith("lease.json")])


def _remove_folder(store: ObjectStore) -> None:
    """What a store in a folder leaves of itself: its lock, and folders."""
    root = Path(store.url)
    if store.url.startswith("s3://") or not root.is_dir():
        return
    with suppress(OSError):
        for path in sorted(root.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        root.rmdir()


def begin(
    request: BatchRequest,
    target: Target,
    store: ObjectStore,
    form: Form,
    choose: ChooseDtype,
    progress: Progress | None,
) -> tuple[InputBlocks, BatchJob]:
    """The blocks and the job: those of the unfinished output when they are of this very request, else new ones."""
    wanted = identity(request, target, form)
    row_schema = target.row_schema()
    reading = ReadOptions(
        input=request.input,
        wanted=row_schema.columns,
        check=row_schema.check,
        columns=request.columns,
        trained=row_schema.trained,
        form=request.format,
        bad_rows=request.bad_rows,
        block_rows=request.block_rows,
    )
    job = BatchJob(target, store.url, form, request.bad_rows, request.dtype, request.device, _absolute(request.plugins))
    known = json.loads(store.get(JOB)) if store.exists(JOB) else None
    if known is not None:
        refuse_other(known["identity"], wanted, request.output)
        blocks = sealed(store)
        blocks.verify(reading)
        answered = len(OutputParts(store, form).there())
        _tell(progress, f"goes on: {answered} of {len(blocks.rows)} blocks of the unfinished output are answered")
        return blocks, replace(job, dtype=known["dtype"])
    empty(store)
    blocks = InputBlocks.read(store, reading)
    if target.base is not None and job.dtype == "auto":
        few = blocks.total < WORTH_MEASURING
        plain: Mapping[str, Any] = {"dtype": "fp32", "why": f"fewer than {WORTH_MEASURING} rows"}
        chosen = plain if few else choose(job)
        _tell(progress, f"computing in {chosen['dtype']}: {chosen['why']}")
        job = replace(job, dtype=chosen["dtype"])
    store.put(JOB, json.dumps({"identity": wanted, "dtype": job.dtype}).encode())
    return blocks, job


def identity(request: BatchRequest, target: Target, form: Form) -> dict[str, Any]:
    """What must be the same for an unfinished output to be gone on with."""
    return {
        "model": target.document(),
        "columns": dict(sorted(request.columns.items())),
        "format": None if request.format is None else request.format.model_dump(mode="json"),
        "bad rows": request.bad_rows,
        "dtype": request.dtype,
        "output": form,
        "block rows": request.block_rows,
    }


def refuse_other(known: Mapping[str, Any], wanted: Mapping[str, Any], output: str) -> None:
    """RequestError that names what differs."""
    differ = [
        f"{name} was {known.get(name)}, now {value}" for name, value in wanted.items() if known.get(name) != value
    ]
    if differ:
        raise RequestError(
            f"its unfinished output was made otherwise ({'; '.join(differ)}): ask as before to go on with it, or pass "
            "--fresh to begin anew",
            where=output,
        )


class _Remaining:
    """What is left to do, and how it goes."""

    def __init__(self, blocks: InputBlocks, parts: OutputParts, progress: Progress | None) -> None:
        answered = parts.there()
        self.numbers = [number for number in range(len(blocks.rows)) if number not in answered]
        self._rows, self._total, self._progress = blocks.rows, blocks.total, progress
        self._before = self._done = sum(blocks.rows[number] for number in answered if number < len(blocks.rows))
        self._began = time.monotonic()

    def done(self, number: int) -> None:
        """One more block has its part."""
        self._done += self._rows[number]
        if self._progress is None:
            return
        rate = (self._done - self._before) / max(time.monotonic() - self._began, 1e-9)
        self._progress(
            Stepped(
                step=self._done,
                steps=self._total,
                rows_per_second=rate,
                left_s=(self._total - self._done) / rate,
                unit="row",
            )
        )


def finish(job: BatchJob, request: BatchRequest, blocks: InputBlocks, began: float) -> BatchResult:
    """Make the output of the parts and take the work folder away."""
    store = open_store(job.work)
    parts = OutputParts(store, job.form)
    missing = set(range(len(blocks.rows))) - set(parts.there())
    if missing:
        raise RunError(f"{len(missing)} blocks have no answers: run the command again", where=request.output)
    failed = parts.failed()

    def settle(size: int) -> None:
        store.put(DONE, json.dumps({"size": size}).encode())

    assemble(parts, request.output, {"model": job.target.reference, "hash": job.target.id}, settle)
    empty(store)
    return BatchResult(blocks.total, request.output, round(time.monotonic() - began, 3), failed)


def _absolute(folders: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(absolute(folder) for folder in folders)


def _tell(progress: Progress | None, message: str) -> None:
    if progress is not None:
        progress(Note(message))
