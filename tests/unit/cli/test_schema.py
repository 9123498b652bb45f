"""The JSON Schema of a spec accepts what the loader accepts and refuses what the loader refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from doubles.fake_training import DOCUMENT, Regraft
from regraft.cli.schema import SPEC_FAMILIES, run_schema
from regraft.errors import RegraftError
from regraft.spec.document import merged
from regraft.spec.run import RunSpec
from support.paths import ROOT

SPECS = sorted(path for path in (ROOT / "jobs/specs").glob("*.yaml") if path.stem != "serve")

GOOD: dict[str, dict[str, Any]] = {
    "as it is": {},
    "bare names": {"method": "lora"},
    "a list of losses": {"losses": [{"type": "l2-sp", "alpha": 0.1}, "l2-sp"]},
    "elastic workers": {"compute.workers": [1, 8]},
    "one plugin folder": {"plugins": "own"},
    "a share for evaluation": {"data.eval": 0.2},
    "a source": {"data.format": "csv"},
    "whole numbers as labels": {"data.labels": [0, 1]},
    "a column for each label": {"task": "text-multi-label", "data.columns": {"labels": ["toxic", "rude"]}},
    "weights by label": {"training.class_weights": {"bug": 2.0}},
}

BAD: dict[str, dict[str, Any]] = {
    "unknown key": {"trainin": {}},
    "unknown inner key": {"training.lrr": 1},
    "unknown method": {"method": "loar"},
    "unknown field of a method": {"method": {"type": "lora", "rnk": 8}},
    "out of range": {"training.epochs": 0},
    "a share of all": {"data.eval": 1.5},
    "a name with blanks": {"name": "Support Tickets"},
    "another format": {"format": 2},
    "three workers' numbers": {"compute.workers": [1, 2, 3]},
    "unknown loss": {"losses": [{"type": "corl"}]},
    "a negative weight": {"losses": [{"type": "l2-sp", "weight": -1}]},
    "an unknown strategy": {"compute.strategy": "dpp"},
}


@pytest.fixture(scope="module")
def validator() -> jsonschema.protocols.Validator:
    document = run_schema()
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


def loads(document: dict[str, Any]) -> bool:
    """Return whether the loader accepts a document."""
    try:
        RunSpec.resolve(document)
    except RegraftError:
        return False
    return True


@pytest.mark.parametrize("path", SPECS, ids=lambda path: str(path.name))
def test_every_spec_of_ours_is_valid(path: Path, validator: jsonschema.protocols.Validator) -> None:
    validator.validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("case", GOOD)
def test_what_the_loader_takes_is_valid(case: str, validator: jsonschema.protocols.Validator, tmp_path: Path) -> None:
    (tmp_path / "own/tasks").mkdir(parents=True)
    document = merged(DOCUMENT, GOOD[case])
    assert loads(document)
    validator.validate(document)


@pytest.mark.parametrize("case", BAD)
def test_what_the_loader_refuses_is_not_valid(case: str, validator: jsonschema.protocols.Validator) -> None:
    document = merged(DOCUMENT, BAD[case])
    assert not loads(document)
    assert not validator.is_valid(document)


@pytest.mark.parametrize("written", [{"rank": 8}, {}, None, 3, [], {"type": None}])
def test_a_method_without_its_name_is_not_valid(written: object, validator: jsonschema.protocols.Validator) -> None:
    assert not validator.is_valid({**DOCUMENT, "method": written})


@pytest.mark.parametrize("missing", ["name", "base", "task", "method", "data"])
def test_what_must_be_written_is_required(missing: str, validator: jsonschema.protocols.Validator) -> None:
    assert not validator.is_valid({key: value for key, value in DOCUMENT.items() if key != missing})


def test_a_resolved_spec_is_valid(validator: jsonschema.protocols.Validator) -> None:
    validator.validate(json.loads(json.dumps(RunSpec.resolve(DOCUMENT).model_dump(mode="json"))))


@pytest.mark.parametrize("family", SPEC_FAMILIES)
def test_every_member_is_in_the_schema_with_its_manual(family: str) -> None:
    root = SPEC_FAMILIES[family]
    definitions = run_schema()["$defs"]
    for name in root.names():
        member = next(item for item in definitions.values() if item.get("title") == name)
        assert member["properties"]["type"] == {"const": name}
        assert member["additionalProperties"] is False
        assert member["description"]
        for field, told in member["properties"].items():
            assert field == "type" or told.get("description"), f"{name}.{field} has no docstring"


@pytest.mark.parametrize(
    ("bases", "valid"),
    [(["org/a", "org/b"], True), ({"grid": ["org/a"]}, True), ([], False), ([1], False), ("a", False)],
)
def test_a_list_of_bases_is_valid_in_a_space(
    bases: object, valid: bool, validator: jsonschema.protocols.Validator
) -> None:
    assert validator.is_valid({**DOCUMENT, "search": {"space": {"base": bases}}}) == valid
    assert not validator.is_valid({**DOCUMENT, "search": {"space": {"training.lr": [1, 2]}}})


def test_every_field_of_a_spec_has_its_manual() -> None:
    document = run_schema()
    parts = [document, *(document["$defs"][name] for name in ("DataSpec", "TrainingSpec", "ComputeSpec"))]
    assert all(field.get("description") for part in parts for field in part["properties"].values())


def test_the_command_prints_the_schema_in_both_formats(regraft: Regraft) -> None:
    result = regraft("schema")
    assert json.loads(result.out) == run_schema() == regraft("schema", "--json").document


def test_a_member_of_the_users_joins(regraft: Regraft, tmp_path: Path) -> None:
    (tmp_path / "own/losses").mkdir(parents=True)
    (tmp_path / "own/losses/pull_hard.py").write_text(
        'from regraft.contracts import Loss\n\n\nclass PullHard(Loss):\n    """Pulls."""\n\n'
        '    how: int\n    """Much."""\n\n'
        "    def build(self, model, anatomy):\n        return model\n"
    )
    document = regraft("schema", "--plugins", tmp_path / "own", "--json").document
    valid = jsonschema.Draft202012Validator(document).is_valid
    assert valid(merged(DOCUMENT, {"losses": [{"type": "pull-hard", "how": 3}]}))
    assert not valid(merged(DOCUMENT, {"losses": ["pull-hard"]})), "a member with a required field has no short form"
    shown = regraft("show", "losses", "pull-hard", "--plugins", tmp_path / "own").out
    assert ["how", "integer", "required", "Much."] in [line.split() for line in shown.splitlines()]
