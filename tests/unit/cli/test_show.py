"""`regraft show` reads the manual of every member from the plugin itself."""

from __future__ import annotations

import pytest

from doubles.fake_training import Regraft
from regraft.cli.schema import FAMILIES
from regraft.contracts import Method, TrainingFacts

MEMBERS = [(family, name) for family, root in FAMILIES.items() for name in root.names()]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_listed_with_what_each_member_is(family: str, regraft: Regraft) -> None:
    result = regraft("show", family)
    found = regraft("show", family, "--json").document[family]
    assert [member["name"] for member in found] == FAMILIES[family].names()
    for member in found:
        assert member["summary"]
        assert member["name"] in result.out


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_a_member_is_shown_with_every_field(family: str, name: str, regraft: Regraft) -> None:
    result = regraft("show", family, name)
    document = regraft("show", family, name, "--json").document
    assert result.code == 0
    assert "object at 0x" not in result.out
    for field in document["fields"]:
        assert field["name"] in result.out
        assert field["doc"]
        assert field["type"]


def test_a_methods_way_of_being_served_is_reported(regraft: Regraft) -> None:
    assert "(depends on its fields)" in regraft("show", "methods", "lora").out


@pytest.mark.parametrize("name", Method.names())
def test_a_method_shows_the_values_that_auto_stands_for(name: str, regraft: Regraft) -> None:
    result, found = regraft("show", "methods", name), regraft("show", "methods", name, "--json").document["auto"]
    method = Method.lookup(name)
    assert bool(found) is not method.closed_form
    for rows, values in found.items():
        stated = method().defaults(TrainingFacts(1000, 32, tokens=rows == "tokens"))
        assert (values["lr"], values["head_factor"], values["warmup"]) == (stated.lr, stated.head_factor, stated.warmup)
        assert f"lr {stated.lr:g}" in result.out and f"{stated.epochs} (1,000 rows)" in result.out
