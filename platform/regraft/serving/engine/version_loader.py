"""A version from the store made ready beside others of its base: verified, taken apart, and tried before it answers."""

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
from regraft.serving.engine.base_weights import BaseWeights, Delta, Frame, cast_tensor
from regraft.serving.engine.cls_only import compute_cls_only
from regraft.serving.engine.forward import LoadedModel, Suffix
from regraft.serving.engine.multi_lora import Factors, NotStackable, head_tensors, lora_factors
from regraft.serving.engine.precision import Precision, chosen
from regraft.serving.engine.shared_trunk import agrees, find_suffix
from regraft.serving.predictor import member, own_processor, right_base
from regraft.serving.version_files import DELTA, PROCESSOR, Fetched, fetch
from regraft.store.objects import ObjectStore
from regraft.trunk.cut import NotCut, NothingFrozen

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ServedVersion:
    """A version that is ready to answer."""

    model: str
    version: str
    hash: str
    """The id of its manifest."""
    delta_sha256: str
    """SHA-256 of the file of its delta, in hex."""
    task: Task
    labels: tuple[str, ...]
    meta: Mapping[str, Any]
    """What the version says of itself: metrics, lineage, base."""
    serves: Serving
    """How its method lets it share its base."""
    loaded: LoadedModel = field(repr=False)
    bytes: int = 0
    """What it takes beside its base."""

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"

    @cached_property
    def apart(self) -> LoadedModel:
        """How a row is computed that no shared pass can hold."""
        return replace(self.loaded, suffix=None)

    @property
    def shares(self) -> bool:
        """Whether its rows are computed together with those of other models of its base."""
        return self.loaded.suffix is not None


class VersionLoader:
    """Makes versions ready; what their bases and tasks have in common is made once and kept while any of them is."""

    def __init__(
        self,
        store: ObjectStore,
        device: torch.device,
        precision: Precision,
        bases: Mapping[str, str],
        guard: AbstractContextManager[Any],
    ) -> None:
        self._store, self._device, self._precision, self._bases = store, device, precision, bases
        self._guard = guard
        """Held for every pass on a frame that may be answering."""
        self._building = Lock()
        """transformers builds one model at a time: it changes what belongs to all threads meanwhile."""
        self.weights: WeakValueDictionary[str, BaseWeights] = WeakValueDictionary()
        self._frames: WeakValueDictionary[str, Frame] = WeakValueDictionary()
        self._suffixes: WeakKeyDictionary[Frame, Suffix | NotCut] = WeakKeyDictionary()
        self._tried: WeakSet[Frame] = WeakSet()
        """Frames of which a first model came out in a shared pass as in its own, or that share none."""
        self._apart: dict[str, str] = {}
        """Why versions of a plan are computed by passes of their own: found out once."""

    def open(self, model: str, version: str) -> ServedVersion:
        """The version, ready; NotFound, Damaged, BaseError, WrongBase, UnknownPlugin, Unsupported."""
        fetched = fetch(self._store, f"{model}@{version}")
        task = member(Task, fetched.meta["task"], fetched)  # type: ignore[type-abstract]
        method = member(Method, fetched.meta["method"], fetched)
        tensors, sha256 = _verified(fetched)
        # Held from here on: a frame that is there needs nothing of the base's files, which take long to hash.
        known = self._frames.get(_key(task, method, fetched))
        elsewhere = self._bases.get(str(fetched.meta["base"]["hash"]))
        base = right_base(fetched, elsewhere) if known is None else known.weights.base
        with self._building:
            plan = OpenPlan(task, method, base, fetched)
            weights = self._weights(plan, tensors)
            frame = self._frame(plan, weights)
            check_fit(frame.delta_shapes, tensors)
            delta = weights.deduplicated(
                {name: cast_tensor(t.to(self._device), weights.dtype) for name, t in tensors.items()}
            )
            loaded = self._tried_out(self._own(plan, frame, delta), plan)
        more = sum(up.nbytes for _, up in loaded.factors.values()) if loaded.factors else 0
        return ServedVersion(
            model=model,
            version=version,
            hash=fetched.version.id,
            delta_sha256=sha256,
            task=task,
            labels=loaded.context.labels,
            meta=fetched.meta,
            serves=method.serves,
            loaded=loaded,
            bytes=weights.unshared_bytes(delta) + more,
        )

    def _weights(self, plan: OpenPlan, tensors: Mapping[str, Tensor]) -> BaseWeights:
        found = self.weights.get(plan.base.hash)
        if found is None:
            dtype = torch.bfloat16 if self._precision == "bf16" else torch.float32
            if self._precision == "auto":
                dtype, why = chosen(plan.adapted(), tensors, self._device)
                log.info("%s answers in %s: %s", plan.base.reference, str(dtype).removeprefix("torch."), why)
            found = self.weights[plan.base.hash] = BaseWeights(plan.base, self._device, dtype)
        return found

    def _frame(self, plan: OpenPlan, weights: BaseWeights) -> Frame:
        found = self._frames.get(plan.key)
        if found is None:
            found = self._frames[plan.key] = Frame(plan.adapted(), weights)
        return found

    def _own(self, plan: OpenPlan, frame: Frame, delta: Delta) -> LoadedModel:
        """How the model's rows are computed: behind its base's shared part where that can be, else whole."""
        loaded = LoadedModel(frame, delta, plan.context(frame))
        serves, depth = plan.method.serves, plan.method.depth_of(frame.adapted.anatomy)
        if serves == "whole" and not depth:
            self._alone(frame)
            return loaded  # nothing of it is the base's alone
        if plan.key in self._apart:
            return loaded
        try:
            if type(plan.task).predict_forward is not Task.predict_forward:
                raise NotCut(f"an answer of task {plan.task.key()} takes more than one pass")
            if serves == "head":
                return replace(loaded, suffix=self._suffix(frame), suffix_delta=delta)
            ground = replace(plan, method=FeatureExtraction())
            if serves == "low_rank":
                factors: Factors = lora_factors(frame.adapted, delta)
                suffix = self._suffix(self._frame(ground, frame.weights))
                return replace(loaded, suffix=suffix, suffix_delta=head_tensors(frame.adapted, delta), factors=factors)
            if frame not in self._suffixes:
                self._suffix(self._frame(ground, frame.weights))
            return replace(loaded, suffix=self._suffix(frame), suffix_delta=delta)
        except (NotCut, NotStackable, Unsupported) as reason:
            self._apart[plan.key] = _note(str(plan.fetched.version), reason)
            return loaded

    def _alone(self, frame: Frame) -> None:
        """A frame that shares nothing is spared, once, what its head does not read."""
        if frame not in self._tried:
            self._tried.add(frame)
            compute_cls_only(frame)  # unguarded: it was made a moment ago and answers nobody yet

    def _suffix(self, frame: Frame) -> Suffix:
        """The frame's tail, found once; NotCut, once and for all, when it has none."""
        known = self._suffixes.get(frame)
        if known is None:
            prefix_frames = frame.weights.prefix_frames
            ground = isinstance(frame.adapted.method, FeatureExtraction)
            try:
                known = find_suffix(frame, [*prefix_frames, *([frame] if ground else [])], self._guard)
                if known.prefix_frame is frame:
                    prefix_frames.add(frame)
            except NotCut as reason:
                known = reason
            except Exception as error:
                # A user's own module or task may fail in ways of its own, and its models answer all the same.
                log.info("%s cannot be cut", frame.adapted.task.key(), exc_info=True)
                known = NotCut(f"cutting it failed ({type(error).__name__}: {' '.join(str(error).split())[:200]})")
            self._suffixes[frame] = known
        if isinstance(known, NotCut):
            raise known
        return known

    def _tried_out(self, loaded: LoadedModel, plan: OpenPlan) -> LoadedModel:
        """The same, left to its own passes if the first model of its frame came out otherwise in a shared one."""
        if loaded.suffix is None or loaded.frame in self._tried:
            return loaded
        name = str(plan.fetched.version)
        try:
            with self._guard:
                told = agrees(loaded)
        except Exception as error:
            log.info("%s failed in a shared pass", name, exc_info=True)
            told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if told:
            self._apart[plan.key] = _note(name, NotCut(f"in a shared pass {told}"))
            return replace(loaded, suffix=None)
        self._tried.add(loaded.frame)
        return loaded


@dataclass(frozen=True)
class OpenPlan:
    """What a frame is made of."""

    task: Task
    method: Method
    base: Base
    fetched: Fetched

    @property
    def key(self) -> str:
        """By which its frame is known."""
        return _key(self.task, self.method, self.fetched)

    def adapted(self) -> Any:
        """The task's model on the base, fresh."""
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
            processor=own_processor(self.task, self.base, self.fetched),
        )

    def context(self, frame: Frame) -> Context:
        """The frame's, with the version's own labels."""
        context = frame.adapted.context
        labels = tuple(self.fetched.meta["labels"])
        if labels == context.labels:
            return context
        config = copy(context.config)
        if getattr(config, "id2label", None) is not None:
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: number for number, label in enumerate(labels)}
        return replace(context, labels=labels, config=config)


def _key(task: Task, method: Method, fetched: Fetched) -> str:
    """Equal for versions that differ in their deltas and the names of their labels only."""
    files = [entry for entry in fetched.version.manifest.files if entry.name.startswith(f"{PROCESSOR}/")]
    parts = [
        task.model_dump(mode="json"),
        method.model_dump(mode="json"),
        str(fetched.meta["base"]["hash"]),
        len(fetched.meta["labels"]),
        sorted((entry.name, entry.sha256) for entry in files),
    ]
    return json.dumps(parts, sort_keys=True)


def _verified(fetched: Fetched) -> tuple[dict[str, Tensor], str]:
    """The delta's tensors and its hash, of the very bytes that were hashed."""
    data = fetched.delta.read_bytes()
    found, wanted = hashlib.sha256(data).hexdigest(), fetched.version.manifest.entry(DELTA).sha256
    if found != wanted:
        raise Damaged(
            f"{DELTA} has hash {found[:12]} on this machine and should have {wanted[:12]}", str(fetched.version)
        )
    try:
        return load(data), found
    except (SafetensorError, ValueError) as error:
        raise Damaged(f"{DELTA} cannot be read: {error}", where=str(fetched.version)) from error


def _note(name: str, reason: Exception) -> str:
    told = reason.message if isinstance(reason, RegraftError) else str(reason)
    if not isinstance(reason, NothingFrozen):
        log.info("%s and its likes are computed by passes of their own: %s", name, told)
    return told
