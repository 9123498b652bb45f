"""Loading of versions beside others of their base: files verified, weights shared, shared passes tried before use."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.delta import check_fit
from regraft.bases.locate import Base
from regraft.contracts import Context, Method, Serving, Task
from regraft.errors import Damaged, RegraftError, Unsupported
from regraft.methods.feature_extraction import FeatureExtraction
from regraft.serving.engine.base_weights import BaseWeights, Frame, cast_tensor
from regraft.serving.engine.cls_only import compute_cls_only
from regraft.serving.engine.forward import LoadedModel, Suffix
from regraft.serving.engine.multi_lora import NotStackable, head_tensors, lora_factors
from regraft.serving.engine.precision import Precision, choose_precision
from regraft.serving.engine.shared_trunk import find_suffix, shared_pass_mismatch
from regraft.serving.predictor import parse_member, version_base, version_processor
from regraft.serving.training_names import training_names
from regraft.serving.version_files import DELTA, PROCESSOR, Fetched, fetch, loading
from regraft.spec.column_names import Names
from regraft.store.extension_panics import panics_as_damage
from regraft.store.objects import ObjectStore
from regraft.trunk.cut import NotCut, NothingFrozen

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ServedVersion:
    """A loaded version, ready to answer."""

    model: str
    version: str
    hash: str
    """Id of its manifest."""
    delta_sha256: str
    """SHA-256 of the delta's file, in hex."""
    task: Task
    labels: tuple[str, ...]
    meta: Mapping[str, Any]
    """The version's own metadata: metrics, lineage, base."""
    serves: Serving
    """The part of its base that its method lets it share."""
    loaded: LoadedModel = field(repr=False)
    bytes: int = 0
    """Memory that it takes in addition to its base."""
    names: Mapping[str, Names] = field(default_factory=dict)
    """The columns' names in its training files, by the task's; empty where they are the task's own."""

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"

    @cached_property
    def unshared(self) -> LoadedModel:
        """The model for rows that no shared pass can hold: they are computed by passes of their own."""
        return replace(self.loaded, suffix=None)

    @property
    def shares(self) -> bool:
        """True if its rows are computed together with those of other models of its base."""
        return self.loaded.suffix is not None


class VersionLoader:
    """Loads versions; what versions have in common is made once, and kept while any of them is in memory."""

    def __init__(
        self,
        store: ObjectStore,
        device: torch.device,
        *,
        precision: Precision,
        bases: Mapping[str, str],
        guard: AbstractContextManager[Any],
    ) -> None:
        self._store, self._device, self._precision, self._bases = store, device, precision, bases
        self._guard = guard
        """Held for every pass on a frame that may already answer."""
        self._building = Lock()
        """Held while a model is built: transformers changes global state meanwhile."""
        self.weights: WeakValueDictionary[str, BaseWeights] = WeakValueDictionary()
        """The resident bases, by hash."""
        self._frames: WeakValueDictionary[str, Frame] = WeakValueDictionary()
        self._suffixes: WeakKeyDictionary[Frame, Suffix | NotCut] = WeakKeyDictionary()
        self._verified: WeakSet[Frame] = WeakSet()
        """Frames whose first model gave the same outputs in a shared pass as alone, and frames that share nothing."""
        self._unshared: dict[str, str] = {}
        """Why the versions of a plan are computed by passes of their own, by the plan's key."""

    def open(self, model: str, version: str) -> ServedVersion:
        """Load a version. Raises NotFound, Damaged, BaseError, WrongBase, UnknownPlugin, Unsupported."""
        fetched = fetch(self._store, f"{model}@{version}")
        with loading(fetched):
            return self._open(fetched)

    def _open(self, fetched: Fetched) -> ServedVersion:
        task = parse_member(Task, fetched.meta["task"], fetched)  # type: ignore[type-abstract]
        method = parse_member(Method, fetched.meta["method"], fetched)
        tensors, sha256 = _read_delta(fetched)
        # Referenced from here on: a frame in memory spares the base's files, which take long to hash.
        frame = self._frames.get(_plan_key(task, method, fetched))
        moved_to = self._bases.get(str(fetched.meta["base"]["hash"]))
        base = version_base(fetched, moved_to) if frame is None else frame.weights.base
        with self._building:
            loaded = self._load(OpenPlan(task, method, base, fetched), tensors)
        factors = sum(up.nbytes for _, up in loaded.factors.values()) if loaded.factors else 0
        return ServedVersion(
            model=fetched.version.name,
            version=fetched.version.version,
            hash=fetched.version.id,
            delta_sha256=sha256,
            task=task,
            labels=loaded.context.labels,
            meta=fetched.meta,
            serves=method.serves,
            loaded=loaded,
            bytes=loaded.frame.weights.unshared_bytes(loaded.delta) + factors,
            names=training_names(fetched),
        )

    def _load(self, plan: OpenPlan, tensors: Mapping[str, Tensor]) -> LoadedModel:
        weights = self._weights(plan, tensors)
        frame = self._frame(plan, weights)
        check_fit(frame.delta_shapes, tensors)
        moved = {name: cast_tensor(tensor.to(self._device), weights.dtype) for name, tensor in tensors.items()}
        loaded = LoadedModel(frame, weights.deduplicated(moved), plan.context(frame))
        return self._verify(self._share(loaded, plan), plan)

    def _weights(self, plan: OpenPlan, tensors: Mapping[str, Tensor]) -> BaseWeights:
        found = self.weights.get(plan.base.hash)
        if found is None:
            dtype = torch.bfloat16 if self._precision == "bf16" else torch.float32
            if self._precision == "auto":
                dtype, why = choose_precision(plan.adapted(), tensors, self._device)
                log.info("%s answers in %s: %s", plan.base.reference, str(dtype).removeprefix("torch."), why)
            found = self.weights[plan.base.hash] = BaseWeights(plan.base, self._device, dtype)
        return found

    def _frame(self, plan: OpenPlan, weights: BaseWeights) -> Frame:
        found = self._frames.get(plan.key)
        if found is None:
            found = self._frames[plan.key] = Frame(plan.adapted(), weights)
        return found

    def _share(self, loaded: LoadedModel, plan: OpenPlan) -> LoadedModel:
        """Return the model with its suffix after the base's shared prefix, or unchanged where it cannot share one."""
        if plan.method.serves == "whole" and not plan.method.depth_of(loaded.frame.adapted.anatomy):
            self._drop_unread_tokens(loaded.frame)
            return loaded  # all of its weights moved: there is nothing to share
        if plan.key in self._unshared:
            return loaded
        try:
            return self._behind_prefix(loaded, plan)
        except (NotCut, NotStackable, Unsupported) as reason:
            self._unshared[plan.key] = _log_unshared(str(plan.fetched.version), reason)
            return loaded

    def _behind_prefix(self, loaded: LoadedModel, plan: OpenPlan) -> LoadedModel:
        """Split a model after a shared prefix; NotCut, NotStackable or Unsupported where that is impossible."""
        frame, delta = loaded.frame, loaded.delta
        if type(plan.task).predict_forward is not Task.predict_forward:
            raise NotCut(f"an answer of task {plan.task.key()} takes more than one pass")
        if plan.method.serves == "head":
            return replace(loaded, suffix=self._suffix(frame), suffix_delta=delta)
        unchanged_base = replace(plan, method=FeatureExtraction())
        if plan.method.serves == "low_rank":
            factors = lora_factors(frame.adapted, delta)
            suffix = self._suffix(self._frame(unchanged_base, frame.weights))
            return replace(loaded, suffix=suffix, suffix_delta=head_tensors(frame.adapted, delta), factors=factors)
        if frame not in self._suffixes:
            self._suffix(self._frame(unchanged_base, frame.weights))
        return replace(loaded, suffix=self._suffix(frame), suffix_delta=delta)

    def _drop_unread_tokens(self, frame: Frame) -> None:
        """Stop a frame that shares nothing, once, from computing tokens that its head does not read."""
        if frame not in self._verified:
            self._verified.add(frame)
            compute_cls_only(frame)  # unguarded: a new frame, which answers nothing yet

    def _suffix(self, frame: Frame) -> Suffix:
        """Return the frame's suffix, found once; NotCut, also remembered, when it has none."""
        known = self._suffixes.get(frame)
        if known is None:
            known = self._suffixes[frame] = self._find_suffix(frame)
        if isinstance(known, NotCut):
            raise known
        return known

    def _find_suffix(self, frame: Frame) -> Suffix | NotCut:
        prefix_frames = frame.weights.prefix_frames
        holds_base = frame.adapted.method.serves == "head"
        try:
            found = find_suffix(frame, [*prefix_frames, *([frame] if holds_base else [])], self._guard)
        except NotCut as reason:
            return reason
        except Exception as error:
            # A plugin's module or task may raise anything, and its models answer all the same.
            log.info("%s cannot be cut", frame.adapted.task.key(), exc_info=True)
            return NotCut(f"cutting it failed ({type(error).__name__}: {' '.join(str(error).split())[:200]})")
        if found.prefix_frame is frame:
            prefix_frames.add(frame)
        return found

    def _verify(self, loaded: LoadedModel, plan: OpenPlan) -> LoadedModel:
        """Return the model, without its suffix if a shared pass changes the outputs of its frame's first model."""
        if loaded.suffix is None or loaded.frame in self._verified:
            return loaded
        name = str(plan.fetched.version)
        try:
            with self._guard:
                mismatch = shared_pass_mismatch(loaded)
        except Exception as error:
            log.info("%s failed in a shared pass", name, exc_info=True)
            mismatch = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if mismatch:
            self._unshared[plan.key] = _log_unshared(name, NotCut(f"in a shared pass {mismatch}"))
            return replace(loaded, suffix=None)
        self._verified.add(loaded.frame)
        return loaded


@dataclass(frozen=True)
class OpenPlan:
    """Everything that a frame is built from."""

    task: Task
    method: Method
    base: Base
    fetched: Fetched

    @property
    def key(self) -> str:
        """Key of its frame."""
        return _plan_key(self.task, self.method, self.fetched)

    def adapted(self) -> Any:
        """Build the task's model on the base."""
        meta = self.fetched.meta
        return adapt(
            self.base,
            Adaptation(
                task=self.task,
                method=self.method,
                labels=tuple(meta["labels"]),
                seed=int(meta["seed"]),
                dropout=meta.get("dropout"),
            ),
            processor=version_processor(self.task, self.base, self.fetched),
        )

    def context(self, frame: Frame) -> Context:
        """Return the frame's context with the version's own labels."""
        context = frame.adapted.context
        labels = tuple(self.fetched.meta["labels"])
        if labels == context.labels:
            return context
        config = copy(context.config)
        if getattr(config, "id2label", None) is not None:
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: number for number, label in enumerate(labels)}
        return replace(context, labels=labels, config=config)


def _plan_key(task: Task, method: Method, fetched: Fetched) -> str:
    """Return a key that is equal for versions that differ only in their deltas and the names of their labels."""
    files = [entry for entry in fetched.version.manifest.files if entry.name.startswith(f"{PROCESSOR}/")]
    parts = [
        task.model_dump(mode="json"),
        method.model_dump(mode="json"),
        str(fetched.meta["base"]["hash"]),
        len(fetched.meta["labels"]),
        sorted((entry.name, entry.sha256) for entry in files),
    ]
    return json.dumps(parts, sort_keys=True)


def _read_delta(fetched: Fetched) -> tuple[dict[str, Tensor], str]:
    """Return the delta's tensors and its hash, both of the same bytes; Damaged when the hash is wrong."""
    data = fetched.delta.read_bytes()
    found, wanted = hashlib.sha256(data).hexdigest(), fetched.version.manifest.entry(DELTA).sha256
    if found != wanted:
        raise Damaged(
            f"{DELTA} has hash {found[:12]} on this machine and should have {wanted[:12]}", str(fetched.version)
        )
    try:
        with panics_as_damage(DELTA, str(fetched.version)):
            return load(data), found
    except (SafetensorError, ValueError) as error:
        raise Damaged(f"{DELTA} cannot be read: {error}", where=str(fetched.version)) from error


def _log_unshared(name: str, reason: Exception) -> str:
    message = reason.message if isinstance(reason, RegraftError) else str(reason)
    if not isinstance(reason, NothingFrozen):
        log.info("%s and versions like it are computed by passes of their own: %s", name, message)
    return message
