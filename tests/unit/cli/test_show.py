"""`regraft show` reads the manual of every member from the plugin itself."""

from __future__ import annotations

import pytest

from doubles.fake_training import Regraft
from regraft.cli.schema import FAMILIES

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
