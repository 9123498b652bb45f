"""A registry with tiny models of every task, and endpoints over it in this process."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from safetensors.torch import save

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.delta import delta_tensors
from regraft.bases.locate import Base, processor_files
from regraft.contracts import Method, Task
from regraft.endpoint.metrics import Metrics
from regraft.endpoint.server import OpenEndpoint, running
from regraft.serving.predictor import Predictor
from regraft.spec.serve import ServeSpec
from regraft.store.card import model_card
from regraft.store.objects import open_store
from regraft.store.registry import Registry, Version
from unit.bases.families import shake
from unit.every.rows import base_of, labels_of, method_of, task_of

BY_AUTO = {
    "anomaly-detection": "vit",
    "AutoModel": "bert",
    "image-embeddings": "vit",
    "AutoModelForSequenceClassification": "bert",
    "AutoModelForTokenClassification": "bert",
    "AutoModelForCausalLM": "llama",
    "AutoModelForMaskedLM": "bert",
    "AutoModelForQuestionAnswering": "bert",
    "AutoModelForSeq2SeqLM": "t5",
    "AutoModelForAudioClassification": "wav2vec2",
    "AutoModelForImageClassification": "vit",
    "AutoModelForObjectDetection": "yolos",
    "AutoModelForSemanticSegmentation": "segformer",
    "AutoModelForDepthEstimation": "dpt",
    "AutoModelForZeroShotImageClassification": "clip",
}
FAMILY = {key: BY_AUTO.get(key) or BY_AUTO[Task.lookup(key).auto] for key in Task.names()}
"""A tiny base for each task; tasks of one Auto class share theirs, where they read the same."""


@dataclass
class Reply:
    """The response to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass
class ModelStore:
    """A store under `folder`, to which tests add models."""

    folder: Path
    bases: dict[str, Base] = field(default_factory=dict)

    @property
    def store(self) -> str:
        return str(self.folder / "store")

    @property
    def registry(self) -> Registry:
        return Registry(open_store(self.store))

    def base(self, family: str) -> Base:
        """Return the family's tiny base."""
        if family not in self.bases:
            self.bases[family] = base_of(family, self.folder / "bases" / family)
        return self.bases[family]

    def add(
        self,
        task: str = "text-classification",
        name: str = "",
        method: Any = None,
        seed: int = 1,
        spec: Mapping[str, Any] | bytes = b"data: {}\n",
    ) -> Version:
        """Publish a model of this task, by default under its name; different seeds give different answers."""
        written: dict[str, Any] = {"type": task, "threshold": 0.0} if task == "object-detection" else {}
        parsed = type(task_of(task)).model_validate({"threshold": 0.0}) if written else task_of(task)
        how = Method.parse(method or method_of(task))
        assert isinstance(how, Method)
        base = self.base(FAMILY[task])
        adapted = adapt(base, Adaptation(task=parsed, method=how, labels=labels_of(parsed), seed=seed))
        shake(adapted.model)
        meta: dict[str, Any] = {
            "task": parsed.model_dump(mode="json"),
            "method": how.model_dump(mode="json"),
            "labels": list(labels_of(parsed)),
            "dropout": None,
            "base": {"reference": base.reference, "hash": base.hash, "processor_hash": base.processor_hash},
            "metrics": {parsed.score.name: 0.5},
            "baselines": {},
            "score": {"name": parsed.score.name, "mode": parsed.score.mode},
            "seed": seed,
            "lineage": {"run": "r", "checkpoint": "c", "data": {"fingerprint": "f", "rows": {}}, "parent": None},
            "versions": {"regraft": "0.1.0"},
        }
        files: dict[str, Any] = {
            "delta.safetensors": save(delta_tensors(adapted)),
            "spec.yaml": spec if isinstance(spec, bytes) else json.dumps(spec).encode(),
            **{f"processor/{path.name}": path for path in processor_files(base)},
        }
        name = name or task
        files["card.md"] = model_card({**meta, "name": name}, {}).encode()
        return self.registry.publish(name, files, meta)

    def serve(self, tasks: Iterable[str], endpoint: Endpoint) -> Endpoint:
        """Add the models of these tasks that the store lacks; return the endpoint, which answers for them then."""
        for task in tasks:
            if task not in self.registry.models():
                self.add(task)
        endpoint.opened.routes.refresh()
        return endpoint

    def predict(self, reference: str, rows: list[Any]) -> list[Any]:
        """Return the model's answers without any code of the endpoint."""
        return Predictor.open(self.store, reference, device="cpu").predict(rows)

    @contextmanager
    def open(self, *, metrics: Metrics | None = None, **spec: Any) -> Iterator[Endpoint]:
        """Run an endpoint over the store."""
        document = {"store": self.store, "port": 0, "device": "cpu", "refresh_seconds": 0.2, **spec}
        opened = OpenEndpoint(ServeSpec.resolve(document), metrics=metrics)
        with running(opened) as url:
            yield Endpoint(url, opened)


@dataclass
class Endpoint:
    """A running endpoint."""

    url: str
    opened: OpenEndpoint

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> Reply:
        """Send one request; a body that is not bytes is sent as JSON."""
        data: Any = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        parts = urlsplit(self.url)
        line = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 80), timeout=timeout)
        try:
            if (headers or {}).get("transfer-encoding"):
                data = iter([data])  # http.client then sends chunks
            line.request(
                method, path, data, {"content-type": "application/json", **(headers or {})}, encode_chunked=True
            )
            answer = line.getresponse()
            return Reply(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())
        finally:
            line.close()

    def get(self, path: str, **options: Any) -> Reply:
        return self.ask(path, method="GET", **options)
