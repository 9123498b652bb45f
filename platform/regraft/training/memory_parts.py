"""The memory of one worker by part: the only place where it is counted, for plan, budget and the check before a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from regraft.bases.adapted import Adapted
from regraft.contracts import under
from regraft.spec.run import RunSpec
from regraft.training.distribute import precision
from regraft.training.harness import Harness
from regraft.training.pass_memory import PassMemory

PASSES = ("activations", "logits")
"""The parts that depend on the rows of a batch."""
HALF_SHARE = 0.6
"""Share of the memory of a pass in fp32 that one in 16-bit arithmetic takes: norms and sums stay in fp32."""

ALLOCATOR_SHARE = 0.7
"""Share of the activations that the C library's allocator holds beside them on a CPU: gaps between tensors of changing
sizes. With a fixed M_MMAP_THRESHOLD there are none, and steps are slower."""


@dataclass(frozen=True, slots=True)
class ModelBytes:
    """Bytes of an adapted model's tensors."""

    weights: int
    """Every parameter and buffer."""
    moving: int
    """The parameters that training moves."""
    blocks: int
    """The parameters of blocks, which a sharded model gathers and casts one by one."""
    cast: int
    """The parameters of layers that gradients pass through, which 16-bit arithmetic holds once more."""


@dataclass(frozen=True, slots=True)
class WorkerSite:
    """Where a worker trains, as far as its memory depends on it."""

    world: int
    here: int
    """Workers of this machine."""
    gpu: bool
    half: bool
    """Whether passes are computed in 16 bits."""


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """Bytes of one worker at its peak, by part."""

    device: Mapping[str, int]
    """On the GPU; on a CPU, the part of the process that steps need."""
    host: Mapping[str, int] = field(default_factory=dict)
    """In the process beside that."""
    gpu: bool = False

    @property
    def device_total(self) -> int:
        """Bytes on the GPU, or of the process on a CPU."""
        return sum(self.device.values()) + (0 if self.gpu else self.host_total)

    @property
    def host_total(self) -> int:
        """Bytes of the process beside those of the device."""
        return sum(self.host.values())

    def document(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {"device": dict(self.device), "host": dict(self.host), "gpu": self.gpu}


def site_of(spec: RunSpec, harness: Harness) -> WorkerSite:
    """Return where a rank trains, as memory depends on it."""
    half = precision(spec.compute, harness.device) != "no"
    return WorkerSite(harness.world, harness.here, harness.device.type == "cuda", half)


def model_bytes(adapted: Adapted) -> ModelBytes:
    """Count a model's tensors, with or without values."""
    model, anatomy = adapted.model, adapted.anatomy
    parameters = {name: one.numel() * one.element_size() for name, one in model.named_parameters()}
    buffers = sum(one.numel() * one.element_size() for one in model.buffers())
    moving = {name for name, one in model.named_parameters() if one.requires_grad}
    first = next((place for place, block in enumerate(anatomy.blocks) if any(under(n, (block,)) for n in moving)), None)
    passed = anatomy.blocks[first:] if first is not None else ()
    return ModelBytes(
        weights=sum(parameters.values()) + buffers,
        moving=sum(parameters[name] for name in moving),
        blocks=sum(count for name, count in parameters.items() if under(name, anatomy.blocks)),
        cast=sum(count for name, count in parameters.items() if name in moving or under(name, passed)),
    )


def worker_memory(
    spec: RunSpec, size: ModelBytes, site: WorkerSite, passes: PassMemory | None, *, beside: Mapping[str, int]
) -> WorkerMemory:
    """Return the memory of one worker while it trains.

    `passes` are those of its micro-batch; None leaves them out. `beside` is what the process holds besides the model:
    kept features, the processor, libraries.
    """
    closed = spec.method.closed_form
    moving = 0 if closed else size.moving
    moments = moving * (1 if spec.training.optimizer == "sgd" else 2)
    sharded = spec.compute.strategy == "fsdp" and site.world > 1 and not closed
    shards = site.world if sharded else 1
    device = {
        "weights": size.weights // shards,
        "gradients": moving // shards,
        "optimizer": moments // shards,
        # Several ranks also hold the buckets in which gradients are exchanged.
        **({"exchange": moving // shards} if site.world > 1 else {}),
    }
    if sharded:
        device["gathered"] = _gathered(spec, size, site)
    elif site.half:
        device["cast weights"] = size.cast // 2
    if passes is not None:
        device |= _passes(passes, site)
    checkpoint = {"checkpoint copy": moving + moments}
    if not site.gpu and passes is not None:
        checkpoint["allocator"] = round(ALLOCATOR_SHARE * device["activations"])
    loaded = {"loading": size.weights} if site.gpu else {}
    return WorkerMemory(device, {**checkpoint, **loaded, **beside}, gpu=site.gpu)


def _gathered(spec: RunSpec, size: ModelBytes, site: WorkerSite) -> int:
    """Return what a worker of a sharded model holds of the others' shards.

    16-bit copies of all blocks live from the forward to the backward pass, and with several micro-batches whole
    gradients do; what is outside the blocks stays gathered.
    """
    root = size.weights - size.blocks
    copies = size.blocks // 2 if site.half else 0
    return root + copies + (size.moving if spec.training.accumulation > 1 else 0)


def _passes(passes: PassMemory, site: WorkerSite) -> dict[str, int]:
    share = HALF_SHARE if site.half else 1.0
    most = max(passes.training, passes.evaluation)
    logits = min(passes.logits, most)
    return {"activations": round(share * (most - logits)), "logits": logits}
