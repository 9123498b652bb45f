"""Registration of the chosen candidate: a version with another head, or the version of a run that was kept."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from regraft.adaptation.climb import Tried
from regraft.adaptation.forward import head_names, load_delta
from regraft.adaptation.sides import LinearHead
from regraft.adaptation.trained import TrainedModel, publish_run
from regraft.data.snapshot import Snapshot
from regraft.errors import Unsupported
from regraft.spec.stored import read_stored_spec
from regraft.store.card import model_card
from regraft.store.registry import Registry, Version
from regraft.training.cut_check import CutSite
from regraft.training.evaluate import evaluate

_NOT_OF_THIS_HEAD = ("name", "version", "gain", "gains", "test")
"""Metadata of the source-only version that another head does not have."""


def register_chosen(chosen: Tried, source: TrainedModel, site: CutSite, record: Mapping[str, Any]) -> Version:
    """Register the chosen candidate as a version of the model; one that is registered is returned.

    `record` is the entry `adapt` of its metadata. `site` holds the source-only model's architecture.
    """
    if chosen.model is not None:
        return chosen.model.version or publish_run(site.store, chosen.model, {"adapt": dict(record)})
    assert chosen.head is not None
    return _publish_head(chosen.head, source, site, record)


def with_head(site: CutSite, tensors: Mapping[str, Tensor], head: LinearHead) -> dict[str, Tensor]:
    """Return a delta with another last layer. Raises Unsupported where that layer is not in the delta."""
    names = head_names(site.adapted)
    if names is None:
        raise Unsupported(
            "the head's last layer has no bias, or is the base's own: it cannot hold a correction", "task"
        )
    weight, bias = (tensors[name] for name in names)
    return {**tensors, names[0]: head.weight.to(weight), names[1]: head.bias.to(bias)}


def _publish_head(head: LinearHead, source: TrainedModel, site: CutSite, record: Mapping[str, Any]) -> Version:
    """Publish the source-only delta with another head."""
    version = source.version
    assert version is not None
    registry = Registry(version.store)
    tensors = with_head(site, source.tensors, head)
    delta = save({name: value.contiguous() for name, value in tensors.items()})
    load_delta(site.adapted, tensors)
    metrics = _source_metrics(site, site.snapshot)
    lineage = {**source.meta["lineage"], "adapted_from": str(version)}
    meta = {
        **{name: value for name, value in source.meta.items() if name not in _NOT_OF_THIS_HEAD},
        "metrics": metrics,
        "lineage": lineage,
        "delta_sha256": hashlib.sha256(delta).hexdigest(),
        "delta_bytes": len(delta),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "adapt": dict(record),
    }
    with tempfile.TemporaryDirectory(prefix="regraft-") as scratch:
        files = registry.fetch(version, Path(scratch))
        spec = (files / "spec.yaml").read_bytes()
        named = {**meta, "name": version.name}
        contents: dict[str, Any] = {
            "delta.safetensors": delta,
            "spec.yaml": spec,
            "card.md": model_card(named, read_stored_spec(spec, str(version))).encode(),
            **{f"processor/{path.name}": path for path in sorted((files / "processor").iterdir())},
        }
        return registry.publish(version.name, contents, meta)


def _source_metrics(site: CutSite, snapshot: Snapshot) -> dict[str, float]:
    """Return the metrics of the loaded model on the source's evaluation rows."""
    size = max(32, site.spec.training.batch_size)
    with torch.inference_mode():
        metrics, _ = evaluate(
            site.adapted, snapshot.eval, site.harness, size=size, autocast=site.accelerator.autocast()
        )
    return metrics
