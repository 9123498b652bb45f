"""A taught version: the delta of before with one row more in its head, its metadata, card and kept features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from regraft.bases.tensor_files import read_tensors
from regraft.data.kept_features import FILE, KeptFeatures
from regraft.serving.version_files import DELTA, PROCESSOR, SPEC, Fetched
from regraft.store.card import model_card
from regraft.store.registry import Registry, Version
from regraft.version import VERSION

_OF_BEFORE = ("test", "gain", "gains", "name", "version")
"""Metadata that is true of the version of before alone."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TaughtClass:
    """A new class of a version, with what was measured."""

    label: str
    row: Tensor
    bias: float
    kept: KeptFeatures
    """Features that the new version keeps."""
    metrics: Mapping[str, float]
    facts: Mapping[str, Any]
    """What is stored of the teaching: rows, what it was measured on, the effect on each class."""


def publish_taught(fetched: Fetched, taught: TaughtClass, names: tuple[str, str]) -> Version:
    """Publish the version that has one class more; `names` are those of the head's weight and bias in the delta."""
    delta = _delta(fetched, taught, names)
    labels = [*fetched.meta["labels"], taught.label]
    meta = {**_changed(fetched, delta, taught.facts, metrics=taught.metrics), "labels": labels}
    return _published(fetched, delta, meta, {FILE: taught.kept.dump()})


def _published(
    fetched: Fetched, delta: bytes, meta: Mapping[str, Any], more: Mapping[str, bytes] | None = None
) -> Version:
    spec = fetched.folder / SPEC
    contents: dict[str, Any] = {
        DELTA: delta,
        "card.md": model_card(meta, fetched.spec).encode(),
        **(more or {}),
        **({SPEC: spec.read_bytes()} if spec.is_file() else {}),
        **{f"{PROCESSOR}/{path.name}": path for path in sorted(fetched.processor.iterdir()) if path.is_file()},
    }
    return Registry(fetched.version.store).publish(fetched.version.name, contents, meta)


def publish_changed(
    fetched: Fetched, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], *, metrics: Mapping[str, float] | None
) -> Version:
    """Publish a version whose delta is `tensors`; without `metrics` it keeps those of the version of before."""
    delta = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    known = fetched.meta["metrics"] if metrics is None else metrics
    return _published(fetched, delta, _changed(fetched, delta, facts, metrics=known))


def _delta(fetched: Fetched, taught: TaughtClass, names: tuple[str, str]) -> bytes:
    tensors = read_tensors(fetched.delta, str(fetched.version))
    weight, bias = (tensors[name] for name in names)
    grown = {
        names[0]: torch.cat([weight, taught.row[None].to(weight)]),
        names[1]: torch.cat([bias, bias.new_tensor([taught.bias])]),
    }
    return save({name: tensor.contiguous() for name, tensor in {**tensors, **grown}.items()})


def _changed(
    fetched: Fetched, delta: bytes, facts: Mapping[str, Any], *, metrics: Mapping[str, float]
) -> dict[str, Any]:
    before = {name: value for name, value in fetched.meta.items() if name not in _OF_BEFORE}
    lineage = dict(before.get("lineage") or {})
    return {
        **before,
        "name": fetched.version.name,
        "metrics": dict(metrics),
        "baselines": {},
        "lineage": {**lineage, "taught": [*_earlier(lineage), dict(facts)]},
        "delta_sha256": hashlib.sha256(delta).hexdigest(),
        "delta_bytes": len(delta),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"regraft": VERSION, "torch": installed("torch"), "transformers": installed("transformers")},
    }


def _earlier(lineage: Mapping[str, Any]) -> Sequence[Any]:
    return lineage.get("taught") or []
