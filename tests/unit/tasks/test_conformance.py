"""Requirements on every task; the platform's own are found by listing the folder."""

from __future__ import annotations

import json

import pytest
import transformers

from regraft.contracts import Column, Method, Task, column_of, medium_of
from regraft.spec.closed_form import fitting_methods, problem_of_fit

OPTIONS = {
    "class_weights",
    "label_smoothing",
    "bucketing",
    "baselines",
    "prototypes",
    "patches",
    "augment",
    "features",
    "classes",
    "prompts",
}


@pytest.fixture(params=Task.names())
def member(request: pytest.FixtureRequest) -> type[Task]:
    return Task.lookup(request.param)


def test_the_folder_is_not_empty() -> None:
    assert {"text-classification", "token-classification", "image-classification", "object-detection"} <= set(
        Task.names()
    )


def test_the_task_and_every_field_have_docs(member: type[Task]) -> None:
    assert member.__doc__ and member.__doc__ != Task.__doc__
    undocumented = [name for name, field in member.model_fields.items() if not field.description]
    assert not undocumented


def test_a_task_is_complete_without_options(member: type[Task]) -> None:
    assert member().key() == member.key()


def test_a_dump_reads_back_equal(member: type[Task]) -> None:
    task = member()
    written = json.loads(json.dumps(task.model_dump(mode="json")))
    assert written["type"] == member.key()
    assert Task.parse(written) == task


def test_columns_have_kinds_that_the_data_floor_knows(member: type[Task]) -> None:
    assert member.columns and set(member.columns.values()) <= set(Column.names())
    assert set(member.columns.values()) & {medium_of(member.modality).column, "words"}


def test_the_columns_are_those_read_without_options(member: type[Task]) -> None:
    assert dict(member().input_columns()) == dict(member.columns)


def test_there_is_something_to_find_out_and_something_to_see(member: type[Task]) -> None:
    task = member()
    assert task.target_columns() < set(task.input_columns())
    assert task.target_columns() or task.packs or set(task.input_columns().values()) & {"text", "messages"}


def test_a_column_that_is_absent_when_predicting_is_named_so(member: type[Task]) -> None:
    for name, kind in member.columns.items():
        assert name in ("label", "labels") or kind not in ("label", "labels")
        assert column_of(kind).target or name not in ("label", "labels")


def test_options_are_those_that_the_spec_asks_for(member: type[Task]) -> None:
    assert member.supports <= OPTIONS


def test_the_auto_class_exists(member: type[Task]) -> None:
    assert hasattr(transformers, member.auto)


def test_the_score_has_a_direction(member: type[Task]) -> None:
    assert member.score.name and member.score.mode in ("min", "max")


def test_a_task_without_steps_names_the_methods_that_fit_it(member: type[Task]) -> None:
    task = member()
    refused = [name for name in Method.names() if problem_of_fit(Method.lookup(name).model_construct(), task)]
    assert len(refused) < len(Method.names())
    if not member.takes_steps:
        assert set(Method.names()) - set(refused) == set(fitting_methods(task))
        assert fitting_methods(task)[0] in problem_of_fit(Method.lookup("full").model_construct(), task)
