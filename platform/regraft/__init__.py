"""Transfer learning on Ray: `regraft.train(spec)` and `regraft.load("name@alias").predict(rows)`.

Importing this package imports neither torch nor Ray: the functions bring them in when they are called.
"""

from __future__ import annotations

import os as _os
import typing as _typing

from regraft.version import VERSION as _VERSION

if _typing.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any, Literal

    from regraft.adaptation.outcome import AdaptOutcome
    from regraft.automatic.outcome import AutoOutcome
    from regraft.automatic.request import AutoAsked
    from regraft.contracts import Progress, Source
    from regraft.evaluation.evaluate import EvaluationResult
    from regraft.planning.outcome import PlanOutcome
    from regraft.selection.outcome import SelectOutcome
    from regraft.serving.batch.session import BatchResult
    from regraft.serving.predictor import Predictor
    from regraft.spec.run import RunSpec
    from regraft.teaching.teach import Taught
    from regraft.training.registration import Outcome
    from regraft.tuning.driver.finish import SearchOutcome

__all__ = ["__version__", "adapt", "auto", "create_store", "evaluate", "load", "plan"]
__all__ += ["predict", "search", "select", "teach", "train"]

__version__ = _VERSION

del annotations  # the package's names are those above


def train(
    spec: RunSpec | Mapping[str, Any] | str | Path,
    *,
    overrides: Mapping[str, object] | None = None,
    store: str | Path | None = None,
    fresh: bool = False,
    same: bool = False,
    compare: bool = False,
    progress: Progress | None = None,
    address: str | None = None,
) -> Outcome:
    """Run a spec (an object, a mapping, or the path of a YAML file) to its end and register the model.

    `overrides` replaces dotted fields (`{"training.lr": 1e-4}`), as `--set` does. `store` is the folder or s3:// URL of
    runs and models; when None, the one that an object or a mapping names, else REGRAFT_STORE, else the one in the file,
    else ./regraft-store. The same spec again continues its run, or returns the outcome of the finished one; `fresh`
    starts another. Rows that have changed since begin another run, unless `same` keeps to the one that there is.
    `compare` trains controls too (random weights, a head on the frozen base), measures them, dull baselines and the
    last version on the same rows, and registers the verdict with the model: `comparison`, with a warning where the base
    does not help.
    `progress` is called with every event, a dataclass of `regraft.contracts.events` such as `Stepped`;
    `event.document()` is the event as a dict. Without it, progress and result are shown in a terminal or a notebook.
    Raises SpecError with all problems at once, before anything starts.
    """
    from regraft.cluster.anywhere import train_anywhere
    from regraft.cluster.compared import train_compared
    from regraft.store.scratch_folder import swept

    resolved = _resolved(spec, overrides, store)

    def run(shown: Progress | None) -> Outcome:
        with swept():
            train_one = train_compared if compare else train_anywhere
            return train_one(resolved, fresh=fresh, same=same, progress=shown, address=address)

    if progress is not None:
        return run(progress)
    from regraft.cli.python_progress import train_shown

    return train_shown(run)


def search(
    spec: RunSpec | Mapping[str, Any] | str | Path,
    *,
    overrides: Mapping[str, object] | None = None,
    store: str | Path | None = None,
    fresh: bool = False,
    same: bool = False,
    compare: bool = False,
    progress: Progress | None = None,
    address: str | None = None,
) -> SearchOutcome:
    """Search the space of a spec's section `search`, and register the best trial (`search.register`).

    Arguments are those of `train`. The same spec again continues its search: ended trials are not run again, and larger
    `search.trials` or `search.seconds` add to them. With `compare`, the registered winner is compared with controls
    that take as many steps as its own trial.
    Raises SpecError with all problems at once, before anything starts.
    """
    from regraft.cluster.anywhere import search_anywhere
    from regraft.cluster.compared import search_compared
    from regraft.store.scratch_folder import swept
    from regraft.tuning.validate import check_search

    resolved = _resolved(spec, overrides, store)
    check_search(resolved)  # before Ray and the libraries of models are imported

    def run(shown: Progress | None) -> SearchOutcome:
        with swept():
            search_one = search_compared if compare else search_anywhere
            return search_one(resolved, fresh=fresh, same=same, progress=shown, address=address)

    if progress is not None:
        return run(progress)
    from regraft.cli.python_progress import search_shown

    return search_shown(run)


def select(
    spec: RunSpec | Mapping[str, Any] | str | Path,
    bases: Sequence[str] | str | None = None,
    *,
    overrides: Mapping[str, object] | None = None,
    store: str | Path | None = None,
    sample: int = 500,
    fresh: bool = False,
    warm: bool = False,
    skip_bad: bool = False,
    curve: bool = False,
    progress: Progress | None = None,
) -> SelectOutcome:
    """Rank bases for a spec's training rows before any fine-tuning; evaluation and test rows choose nothing.

    `bases` are references as a spec writes them, text with commas between them, or a file with one a line; when None,
    those of `search.space.base`. At most `sample` rows are scored. The same call returns what was decided, unless
    `fresh`. `warm` computes what a run of the first choice keeps, for all rows. `skip_bad` leaves out bases that
    cannot be used. `curve` measures the first choice at nested shares of the labels. Other arguments are those of
    `train`.
    """
    from regraft.selection.references import written_bases
    from regraft.store.scratch_folder import swept

    resolved = _resolved(spec, overrides, store)
    named = written_bases(bases) if isinstance(bases, str) else None if bases is None else tuple(map(str, bases))

    def run(shown: Progress | None) -> SelectOutcome:
        from regraft.selection.session import SelectOptions, select_session

        with swept():
            options = SelectOptions(named, sample, fresh=fresh, warm=warm, skip_bad=skip_bad, curve=curve)
            return select_session(resolved, options, progress=shown)

    if progress is not None:
        return run(progress)
    from regraft.cli.python_progress import select_shown

    return select_shown(run)


def adapt(
    spec: RunSpec | Mapping[str, Any] | str | Path,
    *,
    overrides: Mapping[str, object] | None = None,
    store: str | Path | None = None,
    ladder: Sequence[str] | None = None,
    check: str | Path | None = None,
    progress: Progress | None = None,
    address: str | None = None,
) -> AdaptOutcome:
    """Adapt a spec's model to the rows of `data.target` without their labels, or say that it should stay as it is.

    Arguments are those of `train`. `ladder` names the candidates beside the source-only model; None: the cheap ones and
    the losses of the spec. `check` are labelled rows of the target: they choose nothing, and say whether the choice
    held. The same call again continues where it was interrupted, or returns what was decided.
    """
    from regraft.adaptation.runs import check_adaptable
    from regraft.cluster.anywhere import adapt_anywhere

    resolved = _resolved(spec, overrides, store)
    check_adaptable(resolved)
    rungs, rows = None if ladder is None else tuple(ladder), None if check is None else str(check)

    def run(shown: Progress | None) -> AdaptOutcome:
        return adapt_anywhere(resolved, rungs, rows, progress=shown, address=address)

    if progress is not None:
        return run(progress)
    from regraft.cli.python_progress import adapt_shown

    return adapt_shown(run)


def auto(data: str | Path, *, progress: Progress | None = None, **asked: _typing.Unpack[AutoAsked]) -> AutoOutcome:
    """Make a registered model of data alone: `auto("rows.csv", budget="10m")`; the other names are `regraft auto`'s."""
    from regraft.cli.python_progress import auto_called

    return auto_called(data, asked, progress)


def plan(
    spec: RunSpec | Mapping[str, Any] | str | Path,
    *,
    overrides: Mapping[str, object] | None = None,
    store: str | Path | None = None,
    measure: bool = False,
    progress: Progress | None = None,
) -> PlanOutcome:
    """Say what a spec moves, needs, writes and takes, before anything starts: `plan(spec).document()`.

    `spec`, `overrides` and `store` are those of `train`. Of the base only headers are read, on the hub and in S3 too;
    `measure` runs a few steps on this machine for the time, and reads the weights. Nothing is written to the store.
    """
    from regraft.planning.session import plan_session
    from regraft.store.scratch_folder import swept

    resolved = _resolved(spec, overrides, store)
    with swept():
        return plan_session(resolved, measure=measure, progress=progress)


def _resolved(
    spec: RunSpec | Mapping[str, Any] | str | Path, overrides: Mapping[str, object] | None, store: str | Path | None
) -> RunSpec:
    """Return a spec from any of its forms, with the overrides; `store` is one of them."""
    from regraft.spec.in_memory import resolved

    return resolved(spec, overrides, store)


def _store(store: str | Path | None) -> str:
    """Return the store of a call without a spec: the argument, else REGRAFT_STORE, else ./regraft-store."""
    return str(store or _os.environ.get("REGRAFT_STORE") or "./regraft-store")


def load(reference: str, *, store: str | Path | None = None, plugins: Sequence[str | Path] = ()) -> Predictor:
    """Return a registered model, ready to answer: `load("support-tickets@production").predict([{"text": "..."}])`.

    `reference` is a name with an optional @version or @alias. `store` is the folder or s3:// URL that holds it; when
    None, REGRAFT_STORE, else ./regraft-store. `plugins` are the folders of your own tasks and methods that it uses.
    Raises NotFound with the nearest match.
    """
    from regraft.serving.predictor import Predictor

    return Predictor.open(_store(store), reference, plugins=plugins)


def evaluate(
    model: str | Sequence[str],
    data: str | Path,
    output: str | Path | None = None,
    *,
    store: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    format: Mapping[str, Any] | str | None = None,
    bad_rows: Literal["fail", "skip"] = "fail",
    against: str | None = None,
    resamples: int = 1000,
    seconds: float = 20.0,
    worst: int = 12,
    plugins: Sequence[str | Path] = (),
    base: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> EvaluationResult:
    """Evaluate a registered model on the labelled rows at `data`: metrics with 95 % intervals, findings, worst rows.

    `evaluation.json` and `evaluation.html` go into the folder `output`, ./evaluation-NAME-VERSION-DATA if it is None.
    `columns` maps the model's columns to the file's, `format` is the source that reads it ("auto": by its name); the
    defaults are those of the training data. `against` is another model, compared on the same rows. Intervals use as
    many of `resamples` as `seconds` allow; `worst` rows are shown.

    Several models, as a list, are measured on the same rows; the document then holds paired differences of the first
    from each other, with intervals that hold all together, and no findings or worst rows.
    """
    from regraft.evaluation.options import EvaluationOptions, folder_of
    from regraft.evaluation.several import evaluate_models, versions_of
    from regraft.store.objects import open_store

    opened = open_store(_store(store))
    versions = versions_of(opened, model)
    options = EvaluationOptions(
        output=folder_of(versions, str(data), output),
        columns=dict(columns or {}),
        format=format,
        bad_rows=bad_rows,
        resamples=resamples,
        seconds=seconds,
        worst=worst,
        against=against,
        plugins=plugins,
        base=base,
        device=device,
    )
    return evaluate_models(opened, versions, str(data), options=options, progress=progress)


def create_store(store: str | Path | None = None) -> str:
    """Make a store at a folder or s3:// URL, in a folder that exists too, and return its canonical URL.

    `train` and `search` make a new folder themselves. A folder that exists and holds no store is refused there: it may
    be the place of a mount that is lost. A store that is there stays as it is.
    """
    from regraft.store.objects import open_store

    made = open_store(_store(store))
    made.create()
    return made.url


def predict(
    model: str,
    input: Any,
    output: str | Path,
    *,
    store: str | Path | None = None,
    features: bool = False,
    columns: Mapping[str, str] | None = None,
    format: Source | Mapping[str, Any] | str | None = None,
    bad_rows: Literal["fail", "skip"] = "fail",
    dtype: Literal["auto", "fp32", "bf16"] = "auto",
    plugins: Sequence[str | Path] = (),
    base: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    fresh: bool = False,
    budget: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> BatchResult:
    """Answer every row of `input` with a registered model, and write `output` (.jsonl, .csv, .tsv, .parquet) in order.

    `input` is a path, glob, s3:// URL or table. `features` writes vectors, made in `dtype`; `model` may then be a base.
    `columns` maps the model's columns to the file's, which `format` reads. With `bad_rows="skip"`, a row that cannot be
    answered has an `error`. `workers` are processes on Ray, 0 is this one. The same call goes on after its `budget`.
    """
    from regraft.contracts import Source
    from regraft.serving.batch.input_blocks import source_named
    from regraft.serving.batch.session import BatchRequest, predict_here
    from regraft.serving.batch.table_input import as_input

    with as_input(input) as path:
        request = BatchRequest(
            model=str(model),
            input=path,
            output=str(output),
            store=_store(store),
            features=features,
            columns=columns or {},
            format=format if format is None or isinstance(format, Source) else source_named(format),
            bad_rows=bad_rows,
            dtype=dtype,
            plugins=tuple(map(str, plugins)),
            base=base,
            budget=dict(budget or {}),
        )
        if workers == 0:  # in this process, so that machines without Ray can predict too
            return predict_here(request, fresh=fresh, progress=progress)
        from regraft.cluster import predict as on_ray

        return on_ray.predict(request, workers=workers, fresh=fresh, progress=progress, address=address)


def teach(
    model: str,
    label: str,
    rows: Any,
    *,
    store: str | Path | None = None,
    evaluation: str | Path | None = None,
    max_loss: float = 15.0,
    promote: str | None = None,
    columns: Mapping[str, str] | None = None,
    format: Source | Mapping[str, Any] | str | None = None,
    plugins: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> Taught:
    """Publish a version that knows one class more, from a few examples in `rows`, as a path or a table.

    Raises RequestError where a class loses more than `max_loss` points of recall on the evaluation rows that the
    version keeps, or on those of `evaluation`. `promote` is an alias that then means the new version.
    """
    from regraft.serving.batch.table_input import as_input
    from regraft.store.objects import open_store
    from regraft.teaching.request import TeachRequest
    from regraft.teaching.teach import teach as run

    with as_input(rows) as path:
        request = TeachRequest(
            model=model,
            label=label,
            rows=path,
            evaluation=None if evaluation is None else str(evaluation),
            max_loss=max_loss,
            promote=promote,
            columns=dict(columns or {}),
            format=format,
            plugins=plugins,
        )
        return run(open_store(_store(store)), request, progress)
