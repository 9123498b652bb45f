"""A running endpoint follows the registry: models added, replaced, removed, promoted, rolled back, split."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from regraft.endpoint.routes import BARE, ModelRoutes
from regraft.errors import Damaged, NotFound
from regraft.spec.serve import ServeSpec
from regraft.store.objects import open_store
from regraft.store.registry_view import RegistryView
from unit.endpoint.model_store import Endpoint, ModelStore, Reply

MODEL = "text-classification"
ASKED = {"inputs": "w5 w6 w7"}


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


@contextmanager
def asked_all_the_time(endpoint: Endpoint, path: str) -> Iterator[list[Reply]]:
    """Run two clients that send requests without a pause."""
    replies: list[Reply] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            replies.append(endpoint.ask(path, ASKED))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield replies
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_shelves_tell_what_the_registry_tells(own: ModelStore) -> None:
    own.add(seed=2)
    own.add(name="other")
    own.registry.promote(MODEL, "v2", "production")
    view = RegistryView(open_store(own.store))
    for _ in range(2):
        found = view.models()
        assert sorted(found) == own.registry.models()
        for name, model in found.items():
            assert list(model.versions) == [item.version for item in own.registry.versions(name)]
            assert dict(model.aliases) == own.registry.aliases(name)
        own.registry.rollback(MODEL, "production") if _ else own.registry.promote(MODEL, "v1", "production")
    own.registry.unalias(MODEL, "production")
    assert dict(view.models()[MODEL].aliases) == {}
    own.registry.delete("other", "v1")
    assert sorted(view.models()) == [MODEL]


def test_promote_and_rollback_reach_a_running_endpoint_without_a_failed_request(own: ModelStore) -> None:
    own.add(seed=2)
    own.registry.promote(MODEL, "v1", "production")
    wanted = {v: own.predict(f"{MODEL}@{v}", [ASKED["inputs"]])[0]["scores"][0]["score"] for v in ("v1", "v2")}
    with own.open() as endpoint, asked_all_the_time(endpoint, f"/models/{MODEL}@production") as replies:
        now = lambda: replies[-1].headers.get("x-model-version") if replies else None  # noqa: E731
        until(lambda: now() == "v1")
        own.registry.promote(MODEL, "v2", "production")
        until(lambda: now() == "v2")
        own.registry.rollback(MODEL, "production")
        until(lambda: now() == "v1")
    assert {reply.status for reply in replies} == {200}
    for reply in replies:
        assert reply.document[0][0]["score"] == pytest.approx(wanted[reply.headers["x-model-version"]], abs=1e-5)


def test_the_bare_name_follows_the_newest_version_and_a_version_stays_itself(own: ModelStore) -> None:
    with own.open() as endpoint, asked_all_the_time(endpoint, f"/models/{MODEL}") as replies:
        until(lambda: bool(replies))
        own.add(seed=2)
        until(lambda: replies[-1].headers["x-model-version"] == "v2")
        assert endpoint.ask(f"/models/{MODEL}@v1", ASKED).headers["x-model-version"] == "v1"
        assert endpoint.ask(f"/models/{MODEL}@latest", ASKED).headers["x-model-version"] == "v2"
    assert {reply.status for reply in replies} == {200}


def test_a_model_is_there_as_soon_as_it_is_registered_and_gone_when_it_is_deleted(own: ModelStore) -> None:
    with own.open(refresh_seconds=0.3) as endpoint:
        assert endpoint.ask("/models/new", ASKED).status == 404
        own.add(name="new", seed=3)
        assert endpoint.ask("/models/new", ASKED).status == 200, "looked for when it is asked"
        own.registry.delete("new", "v1")
        until(lambda: endpoint.ask("/models/new", ASKED).status == 404)
        assert [model["name"] for model in endpoint.get("/models").document["models"]] == [MODEL]


def test_a_version_that_does_not_open_takes_nothing_away_and_is_reported(own: ModelStore) -> None:
    own.registry.promote(MODEL, "v1", "production")
    with own.open() as endpoint, asked_all_the_time(endpoint, f"/models/{MODEL}@production") as replies:
        until(lambda: bool(replies))
        own.add(seed=2)
        delta = Path(own.store) / f"models/{MODEL}/v2/delta.safetensors"
        good = delta.read_bytes()
        delta.write_bytes(good[:-8] + b"spoiled!")
        own.registry.promote(MODEL, "v2", "production")

        def production() -> dict[str, Any]:
            found: dict[str, Any] = endpoint.get("/models").document["models"][0]["answers"]["production"]
            return found

        until(lambda: "trouble" in production())
        assert production()["versions"] == {"v1": 1.0}
        assert production()["moves_to"] == {"v2": 1.0}
        assert "delta.safetensors" in production()["trouble"]
        assert endpoint.ask(f"/models/{MODEL}@v2", ASKED).status == 409
        own.registry.rollback(MODEL, "production")
        until(lambda: "trouble" not in production())
    assert {reply.status for reply in replies} == {200}
    assert {reply.headers["x-model-version"] for reply in replies} == {"v1"}


def test_shares_of_an_alias_are_kept(own: ModelStore) -> None:
    own.add(seed=2)
    with own.open(models=[MODEL], aliases={"production": {"v1": 0.75, "v2": 0.25}}) as endpoint:
        endpoint.opened.routes._random.seed(1)
        count = 400
        seen = Counter(endpoint.opened.routes.at_hand(MODEL, "production") for _ in range(count))
        assert 0.15 < seen["v2"] / count < 0.35
        versions = {endpoint.ask(f"/models/{MODEL}@production", ASKED).headers["x-model-version"] for _ in range(30)}
        assert versions == {"v1", "v2"}
        shown = endpoint.get(f"/models/{MODEL}").document["answers"]["production"]
        assert shown["versions"] == {"v1": 0.75, "v2": 0.25}


class Counted:
    """Loads versions, and records them in order; some fail."""

    def __init__(self, broken: frozenset[str] = frozenset()) -> None:
        self.calls: list[str] = []
        self.broken = broken
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, model: str, version: str) -> object:
        self.gate.wait(10)
        self.calls.append(f"{model}@{version}")
        if version in self.broken:
            raise Damaged("spoilt", f"{model}@{version}")
        return object()


def routes(own: ModelStore, opened: Counted, **spec: Any) -> ModelRoutes:
    document = {"store": own.store, "refresh_seconds": 60, **spec}
    return ModelRoutes(open_store(own.store), ServeSpec.resolve(document), opened)


def test_a_name_moves_only_when_the_new_version_is_open(own: ModelStore) -> None:
    opened = Counted()
    made = routes(own, opened, models=[MODEL])
    made.start()
    assert opened.calls == [f"{MODEL}@v1"]
    own.add(seed=2)
    opened.gate.clear()
    made.refresh()
    for _ in range(5):
        assert made.find(MODEL, BARE) == "v1"
    opened.gate.set()
    until(lambda: made.find(MODEL, BARE) == "v2")
    made.close()


def test_a_name_that_nobody_asked_for_costs_nothing_when_it_moves(own: ModelStore) -> None:
    opened = Counted()
    made = routes(own, opened)
    made.start()
    own.add(seed=2)
    made.refresh()
    assert made.find(MODEL, BARE) == "v2"
    assert opened.calls == []
    made.close()


def test_aliases_of_named_models_are_open_before_anybody_asks(own: ModelStore) -> None:
    own.add(seed=2)
    own.registry.promote(MODEL, "v1", "production")
    own.registry.promote(MODEL, "v2", "next")
    own.add(name="other")
    own.registry.promote("other", "v1", "production")
    opened = Counted()
    made = routes(own, opened, models=[MODEL, "*"])
    made.start()
    assert set(opened.calls) == {f"{MODEL}@v2", f"{MODEL}@v1"}
    made.close()


def test_an_alias_that_does_not_open_keeps_no_named_model_from_answering(own: ModelStore) -> None:
    own.add(seed=2)
    own.registry.promote(MODEL, "v1", "old")
    made = routes(own, Counted(frozenset({"v1"})), models=[MODEL])
    made.start()
    assert made.at_hand(MODEL, BARE) == "v2"
    assert "v1" in made.routes_of(MODEL)[MODEL, "old"].trouble
    made.close()


def test_a_share_whose_version_does_not_open_goes_to_the_others(own: ModelStore) -> None:
    own.add(seed=2)
    made = routes(own, Counted(frozenset({"v2"})), models=[f"{MODEL}@live"], aliases={"live": {"v1": 0.9, "v2": 0.1}})
    made.start()
    (route,) = (route for (_, ref), route in made.routes_of(MODEL).items() if ref == BARE)
    assert route.answering == (("v1", 1.0),)
    assert "v2" in route.trouble
    made.close()


def test_what_cannot_be_opened_at_all_is_reported_at_once(own: ModelStore) -> None:
    with pytest.raises(Damaged):
        routes(own, Counted(frozenset({"v1"})), models=[MODEL]).start()
    with pytest.raises(NotFound, match="'live' does not exist; there are v1"):
        routes(own, Counted(), models=[f"{MODEL}@live"]).start()
    with pytest.raises(NotFound, match="did you mean"):
        routes(own, Counted(), models=["text-clasification"]).start()


def test_only_named_models_are_served(own: ModelStore) -> None:
    own.add(name="other")
    made = routes(own, Counted(), models=["other"])
    made.start()
    assert made.models() == ["other"]
    with pytest.raises(NotFound, match="there are other"):
        made.find(MODEL, BARE)
    made.close()


def test_many_who_ask_for_what_is_not_there_cost_few_looks(own: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made = routes(own, Counted())
    made.start()
    looks: list[float] = []
    look = made._registry.models

    def counted() -> Any:
        looks.append(time.monotonic())
        return look()

    monkeypatch.setattr(made._registry, "models", counted)
    since = time.monotonic()
    for _ in range(200):
        with pytest.raises(NotFound):
            made.find("nobody", BARE, since=since)
    assert len(looks) == 1
    made.close()


def test_a_store_that_fails_for_a_while_changes_nothing(own: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made = routes(own, Counted(), refresh_seconds=0.05)
    made.start()
    fails = threading.Event()

    def broken() -> Any:
        fails.set()
        raise OSError("the network is gone")

    monkeypatch.setattr(made._registry, "models", broken)
    assert fails.wait(5)
    assert made.find(MODEL, BARE) == "v1"
    made.close()


def test_a_store_that_was_made_again_is_answered_from_what_it_holds_now(own: ModelStore) -> None:
    with own.open() as endpoint:
        before = endpoint.ask(f"/models/{MODEL}", ASKED)
        shutil.rmtree(own.store)
        own.add(seed=2)
        wanted = own.predict(f"{MODEL}@v1", [ASKED["inputs"]])[0]["scores"][0]["score"]

        def now() -> Reply:
            return endpoint.ask(f"/models/{MODEL}", ASKED)

        until(lambda: now().headers.get("x-model-hash", "") not in ("", before.headers["x-model-hash"]))
        assert now().headers["x-model-version"] == before.headers["x-model-version"] == "v1"
        assert now().document[0][0]["score"] == pytest.approx(wanted, abs=1e-5)
        assert before.document[0][0]["score"] != pytest.approx(wanted, abs=1e-5)


def test_a_share_that_does_not_open_fails_no_request_of_an_alias_that_nobody_named(own: ModelStore) -> None:
    own.add(seed=2)
    shares = {f"{MODEL}@live": {"v1": 0.5, "v2": 0.5}}
    made = routes(own, Counted(frozenset({"v2"})), models=["*"], aliases=shares)
    made.start()
    until(lambda: made.routes_of(MODEL)[MODEL, "live"].trouble != "")
    assert {made.at_hand(MODEL, "live") for _ in range(50)} == {"v1"}
    made.close()


def test_a_version_that_is_long_in_opening_holds_up_no_other(own: ModelStore) -> None:
    own.add(name="slow", seed=2)
    with own.open() as endpoint:
        backend, gate = endpoint.opened.backend, threading.Event()
        really = backend.open

        def opened(model: str, version: str) -> Any:
            if model == "slow":
                gate.wait(20)
            return really(model, version)

        backend.open = opened  # type: ignore[method-assign]
        replies: list[Reply] = []
        ask = lambda: replies.append(endpoint.ask("/models/slow", ASKED))  # noqa: E731
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        assert endpoint.ask(f"/models/{MODEL}", ASKED, timeout=10).status == 200
        gate.set()
        for thread in threads:
            thread.join()
    assert [reply.status for reply in replies] == [200] * 8


def test_a_version_that_was_let_go_is_loaded_again_before_its_rows_are_read(own: ModelStore) -> None:
    own.add(name="other", seed=2)
    with own.open() as endpoint:
        engine = endpoint.opened.backend._engine  # type: ignore[attr-defined]
        engine._cache.budget_bytes = 1
        for name in (MODEL, "other", MODEL, "other"):
            assert endpoint.ask(f"/models/{name}", ASKED).status == 200
        where: list[str] = []
        load = engine._loader.open
        engine._loader.open = lambda *of: where.append(threading.current_thread().name) or load(*of)
        assert endpoint.ask(f"/models/{MODEL}", ASKED).status == 200
        assert [name.rpartition("_")[0] for name in where] == ["regraft-open"], "not among those that read rows"


def test_a_broken_version_is_not_read_anew_for_each_request(own: ModelStore) -> None:
    own.add(name="spoilt", seed=2)
    (delta,) = Path(own.store).glob("models/spoilt/v1/delta.safetensors")
    delta.write_bytes(delta.read_bytes()[:-4] + b"oops")
    with own.open() as endpoint:
        opener = endpoint.opened.backend._engine._loader  # type: ignore[attr-defined]
        loads: list[str] = []
        load = opener.open
        opener.open = lambda *of: loads.append(of[0]) or load(*of)
        replies = [endpoint.ask("/models/spoilt", ASKED) for _ in range(10)]
    assert {(reply.status, reply.body) for reply in replies} == {(409, replies[0].body)}
    assert len(loads) <= 2


def test_a_model_is_shown_by_the_reference_that_is_written(own: ModelStore) -> None:
    own.add(seed=2)
    with own.open() as endpoint:
        shown = {ref: endpoint.get(f"/models/{MODEL}{ref}").document["version"] for ref in ("", "@v1", "@v2")}
        assert shown == {"": "v2", "@v1": "v1", "@v2": "v2"}
        assert endpoint.get(f"/models/{MODEL}@v3").status == 404
