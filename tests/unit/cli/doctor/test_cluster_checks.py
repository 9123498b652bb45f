"""Findings of `regraft doctor` for measurements of a cluster's nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from regraft.cli.doctor import cluster_checks
from regraft.cli.doctor.finding import Finding
from regraft.cluster.node_checks import Node, versions

GOOD = Node("a", versions(), "token", 50 * 10**9, 4 * 10**9, "", 1.0)


def statuses(found: Sequence[Finding]) -> list[str]:
    return [finding.status for finding in found]


def test_nodes_alike_are_fine() -> None:
    nodes = [GOOD, replace(GOOD, name="b", ahead_s=0.01)]
    for check in (cluster_checks.tokens, cluster_checks.space, cluster_checks.clocks):
        assert set(statuses(list(check(nodes)))) == {"ok"}
    assert statuses(list(cluster_checks.versions(nodes, versions()))) == ["ok"]
    assert statuses(list(cluster_checks.stores(nodes, "s3://b/x"))) == ["ok"]


@pytest.mark.parametrize(("name", "status"), [("ray", "fail"), ("regraft", "fail"), ("peft", "warn")])
def test_another_version_on_a_node_is_named_with_both(name: str, status: str) -> None:
    other = replace(GOOD, name="b", versions={**GOOD.versions, name: "0.0.1"})
    (found,) = cluster_checks.versions([GOOD, other], GOOD.versions)
    assert found.status == status and found.todo
    assert found.found == f"b has {name} 0.0.1, the client {GOOD.versions[name]}"


def test_each_trouble_is_reported_with_what_to_do() -> None:
    bad = Node("b", versions(), "disabled", 10**8, 10**7, "no permission", -400.0, ahead_s=-30.0)
    found = [
        *cluster_checks.tokens([GOOD, bad]),
        *cluster_checks.space([GOOD, bad]),
        *cluster_checks.clocks([GOOD, bad]),
        *cluster_checks.stores([GOOD, bad], "s3://b/x"),
    ]
    assert {finding.name: finding.status for finding in found} == {
        "ray token": "fail",
        "disk": "warn",
        "shared memory": "warn",
        "clocks": "warn",
        "clocks: S3": "fail",
        "store": "fail",
    }
    assert all(finding.todo for finding in found)
    assert next(finding for finding in found if finding.name == "clocks").found == "30.0 s apart; b by -30.0 s"
    assert "never sent with a job" in next(finding for finding in found if finding.name == "store").todo
