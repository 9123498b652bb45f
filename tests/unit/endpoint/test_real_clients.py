"""Programs that people send pictures with get the answer that the file itself gets."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
from huggingface_hub import InferenceClient

from unit.endpoint.model_store import Endpoint, ModelStore
from unit.every.rows import picture

TASK = "image-classification"
NODE = """
const [url, path] = process.argv.slice(1);
const form = new FormData();
form.append("file", new Blob([require("fs").readFileSync(path)], { type: "image/png" }), "é \\"p\\".png");
fetch(url, { method: "POST", body: form }).then((reply) => reply.text()).then((text) => console.log(text));
"""


@pytest.fixture(scope="module")
def seen(model_store: ModelStore, endpoint: Endpoint) -> Endpoint:
    if TASK not in model_store.registry.models():
        model_store.add(TASK)
    endpoint.opened.routes.refresh()
    return endpoint


@pytest.fixture
def url(seen: Endpoint) -> str:
    return f"{seen.url}/models/{TASK}"


@pytest.fixture
def wanted(seen: Endpoint) -> Any:
    return seen.ask(f"/models/{TASK}", picture(0), headers={"content-type": "image/png"}).document


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "p 0.png").write_bytes(picture(0))
    return tmp_path / "p 0.png"


def output_of(*command: str | Path) -> Any:
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(url: str, wanted: Any, path: Path) -> None:
    assert output_of("curl", "-sS", url, "-F", f"file=@{path}") == wanted
    assert (
        output_of("curl", "-sS", url, "-F", f"image=@{path};type=image/png", "-F", 'parameters={"top_k": 1}')
        == wanted[:1]
    )
    assert output_of("curl", "-sS", url, "--data-binary", f"@{path}") == wanted
    assert output_of("curl", "-sS", url, "-F", f"file=@{path}", "-F", f"file=@{path}") == [wanted, wanted]


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_fetch_with_form_data(url: str, wanted: Any, path: Path) -> None:
    assert output_of("node", "-e", NODE, url, path) == wanted


def test_requests(url: str, wanted: Any, path: Path) -> None:
    with path.open("rb") as file:
        assert requests.post(url, files={"file": file}, timeout=30).json() == wanted
    with path.open("rb") as file:
        assert requests.post(url, data=file, timeout=30).json() == wanted


def test_the_hub_s_client(url: str, wanted: Any, path: Path) -> None:
    client = InferenceClient(model=url, token="none")
    for value in (path, str(path), path.read_bytes()):
        found = client.image_classification(value)
        assert [item.label for item in found] == [item["label"] for item in wanted]
