"""The spec of a run: one YAML file, checked completely before anything starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from regraft.contracts import Episode, Loss, TeacherLoss, TrainingDefaults, columns_of
from regraft.errors import RequestError, SpecError
from regraft.plugins import Frozen, add_folder
from regraft.spec.budget import BudgetSpec, within
from regraft.spec.closed_form import problem_of_fit
from regraft.spec.column_names import column_names, misnamed
from regraft.spec.document import absolute, absolute_base, merged, read_document
from regraft.spec.feature_training import problem_of_features, problem_of_needs
from regraft.spec.named_models import MODEL, check_named
from regraft.spec.problems import problems
from regraft.spec.search import SearchSpec
from regraft.spec.search_bases import with_bases
from regraft.spec.sections import AnyLoss, AnyMethod, AnyTask, ComputeSpec, DataSpec, Slug, TrainingSpec
from regraft.spec.stages import StageSpec, moves_the_base, stage_name, with_defaults
from regraft.spec.step_rows import problem_of_batch
from regraft.store.bounded_yaml import dump_yaml
from regraft.store.names import is_version, parse
from regraft.store.objects import open_store
from regraft.store.registry import Registry

FORMAT = 1
NAMED_AS: dict[str, float] = asdict(TrainingDefaults())
"""By training key: the number that `auto` counts as in the names of runs and searches."""


def lacking(loss: Loss, spec: RunSpec) -> str:
    """Return what a loss lacks in a spec, and what to do; empty if nothing."""
    if "target" in loss.needs and spec.data.target is None:
        return "compares the training rows with those of another domain: name their files in data.target"
    for need, what, support in (
        ("features", "one vector for each row", "features"),
        ("classes", "classes", "classes"),
        ("one-label", "one label a row", "prototypes"),
    ):
        if need in loss.needs and support not in spec.task.supports:
            return f"needs {what}, which task {spec.task.key()} has not: remove one of the two"
    if "features" in loss.needs and spec.method.serves == "head":
        return (
            f"moves the features that the head reads, and method {spec.method.key()} trains the head alone: write a "
            "method that moves the base (regraft show methods), or a loss that needs no features (regraft show losses)"
        )
    if loss.whole_step and spec.training.accumulation > 1:
        return (
            f"reads all rows of a step at once, and training.accumulation: {spec.training.accumulation} gives it a "
            "part of them: write accumulation 1, and a smaller batch_size or more workers"
        )
    return _other_rows(loss.episode, spec)


def _other_rows(episode: Episode | None, spec: RunSpec) -> str:
    """Return how the steps of a loss that draws their rows differ from those of the spec; empty if they do not."""
    if episode is None:
        return ""
    if episode.rows != (size := spec.training.batch_size):
        return (
            f"draws {episode.rows} rows a step (way {episode.way} x (shot {episode.shot} + query {episode.query})), "
            f"and training.batch_size is {size}: write batch_size {episode.rows}, or another way, shot or query"
        )
    if any(one.episode not in (None, episode) for one in spec.losses):
        return "draws the rows of each step, and so does another loss, otherwise: remove one of the two"
    return ""


class RunSpec(Frozen):
    """A run, and optionally a search over its fields."""

    format: Literal[1] = 1
    """Version of this format."""
    name: Slug
    """The model's name in the registry: lower case, digits, dots, dashes."""
    base: Annotated[str, StringConstraints(min_length=1)]
    """Hub id[@revision], folder, s3://..., package:<module>/<folder>, or model:NAME[@version|@alias]: a registered
    model of the store, its delta merged."""
    task: AnyTask
    """What the data mean; see `regraft show tasks`."""
    method: AnyMethod
    """Which weights are trained; see `regraft show methods`."""
    losses: tuple[AnyLoss, ...] = ()
    """Extra loss terms; see `regraft show losses`."""
    data: DataSpec
    """Files and columns of the rows."""
    training: TrainingSpec = TrainingSpec()
    """Optimisation."""
    compute: ComputeSpec = ComputeSpec()
    """Resources."""
    store: Annotated[str, StringConstraints(min_length=1)] = "./regraft-store"
    """Folder or s3://bucket/prefix of runs, models and data."""
    plugins: tuple[str, ...] = ()
    """Folders with your own tasks/, methods/, losses/, sources/."""
    stages: tuple[StageSpec, ...] = ()
    """Runs before this one, in order: the model of each is the base of the next, and that of the last one the base of
    this run. A finished stage is not trained again. See `regraft show stages`."""
    search: SearchSpec | None = None
    """What `regraft search` varies; `regraft train` ignores it."""
    budget: BudgetSpec = BudgetSpec()
    """The most that a run or a search may take; see `regraft show budget`."""

    @model_serializer(mode="wrap")
    def _omit_absent_parts(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The names and documents of runs without them must stay as they were before these fields existed.
        document: dict[str, Any] = handler(self)
        return {name: value for name, value in document.items() if value or name not in ("search", "stages", "budget")}

    @model_validator(mode="before")
    @classmethod
    def _complete_stages(cls, written: Any) -> Any:
        return with_defaults(written) if isinstance(written, Mapping) else written

    @model_validator(mode="after")
    def _options_apply_to_the_task(self) -> Self:
        training, task = self.training, self.task
        asked = {
            "class_weights": training.class_weights != "none",
            "label_smoothing": training.label_smoothing > 0,
            "augment": self.data.augment != "off",
        }
        for option, wanted in asked.items():
            if wanted and option not in task.supports:
                where = "data" if option == "augment" else "training"
                raise ValueError(f"{where}.{option} has no meaning for task {task.key()}: remove one of the two")
        if problem := problem_of_fit(self.method, task) or problem_of_batch(task, training.batch_size):
            raise ValueError(problem)
        if problem := problem_of_needs(self.method, task) or problem_of_features(
            self.method, task, self.losses, training=training, compute=self.compute
        ):
            raise ValueError(problem)
        if self.method.has_phases() and self.compute.strategy == "fsdp":
            raise ValueError(
                f"compute.strategy: fsdp is written, and method {self.method.key()} trains in phases, for which shards "
                "cannot be changed: write ddp, or another method"
            )
        if self.method.closed_form and training.soup > 1:
            raise ValueError(
                f"training.soup averages checkpoints, of which method {self.method.key()} makes one: remove it"
            )
        if self.method.closed_form and self.losses:
            raise ValueError(
                f"losses need gradient steps, which method {self.method.key()} has not: remove one of the two"
            )
        return self

    @model_validator(mode="after")
    def _losses_have_what_they_need(self) -> Self:
        if self.data.target is not None and "features" not in self.task.supports:
            raise ValueError(f"data.target has no meaning for task {self.task.key()}: remove it")
        for loss in self.losses:
            if problem := lacking(loss, self):
                raise ValueError(f"losses: {loss.key()} {problem}")
        return self

    @model_validator(mode="after")
    def _base_can_begin(self) -> Self:
        if self.base.startswith("random:"):
            raise ValueError("base: random: is written; write the base itself, and training.init: random")
        if self.training.init == "random" and not self.method.moves_all:
            raise ValueError(
                f"training.init: random is written, and method {self.method.key()} leaves weights as they begin: write "
                "method: full, or training.init: pretrained"
            )
        if self.base.startswith(MODEL):
            check_named(self.base, "base")
        return self

    @model_validator(mode="after")
    def _teachers_are_models(self) -> Self:
        for loss in self.losses:
            if isinstance(loss, TeacherLoss):
                check_named(loss.teacher, f"losses: {loss.key()}.teacher")
        return self

    @model_validator(mode="after")
    def _stages_lead_to_this_run(self) -> Self:
        if not self.stages:
            return self
        if self.training.init == "random":
            raise ValueError("training.init: random would forget what the stages trained: write it in the first stage")
        last = f"{MODEL}{stage_name(self.name, len(self.stages))}@"
        if self.stages[0].base != self.base and not self.base.startswith(last):
            raise ValueError("stages.0.base: the base is written twice, and differently: keep one of them")
        for number, stage in enumerate(self.stages):
            if problem := self._problem_of(stage, number):
                raise ValueError(f"stages.{number}{problem}")
        return self

    def _problem_of(self, stage: StageSpec, number: int) -> str:
        """Return what is wrong with a stage after its place; empty if nothing is."""
        if number and stage.base is not None:
            return ".base: a later stage begins with the model of the one before it: remove the key"
        if number and stage.training.init == "random":
            return ".training.init: random would forget what the stage before trained: write it in the first stage"
        if not moves_the_base(stage.method):
            return (
                f".method: {stage.method.key()} trains the head alone, so that the next run would begin as if there "
                "were no stage: write full, freeze or lora"
            )
        if stage.task.modality != self.task.modality:
            return (
                f".task: {stage.task.key()} reads {stage.task.modality}, and task {self.task.key()} of this run reads "
                f"{self.task.modality}: no base does both"
            )
        try:
            self._stage_run(number)
        except ValidationError as error:
            return ": " + "; ".join(problems(error, type(self), {}))
        return ""

    def stage_runs(self) -> tuple[Self, ...]:
        """Return the run of each stage; the base of a later one is the newest model of the one before it."""
        return tuple(self._stage_run(number)._with_labels_of_columns() for number in range(len(self.stages)))

    def _stage_run(self, number: int) -> Self:
        stage = self.stages[number]
        return type(self)(
            name=stage_name(self.name, number + 1),
            base=stage.base or f"{MODEL}{stage_name(self.name, number)}",
            task=stage.task,
            method=stage.method,
            losses=stage.losses,
            data=stage.data,
            training=stage.training,
            compute=self.compute,
            store=self.store,
            plugins=self.plugins,
        )

    def _with_pinned_models(self) -> Self:
        """Return the spec with the versions that base and teachers mean now, where models are named without one."""
        changes: dict[str, Any] = {"base": self._pinned(self.base), "losses": self._with_pinned_teachers(self.losses)}
        changes["search"] = with_bases(self.search, self._pinned)
        if self.stages:
            stages = [
                stage.model_copy(update={"losses": self._with_pinned_teachers(stage.losses)}) for stage in self.stages
            ]
            stages[0] = stages[0].model_copy(update={"base": self._pinned(stages[0].base or self.base)})
            changes["stages"] = tuple(stages)
        return self.model_copy(update=changes)

    def _with_pinned_teachers(self, losses: tuple[Loss, ...]) -> tuple[Loss, ...]:
        return tuple(
            loss.model_copy(update={"teacher": self._pinned(loss.teacher)}) if isinstance(loss, TeacherLoss) else loss
            for loss in losses
        )

    def _pinned(self, base: str) -> str:
        if not base.startswith(MODEL):
            return base
        name, ref = parse(base.removeprefix(MODEL))
        return base if is_version(ref) else f"{MODEL}{Registry(open_store(self.store)).version(name, ref)}"

    @model_validator(mode="after")
    def _labels_are_written_once(self) -> Self:
        fixed = self.task.classes()
        if fixed is None:
            return self
        if self.data.labels is not None and self.data.labels != fixed:
            raise ValueError(f"data.labels and task {self.task.key()} both say the labels: write them in task alone")
        counted = any(column.counted for column in columns_of(self.task.input_columns()).values())
        if self.training.class_weights == "balanced" and not counted:
            raise ValueError(
                f"training.class_weights: balanced counts rows of each label, and a row of {self.task.key()} has many: "
                f"write a weight for each of {', '.join(fixed)}"
            )
        return self

    @model_validator(mode="after")
    def _columns_belong_to_the_task(self) -> Self:
        kinds = self.task.input_columns()
        if problem := misnamed(self.data.columns, kinds):
            raise ValueError(f"data.columns: {problem}")
        columns = columns_of(kinds)
        for name, names in self.data.columns.items():
            if not isinstance(names, str) and not columns[name].joins:
                raise ValueError(
                    f"data.columns.{name}: {list(names)} is written; {name} is read from one column: write its name"
                )
        return self

    def _with_labels_of_columns(self) -> Self:
        """Return the spec with `data.labels` where a column for each label is written: one may be in no row."""
        columns = columns_of(self.task.input_columns())
        written = [names for name, names in self.data.columns.items() if columns[name].classes]
        if self.data.labels is not None or not written or isinstance(written[0], str):
            return self
        labels = tuple(name.strip() for name in column_names(written[0]))
        return self.model_copy(update={"data": self.data.model_copy(update={"labels": labels})})

    @classmethod
    def load(cls, path: Path, *, overrides: Mapping[str, object] | None = None) -> Self:
        """Return the spec in a YAML file; relative paths are relative to the current directory.

        Raises RequestError for a file that cannot be read, and SpecError with all problems at once.
        """
        document = read_document(path, "a spec is a mapping of keys (name, base, task, ...)")
        return cls.resolve(document, overrides=overrides, where=str(path))

    @classmethod
    def resolve(
        cls, document: Mapping[str, Any], *, overrides: Mapping[str, object] | None = None, where: str = ""
    ) -> Self:
        """Return the spec in a parsed document: overrides applied, plugin folders added, paths made absolute.

        Raises SpecError with all problems at once; `where` names the document in it.
        """
        document = merged(document, overrides or {}, where)
        folders = document.get("plugins") or ()
        if isinstance(folders, str):
            document["plugins"] = folders = [folders]
        for folder in folders if isinstance(folders, list | tuple) else ():
            add_folder(Path(str(folder)).expanduser())
        try:
            spec = cls.model_validate(document)
        except ValidationError as error:
            raise SpecError(problems(error, cls, document), where) from None
        return spec._with_labels_of_columns().absolute()._with_pinned_models()

    def override(self, changes: Mapping[str, object]) -> Self:
        """Return a new spec with dotted fields replaced, validated as one that was written by hand."""
        return type(self).resolve(self.model_dump(mode="json"), overrides=changes)

    def absolute(self) -> Self:
        """Return the same spec with absolute local paths: workers run in other directories."""
        places = {
            "data": self.data.absolute(),
            "stages": tuple(stage.absolute() for stage in self.stages),
            "base": absolute_base(self.base),
            "search": with_bases(self.search, absolute_base),
            "store": absolute(self.store),
            "plugins": tuple(absolute(folder) for folder in self.plugins),
        }
        return self.model_copy(update=places)

    @property
    def reads_target(self) -> bool:
        """Whether a loss reads rows of `data.target`."""
        return self.data.target is not None and any(loss.weight and "target" in loss.needs for loss in self.losses)

    @property
    def episode(self) -> Episode | None:
        """How a loss draws the rows of every step; None where each row comes once an epoch."""
        return next((loss.episode for loss in self.losses if loss.weight and loss.episode is not None), None)

    def searched(self) -> SearchSpec:
        """Return the section `search` with the limits of `budget`. Raises RequestError where the spec has none."""
        if self.search is None:
            raise RequestError(
                "the spec has no section `search`: write search: "
                "{space: {training.lr: {loguniform: [1.0e-5, 1.0e-3]}}}",
                where="search",
            )
        return within(self.search, self.budget)

    def dump(self) -> str:
        """Return the resolved spec as YAML, as stored with the run."""
        return dump_yaml(self.model_dump(mode="json"))

    @property
    def run(self) -> str:
        """The run's name: the model's and a hash of the resolved spec without compute and store.

        Paths below the current directory count by their relative form, so that the same checkout unpacked elsewhere
        (as a submitted job is) continues the same run; the data themselves are held by their own fingerprint.
        """
        return self.named({"compute": True, "store": True, "search": True})

    def named(self, without: dict[str, Any]) -> str:
        """Return the model's name and a hash of the spec without some fields (in the form of pydantic's `exclude`)."""
        document = self.model_dump(mode="json", exclude={**without, "budget": True})
        if self.stages and "base" in document:
            document["base"] = self.stages[0].base  # the model of the last stage follows from the stages
        # A key that is left open counts as the number that it stood for before `auto`, so that names stay.
        document["training"] = {
            key: NAMED_AS.get(key, value) if value == "auto" else value for key, value in document["training"].items()
        }
        text = json.dumps(document, sort_keys=True).replace(json.dumps(f"{Path.cwd()}/")[1:-1], "")
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
