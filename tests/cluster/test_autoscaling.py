"""A cluster that has no worker node grows for a job, and is empty again after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from regraft.store.objects import open_store
from support.ray_nodes import Driver, Grown, until
from support.tiny import document

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_nodes_come_for_a_job_and_go_after_it_and_what_can_never_come_is_refused(tmp_path: Path) -> None:
    written = document(tmp_path)
    with Grown(most=2) as cluster:
        too_much = {**written, "compute": {"workers": 3, "cpus": 1}}
        events = Driver(cluster, tmp_path / "refused", too_much).ended(code=2)
        assert "its autoscaler can never bring so much" in events[-1]["message"]
        assert cluster.living() == 1 and not list(open_store(written["store"]).list("runs/"))

        driver = Driver(cluster, tmp_path / "grown", {**written, "compute": {"workers": 2, "cpus": 1}}, hold=[])
        until(lambda: cluster.living() == 3, "two nodes come")
        events = driver.ended()
        assert any("autoscaler" in event.get("message", "") for event in events if event["event"] == "note")
        assert next(event["workers"] for event in events if event["event"] == "start") == 2
        assert events[-1]["version"] == "v1"
        until(lambda: cluster.living() == 1, "the nodes go again")
