"""`regraft models` shows what the registry holds and changes only what was requested."""

from __future__ import annotations

from pathlib import Path

import pytest

from doubles.fake_training import Regraft, publish
from regraft.cli import dispatch
from regraft.store.comparisons import write_comparison
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry


@pytest.fixture
def at(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """Return the store, named by REGRAFT_STORE."""
    monkeypatch.setenv("REGRAFT_STORE", store.url)
    return store


def test_an_empty_store_says_what_makes_a_model(regraft: Regraft, at: ObjectStore) -> None:
    result = regraft("models", "list")
    assert result.code == 0
    assert f"no models in {at.url}" in result.out
    assert "regraft train" in result.out
    assert regraft("models", "list", "--json").document == {"store": at.url, "models": []}


def test_the_list_has_a_row_for_each_model(regraft: Regraft, at: ObjectStore) -> None:
    publish(at, seed=1)
    publish(at, seed=2)
    publish(at, "other", seed=3)
    Registry(at).promote("tickets", "v1", "production")
    out = regraft("models", "list").out
    assert [line.split()[0] for line in out.splitlines()] == ["model", "other", "tickets"]
    for told in ("v1–v2 (2)", "production → v1", "accuracy 0.8200", "some/base", "freeze", "2026-01-02 03:04"):
        assert told in out
    assert all(line == line.rstrip() for line in out.splitlines())
    document = regraft("models", "list", "--json").document
    assert document["models"][1]["versions"] == ["v1", "v2"]
    assert document["models"][1]["aliases"] == {"production": "v1"}


def test_a_damaged_version_does_not_hide_the_others(regraft: Regraft, at: ObjectStore) -> None:
    publish(at)
    publish(at, "other")
    at.put("models/tickets/v1/manifest.json", b"{}")
    result = regraft("models", "list")
    assert result.code == 0
    assert "damaged" in result.out
    assert "some/base" in result.out
    assert regraft("models", "show", "tickets").code == 1


def test_show_tells_metrics_baselines_lineage_and_files(regraft: Regraft, at: ObjectStore) -> None:
    publish(at, seed=1)
    Registry(at).promote("tickets", "v1", "production")
    out = regraft("models", "show", "tickets@production").out
    assert out.startswith("tickets@v1  (production)\n")
    for told in ("freeze (depth 4)", "billing, bug", "12 s", "nearest centroid", "tickets-1", "9 train rows",
                 "delta.safetensors", "+0.1000 over nearest centroid"):  # fmt: skip
        assert told in out
    lines = [line.split() for line in out.splitlines()]
    assert ["accuracy", "0.8100", "0.5000", "0.7000"] in lines
    document = regraft("models", "show", "tickets", "--json").document
    assert document["metrics"] == {"f1": 0.75, "accuracy": 0.81}
    assert document["aliases"] == ["production"]
    assert {file["name"] for file in document["files"]} == {"delta.safetensors", "spec.yaml", "card.md"}


def test_show_needs_only_a_name_and_a_version(regraft: Regraft, at: ObjectStore) -> None:
    Registry(at).publish("bare", {"delta.safetensors": b"x"}, {})
    assert regraft("models", "show", "bare").code == 0
    assert regraft("models", "list").code == 0


def test_an_alias_moves_and_goes_back(regraft: Regraft, at: ObjectStore) -> None:
    publish(at, seed=1)
    publish(at, seed=2)
    assert regraft("models", "promote", "tickets@v1", "production").out == "tickets@production is now v1\n"
    assert "it was v1" in regraft("models", "promote", "tickets@latest", "production").out
    assert Registry(at).aliases("tickets") == {"production": "v2"}
    assert "is v1 again" in regraft("models", "rollback", "tickets", "production").out
    assert Registry(at).aliases("tickets") == {"production": "v1"}
    result = regraft("models", "rollback", "tickets", "production")
    assert result.code == 2
    assert "no previous version to go back to" in result.err


def test_diff_tells_fields_of_the_spec_and_metrics(regraft: Regraft, at: ObjectStore) -> None:
    publish(at, seed=1)
    changes = {"training.lr": 1e-2, "method": "lora", "compute.workers": 7, "store": "elsewhere"}
    publish(at, seed=2, overrides=changes)
    document = regraft("models", "diff", "tickets@v1", "tickets@v2", "--json").document
    assert document["spec"]["training.lr"] == [1e-3, 1e-2]
    assert document["spec"]["method.type"] == ["freeze", "lora"]
    assert not [name for name in document["spec"] if name.startswith(("compute", "store"))]
    assert document["metrics"] == {"accuracy": [pytest.approx(0.81), pytest.approx(0.82)]}
    out = regraft("models", "diff", "tickets@v1", "tickets@v2").out
    assert ["accuracy", "0.8100", "0.8200", "+0.01"] in [line.split() for line in out.splitlines()]
    assert "do not differ" in regraft("models", "diff", "tickets@v1", "tickets@v1").out


def test_delete_refuses_what_an_alias_means_and_asks_for_a_version(regraft: Regraft, at: ObjectStore) -> None:
    publish(at, seed=1)
    publish(at, seed=2)
    Registry(at).promote("tickets", "v1", "production")
    for asked, told in [("tickets@v1", "production"), ("tickets@production", "is an alias"), ("tickets", "tickets@v2")]:
        result = regraft("models", "delete", asked, "--yes")
        assert result.code == 2
        assert told in result.err
    assert regraft("models", "delete", "tickets@v2", "--yes").code == 0
    assert [version.version for version in Registry(at).versions("tickets")] == ["v1"]


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, []), ("\n", 1, ["v1"]), ("no\n", 1, ["v1"])])
def test_delete_asks_on_a_terminal(
    answer: str, code: int, left: list[str], regraft: Regraft, at: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Person:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return answer

    publish(at)
    monkeypatch.setattr("sys.stdin", Person())
    result = regraft("models", "delete", "tickets@v1")
    assert result.code == code
    assert "delete tickets@v1 from" in result.err
    assert [version.version for version in Registry(at).versions("tickets")] == left


def test_export_hands_on_the_exact_version(
    regraft: Regraft, at: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exported:
        kind = "transformers"
        note = "load it by AutoModel"

        def __init__(self, store: ObjectStore, reference: str, into: Path, *, plugins: list[str], base: str | None):
            self.folder = into
            into.mkdir()
            (into / "config.json").write_text(f"{reference} {plugins} {base}")

    publish(at)
    monkeypatch.setitem(dispatch.WORK, "export", Exported)
    result = regraft("models", "export", "tickets", tmp_path / "out", "--base", "./here")
    assert result.code == 0
    assert (tmp_path / "out/config.json").read_text() == "tickets@v1 [] ./here"
    assert "for transformers: 1 files" in result.out
    assert "AutoModel" in result.out


def test_the_controls_of_a_version_are_shown(regraft: Regraft, store: ObjectStore) -> None:
    version = publish(store)
    controls = [
        {
            "name": "words",
            "value": 0.79,
            "difference": 0.01,
            "low": -0.02,
            "high": 0.04,
            "outcome": "not distinguishable",
        },
        {"name": "random_weights", "value": 0.4, "difference": 0.4, "outcome": "above"},
    ]
    warning = "Negative transfer: what the base has learned does not show to help."
    found = {"score": {"name": "accuracy", "mode": "max"}, "rows": 9, "controls": controls, "warning": warning}
    write_comparison(store, str(version), found, "<html>")
    result = regraft("models", "show", "tickets", "--store", store.url)
    assert result.code == 0, result.err
    assert "random weights" in result.out and "-0.0200 to +0.0400" in result.out and "Negative transfer" in result.out
    shown = regraft("models", "show", "tickets", "--json", "--store", store.url)
    assert [one["name"] for one in shown.document["comparison"]["controls"]] == ["words", "random_weights"]


def test_a_damaged_comparison_hides_no_version(regraft: Regraft, store: ObjectStore) -> None:
    version = publish(store)
    write_comparison(store, str(version), {"controls": 7}, "<html>")
    result = regraft("models", "show", "tickets", "--store", store.url)
    assert result.code == 0 and "controls" not in result.out
