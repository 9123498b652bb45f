"""Does a run fit into this machine's memory? Asked before its first step, and answered by refusing what cannot.

Counted is what every run of its kind holds for certain: weights, gradients, the optimizer's moments, and the one copy
from which checkpoints are written. Activations come on top and depend on the rows, so a run that passes may still be
too large: what then runs out of memory ends as an error that says what to make smaller.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from regraft.bases.adapted import Adapted
from regraft.bases.locate import Base
from regraft.errors import RequestError, RunError
from regraft.spec.run import RunSpec
from regraft.training.harness import Harness
from regraft.units import bytes_text

_CGROUPS = Path("/sys/fs/cgroup")
_FILES = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of control groups v2 and v1: the controller, its limit, its use, and the part of the use that can be given back."""
_REFUSED = ("can't allocate memory", "out of memory")


def check_weights_fit(base: Base, harness: Harness) -> None:
    """RequestError, on every rank, when not even the weights fit."""
    what = f"{base.reference} in fp32{many(harness)}"
    refuse(harness, "base", weight_bytes(base) * harness.here, available(), what, "use a smaller base")


def check_steps_fit(spec: RunSpec, adapted: Adapted, harness: Harness) -> None:
    """RequestError, on every rank, when the loaded model leaves too little for the steps."""
    if spec.method.closed_form:
        return
    moving = sum(p.numel() * p.element_size() for p in adapted.model.parameters() if p.requires_grad)
    moments = 1 if spec.training.optimizer == "sgd" else 2
    shards = harness.world if spec.compute.strategy == "fsdp" else 1
    # Several ranks also keep the buckets in which gradients travel.
    rank = moving * (1 + moments + (harness.world > 1)) // shards
    copy = moving * (1 + moments)
    what = f"gradients, moments and a checkpoint of what {spec.method.key()} moves ({bytes_text(moving)})"
    less = "write method: lora" if spec.method.serves == "whole" else "use a smaller base"
    if harness.device.type == "cuda":
        whole = sum(p.numel() * p.element_size() for p in adapted.model.parameters()) // shards
        free, _ = torch.cuda.mem_get_info(harness.device)
        refuse(harness, "method", whole + rank, free, f"on the GPU, {what}", less)
        refuse(harness, "method", copy, available(), what, less)
    else:
        refuse(harness, "method", rank * harness.here + copy, available(), what + many(harness), less)


def refuse(harness: Harness, where: str, need: int, free: int, what: str, less: str) -> None:
    """RequestError on every rank when the first finds too little; none takes memory before the first has looked."""
    told = None
    if need > free:
        fewer = ", write fewer compute.workers" if harness.here > 1 else ""
        told = (
            f"{what}: {bytes_text(need)} of memory are needed and {bytes_text(free)} are free: {less}{fewer}, "
            "or take a machine with more"
        )
    told = harness.from_first(told)
    if told is not None:
        raise RequestError(told, where=where)


def many(harness: Harness) -> str:
    """How many ranks share this machine's memory, where it is more than one."""
    return f" for {harness.here} workers on one machine" if harness.here > 1 else ""


def weight_bytes(base: Base) -> int:
    """Bytes of the base's weights once loaded: four for every number, whatever the file stores."""
    return sum(4 * count for path in base.path.glob("*.safetensors") for count in _counts(path))


def _counts(path: Path) -> Iterator[int]:
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    for name, entry in header.items():
        if name != "__metadata__":
            yield torch.Size(entry["shape"]).numel()


def available() -> int:
    """Bytes that can be had: of the machine, and of the container that this process is in."""
    return min([psutil.virtual_memory().available, *container_rooms()])


def container_rooms(root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What the limits of this process's control groups leave; psutil tells of the whole machine, a pod has less."""
    try:
        paths = dict(line.split(":", 2)[1:] for line in own.read_text().splitlines())
    except (OSError, ValueError):
        return []
    rooms = []
    for controller, *names in _FILES:
        at = Path(paths.get(controller, "/").lstrip("/"))
        # A container may see its own group at the root of the mount, or at the path that the machine knows it by.
        rooms += [_room(root / controller / folder, *names) for folder in (at, *at.parents)]
    return [room for room in rooms if room is not None]


def _room(folder: Path, limit: str, use: str, reclaimable: str) -> int | None:
    try:
        most, used = int((folder / limit).read_text()), int((folder / use).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, most - used + int(stat.get(reclaimable, 0)))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None


@contextmanager
def explain_out_of_memory(spec: RunSpec) -> Iterator[None]:
    """RunError, with what to make smaller, in place of what torch says when memory runs out during the steps."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and not any(sign in text.lower() for sign in _REFUSED):
            raise
        training = spec.training
        raise RunError(
            f"memory ran out ({text[:200] or type(error).__name__}): lower training.batch_size ({training.batch_size}) "
            f"or raise training.accumulation ({training.accumulation}), or turn on compute.activation_checkpointing",
            where="memory",
        ) from error
