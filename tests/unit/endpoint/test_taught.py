"""A class that is taught reaches the requests of a running endpoint by its alias, and no request fails meanwhile."""

from __future__ import annotations

from pathlib import Path

import regraft
from unit.endpoint.model_store import ModelStore
from unit.endpoint.test_routes import ASKED, MODEL, asked_all_the_time, until


def labels_in(replies: list[object]) -> set[str]:
    document = replies[-1].document if replies else []  # type: ignore[attr-defined]
    return {one["label"] for one in (document[0] if document and isinstance(document[0], list) else document)}


def test_an_alias_moves_to_a_taught_version_and_back_without_a_failed_request(own: ModelStore, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    texts = [f"w{4 + number} w{5 + number} w9" for number in range(12)]
    lines = [f"{text},{('no', 'yes', 'perhaps')[number % 3]}" for number, text in enumerate(texts)]
    rows.write_text("\n".join(["text,label", *lines]) + "\n")
    own.registry.promote(MODEL, "v1", "production")
    path = f"/models/{MODEL}@production"
    with own.open() as endpoint, asked_all_the_time(endpoint, path) as replies:
        until(lambda: bool(replies))
        found = regraft.teach(
            f"{MODEL}@production",
            "never",
            [{"text": "w20 w21 w22"}, {"text": "w20 w22 w23"}],
            store=own.store,
            evaluation=rows,
            max_loss=100,
            promote="production",
        )
        until(lambda: replies[-1].headers.get("x-model-version") == found.version == "v2")
        until(lambda: "never" in labels_in(list(replies)))
        wanted = own.predict(f"{MODEL}@v2", [ASKED["inputs"]])[0]["scores"]
        own.registry.rollback(MODEL, "production")
        until(lambda: replies[-1].headers.get("x-model-version") == "v1")
    assert {reply.status for reply in replies} == {200}
    taught = [reply for reply in replies if reply.headers.get("x-model-version") == "v2"]
    served = {one["label"]: one["score"] for one in taught[0].document[0]}
    assert all(abs(served[one["label"]] - one["score"]) < 1e-4 for one in wanted) and len(served) == 4
