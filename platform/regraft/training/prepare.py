"""Preparation of a run on the driver: its name, its base, its rows, and its document in the store."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any, ClassVar

from regraft.bases.derived_base import RANDOM, base_named, find_base, holds_configuration_alone
from regraft.bases.load import load_processor
from regraft.bases.locate import Base, check_hash
from regraft.contracts import Progress, Row, note
from regraft.data.base_reading import BaseReading
from regraft.data.row_sample import fit_to_data
from regraft.data.snapshot import Snapshot, build_snapshot
from regraft.errors import BaseError, Damaged, DataError, NotFound, RequestError, Unsupported
from regraft.spec.auto import same_choice
from regraft.spec.run import RunSpec
from regraft.spec.search_bases import short_base
from regraft.store.lease import Lease
from regraft.store.objects import ObjectStore
from regraft.store.runs import Runs
from regraft.training.auto_values import CHOICE, settle
from regraft.training.command_clock import CommandClock
from regraft.training.event_log import EventLog
from regraft.training.harness import LocalHarness
from regraft.training.job import Job
from regraft.training.memory_check import check_weights_fit
from regraft.training.name_checks import NameUse, base_family, warn_of_changes
from regraft.training.row_order import episode_notes, lone_step_notes
from regraft.training.teachers import check_teachers
from regraft.training.text_checks import TextChecks
from regraft.units import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that is ready to train, held by this driver."""

    store: ObjectStore
    spec: RunSpec
    job: Job
    """The job for every rank."""
    started: float
    """Monotonic time at which the command began."""
    log: EventLog
    """Shows events and stores them with the run."""
    lease: Lease
    clock: CommandClock = field(default_factory=CommandClock)
    """Says what the run has taken."""


class RowsChanged(RequestError):
    """The rows that the spec names are not those that the run or the search began with."""

    what: ClassVar[str] = "the rows have changed"


class StageRetrained(RowsChanged):
    """The model of the last stage is not the one that the run began with."""

    what: ClassVar[str] = "a stage was trained again"


def check_stage(store: ObjectStore, spec: RunSpec, run: str, known: Mapping[str, Any]) -> None:
    """Raise StageRetrained unless the model of the spec's last stage is the one that a run began with."""
    if spec.stages and known.get("base") not in (None, find_base(store, base_reference(spec)).hash):
        raise StageRetrained(
            f"run {run} began with another model of its last stage than {spec.base}: leave --same out, and another run "
            "begins with this one",
            where=run,
        )


def choose_run(runs: Runs, spec: RunSpec, *, fresh: bool) -> str:
    """Return the name of the newest run of this spec, or a new name if it is to be trained `fresh`."""
    if not fresh:
        same = [info for info in runs.list() if _has_name(info.name, spec.run)]
        mine = [info.name for info in same if same_choice(spec, info.fields.get(CHOICE))]
        if mine or not same:
            return max(mine, default=spec.run, key=lambda name: (find_document(runs, name) or {}).get("created", ""))
        return next(name for name in numbered(spec.run) if find_document(runs, name) is None)
    if find_document(runs, spec.run) is None:
        return spec.run
    return f"{spec.run}.{secrets.token_hex(3)}"


def _has_name(run: str, name: str) -> bool:
    return run == name or run.startswith(f"{name}.")


def run_names(runs: Runs, spec: RunSpec, *, fresh: bool) -> Iterator[str]:
    """Yield the run that `choose_run` returns, then unused names for runs with other rows: NAME.2, NAME.3, ..."""
    newest = choose_run(runs, spec, fresh=fresh)
    yield newest
    yield from (name for name in numbered(spec.run) if name != newest and find_document(runs, name) is None)


def numbered(name: str) -> Iterator[str]:
    """Yield NAME.2, NAME.3, ... without an end."""
    return (f"{name}.{number}" for number in count(2))


def find_document(runs: Runs, run: str) -> dict[str, Any] | None:
    """Return the run's document; None if there is none or it is damaged, since the next update replaces it."""
    try:
        return runs.find(run)
    except Damaged as error:
        log.warning("%s", error)
        return None


def build_rows(
    store: ObjectStore,
    spec: RunSpec,
    base: Base | Sequence[Base],
    progress: Progress | None,
    *,
    as_in: str | None = None,
) -> Snapshot:
    """Return the spec's rows as a snapshot in the store; its notes are emitted, and a name that changes.

    `as_in` is the fingerprint that the run began with, if any. Of several bases each must read every row.
    """
    bases = (base,) if isinstance(base, Base) else tuple(base)
    first = bases[0]
    if spec.compute.workers == 0:
        for one in bases:  # before the data are read; workers check their own machines
            check_weights_fit(one, LocalHarness())
    checks = [(one, found) for one in bases if (found := TextChecks.of(spec.task, one))]
    surplus = [found for _, found in checks if found.surplus]
    opened = [text for one in bases for text in _of_base(one, bases, begins_with(spec, one))]
    opened += [text for one, found in checks for text in _of_base(one, bases, filter(None, [found.surplus]))]
    for text in opened:
        note(progress, text)
    processor = partial(load_processor, first, spec.task.modality)
    reading = BaseReading(processor, partial(_unread_by_any, surplus) if surplus else None)
    snapshot = build_snapshot(store, spec.task, spec.data, base=reading, as_in=as_in)
    for one, found in checks:
        snapshot = replace(snapshot, notes=(*snapshot.notes, *_of_base(one, bases, found.cut(snapshot))))
    refuse_small_target(spec, snapshot)
    check_teachers(store, spec, snapshot.labels)
    refuse_lone_rows(spec, snapshot)
    lone = lone_step_notes(spec, len(snapshot.train))
    more = (*nothing_measured(spec, snapshot), *episode_notes(spec, snapshot), *lone)
    snapshot = replace(snapshot, notes=(*snapshot.notes, *more))
    for text in (*([skipped_text(snapshot.skipped)] if snapshot.skipped else []), *snapshot.notes):
        note(progress, text)
    family = base_family(first) if len(bases) == 1 else ""  # of several, it is open which one is registered
    for text in warn_of_changes(store, spec.name, NameUse(spec.task.key(), family, snapshot.labels)):
        note(progress, text)
    return replace(snapshot, notes=(*opened, *snapshot.notes))


def _of_base(base: Base, bases: Sequence[Base], texts: Iterable[str]) -> Iterator[str]:
    """Yield sentences about a base, which is named where there are several."""
    return (text if len(bases) == 1 else f"{short_base(base.reference)}: {text}" for text in texts)


def _unread_by_any(checks: Sequence[TextChecks], row: Row) -> str | None:
    """Return why one of several bases cannot read a row; None if all can."""
    return next((problem for found in checks if (problem := found.problem(row))), None)


def check_rows(store: ObjectStore, spec: RunSpec, run: str, known: Mapping[str, Any]) -> None:
    """Raise RowsChanged unless the rows of a finished run are what its spec names now."""
    if known.get("data") is None:
        return

    def processor() -> Any:
        return load_processor(find_base(store, base_reference(spec)), spec.task.modality)

    reading = BaseReading(processor, _unread_rows(store, spec) if known.get("skipped") else None)
    snapshot = build_snapshot(store, spec.task, spec.data, base=reading, as_in=known["data"])
    refuse_changed(run, known, snapshot)


def _unread_rows(store: ObjectStore, spec: RunSpec) -> Callable[[Row], str | None] | None:
    """Return the function that names the rows which the base cannot read; None where there is no such row or base."""
    try:
        checks = TextChecks.of(spec.task, find_base(store, base_reference(spec)))
    except (BaseError, NotFound):
        return None
    return checks.problem if checks and checks.surplus else None


def prepare(store: ObjectStore, spec: RunSpec, run: str, progress: Progress | None) -> Job:
    """Locate the base, build the snapshot, write the run's document, and return its job.

    Raises WrongBase or RowsChanged when the run began with another base or other rows.
    """
    base = find_base(store, base_reference(spec))
    runs = Runs(store)
    known = find_document(runs, run)
    snapshot = build_rows(store, spec, base, progress, as_in=(known or {}).get("data"))
    if known is not None:
        check_unchanged(run, known, base, snapshot)
    spec, choice = settle(spec, run, known=known, rows=len(snapshot.train), progress=progress)
    if known is None:
        runs.write(run, "spec.yaml", spec.dump().encode())
    fitted = spec.model_copy(update={"task": fit_to_data(spec.task, snapshot.train)})
    now = datetime.now(UTC).isoformat(timespec="seconds")
    created = (known or {}).get("created", now)
    runs.update(
        run,
        state="running",
        model=spec.name,
        base=base.hash,
        data=snapshot.fingerprint,
        rows=snapshot.counts,
        skipped=dict(snapshot.skipped),
        notes=list(snapshot.notes),
        overlap=snapshot.overlap,
        **({} if snapshot.test_overlap is None else {"test_overlap": dict(snapshot.test_overlap)}),
        created=created,
        **choice,
        score={"name": spec.task.score.name, "mode": spec.task.score.mode},
    )
    return Job(
        spec=fitted.model_dump(mode="json"),
        run=run,
        base_hash=base.hash,
        fingerprint=snapshot.fingerprint,
        labels=snapshot.labels,
        threads=threads_per_rank(spec),
    )


def nothing_measured(spec: RunSpec, snapshot: Snapshot) -> tuple[str, ...]:
    """Return a sentence where no row is left to evaluate on; raises DataError where the method needs such rows."""
    if len(snapshot.eval):
        return ()
    classes = counted(len(snapshot.labels), "class", "classes")
    why = f"each of the {classes} has one row, so that none is left to evaluate on"
    if spec.method.closed_form:
        return (f"{why}: nothing is measured; `regraft evaluate` measures the model on other rows",)
    raise DataError(
        f"{why}, and method {spec.method.key()} chooses its checkpoint there: name a file of rows in data.eval, or "
        "write a method without steps (regraft show methods)",
        where="data.eval",
    )


def refuse_small_target(spec: RunSpec, snapshot: Snapshot) -> None:
    """Raise DataError where losses compare the training rows with fewer target rows than a step has."""
    size, target = spec.training.batch_size, snapshot.target
    if spec.reads_target and target is not None and len(target) < size:
        raise DataError(
            f"data.target has {counted(len(target), 'row')}, fewer than training.batch_size: {size}: name more rows, "
            "or write a smaller batch_size",
            where=str(spec.data.target),
        )


def refuse_lone_rows(spec: RunSpec, snapshot: Snapshot) -> None:
    """Raise DataError where rows of a class are compared with one another and a class has one row, and where a task
    compares rows and there is one."""
    if len(snapshot.train) < spec.task.least_rows:
        raise DataError(
            f"task {spec.task.key()} compares the rows of a step, and there is one training row: add rows",
            where=spec.data.train,
        )
    if not spec.method.trains_features:
        return
    counts = snapshot.train.counts
    lone = [repr(label) for label, count in counts.items() if count == 1]
    if lone:
        raise DataError(
            f"method {spec.method.key()} compares rows of a class, and there is one row of {', '.join(lone[:5])}: add "
            "a second one, leave the class out, or write method: prototypes",
            where=spec.data.train,
        )


def skipped_text(skipped: Mapping[str, Any]) -> str:
    """Return a line about the rows that were left out."""
    first = f"; the first: {skipped['rows'][0]}" if skipped["rows"] else ""
    sides = [f"{skipped['train']} training", f"{skipped['eval']} evaluation"]
    sides += [f"{skipped[side]} {side}" for side in ("test", "target") if skipped.get(side)]
    return f"left out {', '.join(sides[:-1])} and {sides[-1]} rows that cannot be used{first}"


def threads_per_rank(spec: RunSpec) -> int | None:
    """Return the CPU threads per rank: those of the spec, or this machine's if training runs in this process."""
    if spec.compute.cpus is not None:
        return max(1, int(spec.compute.cpus))
    return len(os.sched_getaffinity(0)) if spec.compute.workers == 0 else None


def check_unchanged(run: str, known: Mapping[str, Any], base: Base, snapshot: Snapshot) -> None:
    """Raise WrongBase or RowsChanged unless the base and the rows are those that the run began with."""
    if known.get("base") is not None:
        check_hash(base, known["base"], f"run {run} began with that one; --fresh starts another run")
    refuse_changed(run, known, snapshot)


def refuse_changed(run: str, known: Mapping[str, Any], snapshot: Snapshot) -> None:
    """Raise RowsChanged unless the rows are those that the run began with."""
    if known.get("data") not in (None, snapshot.fingerprint):
        raise RowsChanged(
            f"the rows have changed since run {run} began; --fresh starts another run with the new ones", where="data"
        )


def base_reference(spec: RunSpec) -> str:
    """Return the reference of the base that training begins with; raises Unsupported where random weights would stay.

    A folder with a configuration alone begins with random weights, whatever the spec says.
    """
    if spec.training.init != "random" and not holds_configuration_alone(spec.base):
        return spec.base
    if not spec.method.moves_all:
        raise Unsupported(
            f"{spec.base} holds a configuration and no weights, so that training begins with random ones, and method "
            f"{spec.method.key()} leaves weights as they begin: write method: full, or name a base with weights",
            where="base",
        )
    return f"{RANDOM}{spec.training.seed}:{spec.base}"


def begins_with(spec: RunSpec, base: Base) -> tuple[str, ...]:
    """Return a sentence about random weights, or about the model that is the base; nothing for another base."""
    if base.reference.startswith(RANDOM):
        why = "training.init is random" if spec.training.init == "random" else "the base has a configuration alone"
        return (f"training begins with random weights, from seed {spec.training.seed}: {why}",)
    if base.ancestors:
        return (f"the base is a registered model: {' < '.join(base.ancestors)}",)
    return ()


def base_of(store: ObjectStore, spec: RunSpec, job: Job) -> Base:
    """Locate the base that the run began with; raises WrongBase when its reference now leads to another."""
    why = f"run {job.run} began with that one: put it back, or write @ and the hub revision after the base"
    return base_named(store, base_reference(spec), job.base_hash, why)


def pinned_reference(base: Base) -> str:
    """Return a reference to exactly this base, which stays valid when a hub's branch moves."""
    if base.revision is None or "@" in base.reference:
        return base.reference
    return f"{base.reference}@{base.revision}"


def base_bytes(base: Base) -> int:
    """Return the bytes of the base's weight files."""
    return sum(path.stat().st_size for path in base.path.glob("*.safetensors"))
