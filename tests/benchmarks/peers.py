"""The servers that `serve.py` compares, each as in its own documentation: `python peers.py NAME FOLDER PORT`.

FOLDER holds a plain transformers text classifier. All respond to POST / with `{"inputs": "text"}` by all labels and
scores.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

try:
    import litserve
except ImportError:  # then left out of the comparison
    litserve = None

MOST, WAIT_S = 32, 0.01
"""Rows of a batch, and seconds that the first of them waits for others."""


class Classifier:
    """Classify texts, padded to the longest of the batch, in the order of arrival."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        torch.set_num_threads(1)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def __call__(self, texts: list[str]) -> list[list[dict[str, Any]]]:
        batch = self._tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            rows = self._model(**batch).logits.softmax(-1).tolist()
        names = self._model.config.id2label
        scored = [[{"label": names[place], "score": score} for place, score in enumerate(row)] for row in rows]
        return [sorted(row, key=lambda item: -item["score"]) for row in scored]


def on_ray(folder: str, port: int) -> None:
    """Serve by (a) Ray Serve with `@serve.batch`."""
    import ray
    from ray import serve
    from starlette.requests import Request

    @serve.deployment(max_ongoing_requests=256)
    class Batched:
        def __init__(self) -> None:
            self._classifier = Classifier(folder)

        @serve.batch(max_batch_size=MOST, batch_wait_timeout_s=WAIT_S)
        async def answer(self, texts: list[str]) -> list[Any]:
            return self._classifier(texts)

        async def __call__(self, request: Request) -> Any:
            return await self.answer((await request.json())["inputs"])

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Batched.bind())
    while True:
        time.sleep(1)


class Api(litserve.LitAPI if litserve else object):  # type: ignore[misc]
    """LitServe's API, at the top of the module because its spawned workers must import it."""

    folder = ""

    def setup(self, device: str) -> None:
        self._classifier = Classifier(self.folder)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # a type here would become a query parameter
        return str(request["inputs"])

    def predict(self, texts: Any) -> Any:
        return self._classifier(texts)

    def encode_response(self, output: Any) -> Any:
        return output


def on_litserve(folder: str, port: int) -> None:
    """Serve by (b) LitServe with the same batching."""
    api = Api(max_batch_size=MOST, batch_timeout=WAIT_S, api_path="/")
    api.folder = folder
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="error"
    )


def on_fastapi(folder: str, port: int) -> None:
    """Serve by (c) FastAPI with a transformers pipeline, one text at a time."""
    import uvicorn
    from fastapi import FastAPI
    from transformers import pipeline

    torch.set_num_threads(1)
    pipe = pipeline("text-classification", model=folder, top_k=None, device="cpu")
    app = FastAPI()

    @app.post("/")
    def answer(body: dict[str, str]) -> Any:
        return pipe(body["inputs"], truncation=True, max_length=256)

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


PEERS = {"ray": on_ray, "litserve": on_litserve, "fastapi": on_fastapi}

if __name__ == "__main__":
    PEERS[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
