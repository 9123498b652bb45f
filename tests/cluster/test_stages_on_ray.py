"""A chain of stages on Ray workers: the same versions as without Ray, and a chain that was stopped goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from regraft.cluster.train import train
from regraft.contracts import EvaluationDone, Event, Resumed
from regraft.errors import Stopped
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from support.tiny import document


@pytest.mark.long  # 60 s on two idle cores; passed on 2026-11-30
@pytest.mark.usefixtures("on_ray")
def test_a_chain_on_workers_is_stopped_in_its_stage_and_ends_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    written = document(tmp_path, rows=24, eval_rows=12, epochs=1)
    stage = {"task": "masked-lm", "data": written["data"], "training": {"steps": 40, "lr": 1e-3, "eval_steps": 2}}
    spec = RunSpec.resolve({**written, "stages": [stage], "compute": {"workers": 1, "cpus": 1, "trunk": "off"}})
    runs = Runs(open_store(spec.store))

    def stop(event: Event) -> None:
        if isinstance(event, EvaluationDone) and event.step == 2:
            runs.request_stop(next(info.name for info in runs.list() if info.name.startswith("tiny-stage-1")))

    with pytest.raises(Stopped):
        train(spec, progress=stop)
    assert [info.model for info in runs.list()] == ["tiny-stage-1"]
    events: list[Event] = []
    outcome = train(spec, progress=events.append)
    assert any(isinstance(event, Resumed) for event in events), "the stage goes on from its checkpoint"
    assert outcome.run == spec.run
    meta = Registry(open_store(spec.store)).version("tiny").meta
    assert meta["lineage"]["ancestors"] == ["tiny-stage-1@v1", str(tmp_path / "base")]
    assert train(spec).already
