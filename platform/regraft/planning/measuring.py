"""A few measured steps: the spec's own run over a sample of its rows, in a scratch store."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import numpy as np
import pyarrow as pa

from regraft.bases.derived_base import MODEL, find_base
from regraft.contracts import Loss, Progress, TeacherLoss
from regraft.data.rows import BATCH_ROWS, Rows
from regraft.data.snapshot import Snapshot
from regraft.spec.run import RunSpec
from regraft.spec.sections import number_of
from regraft.store.manifest import MANIFEST, commit
from regraft.store.names import parse
from regraft.store.objects import ObjectStore, open_store
from regraft.store.registry import Registry, Version
from regraft.store.runs import Runs
from regraft.store.scratch_folder import scratch_folder
from regraft.training.harness import LocalHarness
from regraft.training.job import Job
from regraft.training.loop import fit
from regraft.training.prepare import base_reference, threads_per_rank
from regraft.training.recorded_times import RecordedRun

STEPS = 6
"""Steps of an epoch over the sample."""
LEAST_ROWS, EVAL_ROWS = 48, 64
PASSES = 2
"""Epochs over the sample, so that outputs which later epochs find again are found."""
RUN = "measured"


def measured_run(spec: RunSpec, snapshot: Snapshot, scratch: Path, progress: Progress | None) -> RecordedRun:
    """Run a spec over a sample of its rows, and return its record; baselines, kept outputs and checkpoints included.

    One process measures, whatever the number of workers is.
    """
    store = open_store(str(scratch / "store"))
    training = spec.training
    sample = sampled(store, snapshot, max(LEAST_ROWS, STEPS * training.batch_size))
    passes = min(PASSES, number_of(training.epochs)) if training.steps is None else PASSES
    short = training.model_copy(
        update={"epochs": passes, "steps": None, "eval_steps": None, "checkpoint_steps": None, "soup": 1}
    )
    compute = spec.compute.model_copy(update={"workers": 0})
    began = monotonic()
    home = open_store(spec.store)
    base = find_base(home, base_reference(spec))
    located_s = monotonic() - began
    trial = spec.model_copy(
        update={
            "training": short,
            "compute": compute,
            "store": store.url,
            "base": str(base.path),
            "budget": type(spec.budget)(),
            "losses": tuple(_with_teacher(loss, home, store) for loss in spec.losses),
        }
    )
    job = Job(
        spec=trial.model_dump(mode="json"),
        run=RUN,
        base_hash=base.hash,
        fingerprint=sample,
        labels=snapshot.labels,
        threads=threads_per_rank(spec),
    )
    fit(job, LocalHarness())
    record = Runs(store).find(RUN) or {}
    outcome = record.get("outcome") or {}
    # A command finds and hashes the base when it prepares the run, and when it registers the model.
    parts = {**outcome.get("parts", {}), "around": 2 * located_s}
    return RecordedRun(record.get("plan") or {}, {**outcome, "parts": parts})


def _with_teacher(loss: Loss, home: ObjectStore, scratch: ObjectStore) -> Loss:
    """Copy the teacher of a loss term into the scratch store, and return the term with the version that was meant."""
    if not isinstance(loss, TeacherLoss):
        return loss
    version = copied_version(loss.teacher, home, scratch)
    return loss.model_copy(update={"teacher": f"{MODEL}{version}"})


def copied_version(reference: str, home: ObjectStore, scratch: ObjectStore) -> Version:
    """Copy a registered version, and those that it was trained on, into another store; return it."""
    version = Registry(home).version(*parse(reference.removeprefix(MODEL)))
    with scratch_folder("regraft-plan-") as folder:
        # Beside the folder's own lock: a copy of that would make the next reader's folder look abandoned.
        files = Registry(home).fetch(version, folder / "version")
        contents = {str(path.relative_to(files)): path for path in sorted(files.rglob("*")) if path.is_file()}
        if not scratch.exists(version.prefix + MANIFEST):
            commit(scratch, version.prefix, contents, kind="version", meta=version.meta)
    parent = str(version.meta["base"]["reference"])
    if parent.startswith(MODEL):
        copied_version(parent, home, scratch)
    return version


def sampled(store: ObjectStore, snapshot: Snapshot, count: int) -> str:
    """Store a sample of a snapshot's rows as another one, and return its fingerprint."""
    folder = store.local(f"data/{snapshot.fingerprint}/train.arrow")
    assert folder is not None
    into = folder.parent.parent / "sample"
    into.mkdir()
    most = {"train": count, "eval": EVAL_ROWS}
    files = {}
    for name, rows in snapshot.sides.items():
        path = folder.parent / f"{name}.arrow"
        files[path.name] = _written(path, into / path.name, _drawn(rows, most.get(name, count)))
    fingerprint = f"sample-{snapshot.fingerprint}"
    commit(store, f"data/{fingerprint}", files, kind="snapshot", meta=dict(snapshot.meta))
    return fingerprint


def _drawn(rows: Rows, count: int) -> list[int]:
    """Return a sample of rows: the first of each label, so that every class is there, and others at random."""
    if len(rows) <= count:
        return list(range(len(rows)))
    firsts = [int(found[0]) for found in rows.by_label().values()] if rows.counts else []
    rest = [int(one) for one in np.random.default_rng(0).permutation(len(rows)) if one not in set(firsts)]
    return sorted([*firsts, *rest[: max(0, count - len(firsts))]])


def _written(path: Path, into: Path, indices: list[int]) -> Path:
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().take(pa.array(indices))
    with pa.OSFile(str(into), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=BATCH_ROWS)
    return into
