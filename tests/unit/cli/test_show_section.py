"""`regraft show data|training|compute|search|serve|spec` explains every field, read from the spec itself."""

from __future__ import annotations

import pytest

from doubles.fake_training import Regraft
from regraft.cli import parser
from regraft.cli.schema import FAMILIES
from regraft.cli.show_section import SECTIONS


def test_the_parser_knows_what_can_be_shown() -> None:
    assert tuple(SECTIONS) == parser.SECTIONS and tuple(FAMILIES) == parser.FAMILIES


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_has_type_default_and_a_line(section: str, regraft: Regraft) -> None:
    result = regraft("show", section)
    assert result.code == 0, result.err
    fields = regraft("show", section, "--json").document["fields"]
    names = [info.alias or name for name, info in SECTIONS[section].model_fields.items()]
    assert [field["name"] for field in fields if "." not in field["name"]] == names
    for field in fields:
        assert field["name"] in result.out and field["type"] and field["doc"], field
        for word in ("anyOf", "$ref", "PydanticUndefined", "object at 0x", "literal["):
            assert word not in str(field), field


def shown(section: str, name: str, regraft: Regraft) -> dict[str, object]:
    """Return one field of a section."""
    fields = regraft("show", section, name, "--json").document["fields"]
    assert len(fields) == 1
    return dict(fields[0])


@pytest.mark.parametrize(
    ("section", "name", "allowed", "default"),
    [
        ("training", "batch_size", "≥ 1", 32),
        ("training", "optimizer", "adamw, sgd", "adamw"),
        ("training", "early_stopping", "≥ 1, or null", None),
        ("training", "bucketing", "true, false", True),
        ("data", "bad_rows", "fail, skip", "fail"),
        ("data", "format", "a name, or {type: name, ...}: see `regraft show sources`, or null", None),
        ("compute", "precision", "auto, fp32, bf16, fp16", "auto"),
        ("search", "register", "none, best, or ≥ 1, or t0011, for example", "best"),
        ("search", "space.FIELD.loguniform", "a list of 2 (number), or null", None),
        ("serve", "limits.queue", "≥ 1", 128),
    ],
)
def test_what_is_allowed_is_said(section: str, name: str, allowed: str, default: object, regraft: Regraft) -> None:
    field = shown(section, name, regraft)
    assert (field["allowed"], field["default"]) == (allowed, default)


def test_the_top_of_a_spec_leads_to_its_sections(regraft: Regraft) -> None:
    assert shown("spec", "training", regraft)["allowed"] == "see `regraft show training`"
    assert "regraft show methods" in str(shown("spec", "method", regraft)["allowed"])
    assert shown("spec", "name", regraft)["required"] is True


def test_a_field_that_does_not_exist_is_answered_with_the_nearest(regraft: Regraft) -> None:
    result = regraft("show", "training", "batchsize")
    assert result.code == 2 and "Did you mean 'batch_size'?" in result.err
    assert regraft("show", "training", "training.batch_size").code == 0
    assert "Known: tasks, methods" in regraft("show", "trainings").err
