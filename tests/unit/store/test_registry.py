"""Version numbers are used once, aliases move atomically, and no version of an alias is deleted."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from regraft.errors import Damaged, NotFound, RequestError, StoreError
from regraft.store.manifest import MANIFEST
from regraft.store.objects import Body, ObjectStore
from regraft.store.registry import Registry, Version


class Interrupted(Registry):
    """Calls `between` after the check for aliases and before the deletion, as a race would."""

    def _refuse_while_aliased(self, version: Version) -> None:
        super()._refuse_while_aliased(version)
        between, self.between = self.between, lambda: None
        between()

    between = staticmethod(lambda: None)


@pytest.fixture
def registry(store: ObjectStore) -> Registry:
    return Registry(store)


@pytest.fixture
def local(folder: ObjectStore) -> Registry:
    return Registry(folder)


def publish(registry: Registry, name: str = "m", content: bytes = b"delta", **meta: Any) -> Version:
    files: Mapping[str, Body] = {"delta": content, "processor/vocab": b"v"}
    return registry.publish(name, files, meta)


def refs(registry: Registry, name: str = "m") -> list[str]:
    return [version.version for version in registry.versions(name)]


def test_versions_are_counted_and_fetched(registry: Registry, tmp_path: Path) -> None:
    assert registry.models() == [] and registry.versions("m") == []
    for number in range(1, 12):
        assert str(publish(registry, content=b"%d" % number, lineage={"run": f"r{number}"})) == f"m@v{number}"
    publish(registry, "other")
    assert refs(registry) == [f"v{number}" for number in range(1, 12)]
    assert registry.models() == ["m", "other"]
    latest = registry.version("m", "latest")
    assert latest.number == 11 and latest.meta["lineage"] == {"run": "r11"} and len(latest.id) == 32
    assert (registry.fetch(registry.version("m", "v2"), tmp_path / "x") / "delta").read_bytes() == b"2"
    assert (tmp_path / "x" / "processor" / "vocab").read_bytes() == b"v"


def test_publishers_at_once_get_numbers_of_their_own(registry: Registry, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: publish(registry, content=b"%d" % n), range(8)))
    assert sorted(version.number for version in made) == list(range(1, 9))
    for number, version in enumerate(made):
        assert (registry.fetch(version, tmp_path / str(number)) / "delta").read_bytes() == b"%d" % number


def test_the_same_work_is_published_once(registry: Registry) -> None:
    work: dict[str, Any] = {"lineage": {"run": "r"}, "delta_sha256": "abc"}
    first = publish(registry, **work)
    assert publish(registry, **work) == first
    for other in ({"lineage": {"run": "r2"}, "delta_sha256": "abc"}, {"lineage": {"run": "r"}, "delta_sha256": "x"},
                  {"delta_sha256": "abc"}, {"lineage": {"run": "r"}}, {}):  # fmt: skip
        assert publish(registry, **other) != first
    assert publish(registry, "other", **work).name == "other"


def test_an_alias_moves_and_goes_back(registry: Registry) -> None:
    for number in range(3):
        publish(registry, content=b"%d" % number)
    assert registry.promote("m", "v1", "production").version == "v1"
    registry.promote("m", "latest", "production")
    registry.promote("m", "latest", "production")
    registry.promote("m", "v2", "production")
    registry.promote("m", "production", "staging")
    assert registry.aliases("m") == {"production": "v2", "staging": "v2"}
    assert registry.version("m", "production").version == "v2"
    assert registry.rollback("m", "production").version == "v3"
    assert registry.rollback("m", "production").version == "v1"
    with pytest.raises(NotFound, match="no previous version"):
        registry.rollback("m", "production")
    assert registry.aliases("m") == {"production": "v1", "staging": "v2"}


def test_a_rollback_passes_over_deleted_versions(local: Registry) -> None:
    for number in range(3):
        publish(local, content=b"%d" % number)
        local.promote("m", "latest", "production")
    local.delete("m", "v2")
    assert local.rollback("m", "production").version == "v1"


def test_an_alias_can_be_taken_away(registry: Registry) -> None:
    publish(registry)
    registry.promote("m", "v1", "production")
    registry.unalias("m", "production")
    assert registry.aliases("m") == {}
    for call in (lambda: registry.version("m", "production"), lambda: registry.unalias("m", "production"),
                 lambda: registry.rollback("m", "production")):  # fmt: skip
        with pytest.raises(NotFound, match="'production' does not exist"):
            call()
    registry.delete("m", "v1")
    assert registry.models() == []


def test_moves_at_once_lose_none(registry: Registry) -> None:
    for number in range(2):
        publish(registry, content=b"%d" % number)
    registry.promote("m", "v1", "production")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: registry.promote("m", f"v{n % 2 + 1}", "production"), range(12)))
    assert registry.aliases("m")["production"] in ("v1", "v2")


def test_what_does_not_exist_is_reported_with_the_nearest(registry: Registry) -> None:
    with pytest.raises(NotFound, match="there is none yet"):
        registry.version("m")
    publish(registry, "support-tickets")
    registry.promote("support-tickets", "v1", "production")
    with pytest.raises(NotFound, match="did you mean 'support-tickets'"):
        registry.version("suport-tickets")
    with pytest.raises(NotFound, match="there are production, v1; did you mean 'production'"):
        registry.version("support-tickets", "prodction")
    with pytest.raises(NotFound, match="'v9' does not exist; there are production, v1"):
        registry.version("support-tickets", "v9")
    with pytest.raises(NotFound):
        registry.promote("support-tickets", "v9", "x")
    with pytest.raises(NotFound):
        registry.delete("support-tickets", "v9")


def test_references_are_parsed() -> None:
    assert Registry.parse("a-b.c") == ("a-b.c", "latest")
    assert Registry.parse("a@production") == ("a", "production")
    assert Registry.parse("a@v12") == ("a", "v12")
    assert Registry.parse("a@latest") == ("a", "latest")
    wrongs = ["", "@", "a@", "A", "a/b", "../a", "a..b", "a b", "-a", "a@b@c", "a@v0", "a@v01", "a@../x", "a" * 65, "ä"]
    for wrong in wrongs:
        with pytest.raises(RequestError, match=r"write 1 to 64|read as a version"):
            Registry.parse(wrong)


@pytest.mark.parametrize("alias", ["latest", "v1", "v007", "Up", "", "a/b", "..", "a" * 65])
def test_an_alias_may_not_be_called_so(local: Registry, alias: str) -> None:
    publish(local)
    with pytest.raises(RequestError):
        local.promote("m", "v1", alias)


def test_a_version_that_is_meant_is_not_deleted(registry: Registry) -> None:
    publish(registry)
    publish(registry, content=b"2")
    registry.promote("m", "v1", "production")
    with pytest.raises(RequestError, match="m@v1 is the version of production: move or remove the alias"):
        registry.delete("m", "v1")
    registry.delete("m", "v2")
    assert refs(registry) == ["v1"]


def test_a_number_is_never_given_twice(registry: Registry) -> None:
    for number in range(2):
        publish(registry, content=b"%d" % number)
    registry.delete("m", "v2")
    assert publish(registry, content=b"new").version == "v3"
    assert not [stat for stat in registry.store.list("models/m/v2/") if stat.key.endswith("delta")]


def test_a_version_promoted_while_it_is_deleted_stays_whole(folder: ObjectStore, tmp_path: Path) -> None:
    registry = Interrupted(folder)
    made = publish(registry)
    registry.between = lambda: registry.promote("m", "v1", "production")  # type: ignore[assignment]
    with pytest.raises(RequestError, match="is the version of production"):
        registry.delete("m", "v1")
    assert registry.aliases("m") == {"production": "v1"}
    assert (registry.fetch(registry.version("m", "production"), tmp_path) / "delta").exists()
    assert made.version == "v1"


def test_an_alias_is_not_left_meaning_a_version_deleted_meanwhile(
    local: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        publish(local, content=b"%d" % number)
    local.promote("m", "v1", "production")
    local.promote("m", "v1", "old")
    found = local.version("m", "v2")
    monkeypatch.setattr(local, "version", lambda name, ref: found)
    local.store.delete([found.prefix + MANIFEST])
    for alias in ("production", "new"):
        with pytest.raises(NotFound, match="deleted at the same time"):
            local.promote("m", "v2", alias)
    assert local.aliases("m") == {"production": "v1", "old": "v1"}


def test_a_broken_off_publication_is_never_listed_and_collected(registry: Registry) -> None:
    registry.store.put("models/m/v1/claim.json", b"claimed")
    registry.store.put("models/m/v1/delta", b"half")
    assert registry.models() == [] and registry.versions("m") == []
    assert publish(registry).version == "v2"
    assert registry.collect(3600.0) == []
    assert registry.collect(-3600.0) == ["models/m/v1/"]
    assert [stat.key for stat in registry.store.list("models/m/v1/")] == ["models/m/v1/claim.json"]
    assert registry.collect(-3600.0) == [] and refs(registry) == ["v2"]


@pytest.mark.parametrize("hurt", ["delta", "processor/vocab", "manifest.json", "swap"])
def test_a_damaged_version_is_refused_by_name(registry: Registry, tmp_path: Path, hurt: str) -> None:
    made, other = publish(registry), publish(registry, content=b"other")
    if hurt == "swap":
        for stat in list(registry.store.list(other.prefix)):
            registry.store.put(stat.key.replace("/v2/", "/v1/"), registry.store.get(stat.key))
    else:
        registry.store.put(made.prefix + hurt, registry.store.get(made.prefix + hurt)[:-1])
    with pytest.raises(Damaged, match="models/m/v1/"):
        registry.fetch(registry.version("m", "v1"), tmp_path / "x")
    assert registry.fetch(registry.version("m", "v2"), tmp_path / "y")
    assert publish(registry, content=b"third").version == "v3"


def test_a_damaged_alias_is_named_and_mended_by_promoting(local: Registry) -> None:
    publish(local)
    publish(local, content=b"2")
    local.promote("m", "v1", "production")
    data = local.store.get("models/m/aliases/production.json")
    local.store.put("models/m/aliases/production.json", data.replace(b'"v1"', b'"v2"'))
    for call in (lambda: local.version("m", "production"), lambda: local.rollback("m", "production"),
                 lambda: local.delete("m", "v1")):  # fmt: skip
        with pytest.raises(Damaged, match=r"aliases/production.json: was changed"):
            call()
    assert local.aliases("m") == {}
    assert "was changed" in str(local.damaged_aliases("m")["production"])
    assert local.version("m", "v1").version == "v1"
    local.promote("m", "v1", "production")
    assert local.aliases("m") == {"production": "v1"}


def test_files_of_a_version_may_not_take_our_names(local: Registry) -> None:
    for name in ("claim.json", "manifest.json", "deleted.json"):
        with pytest.raises(RequestError, match=name):
            local.publish("m", {name: b""}, {})


def test_a_store_that_cannot_be_written_does_not_publish(local: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(key: str, data: Body) -> None:
        raise StoreError("full")

    with monkeypatch.context() as patch:
        patch.setattr(local.store, "put", full)
        with pytest.raises(StoreError, match="full"):
            publish(local)
    assert local.models() == []
    assert publish(local).version == "v2"
