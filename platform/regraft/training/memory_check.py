"""The check that a run fits into this machine's memory, made before its first step.

It counts what every run of its kind needs (`memory_parts`): weights, gradients, the optimizer's moments, the one copy
from which checkpoints are written, and activations where the model is not small. A run that passes may still be too
large. It then ends with an error that says what to make smaller.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from regraft.bases.adapted import Adapted
from regraft.bases.locate import Base
from regraft.errors import RequestError, RunError
from regraft.spec.run import RunSpec
from regraft.training.harness import Harness
from regraft.training.memory_parts import PASSES, model_bytes, site_of, worker_memory
from regraft.training.pass_memory import PassMemory
from regraft.units import bytes_text

_CGROUPS = Path("/sys/fs/cgroup")
_FILES = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""For control groups v2 and v1: the controller, its limit, its use, and the part of the use that is reclaimable."""
CERTAIN = 0.85
"""Share of the activations of the longest rows without which a run is refused."""
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory")


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that a run needs in one kind of memory, and the bytes that are free there."""

    what: str
    """What needs the memory, for the message."""
    bytes: int
    free: int


def check_weights_fit(base: Base, harness: Harness) -> None:
    """Raise RequestError, on every rank, when the base's weights do not fit into memory."""
    what = f"{base.reference} in fp32{many(harness)}"
    need = MemoryNeed(what, weight_bytes(base) * harness.here, available())
    check_fits(harness, need, where="base", advice="use a smaller base")


def check_steps_fit(spec: RunSpec, adapted: Adapted, harness: Harness, passes: PassMemory | None = None) -> None:
    """Raise RequestError, on every rank, when the loaded model leaves too little memory for the steps.

    `passes` are counted on the first rank, which decides; without them activations are left out.
    """
    if spec.method.closed_form:
        return
    size = model_bytes(adapted)
    memory = worker_memory(spec, size, site_of(spec, harness), passes, beside={})
    parts = {name: count for name, count in memory.device.items() if name != "weights"}
    # Activations are those of the longest rows: what is counted may be more than any batch needs.
    rank = sum(round(CERTAIN * count) if name in PASSES else count for name, count in parts.items())
    copy = memory.host["checkpoint copy"]
    beside = ", activations" if passes else ""
    what = f"gradients, moments{beside} and a checkpoint of what {spec.method.key()} moves ({bytes_text(size.moving)})"
    if memory.gpu:
        free, _ = torch.cuda.mem_get_info(harness.device)
        weights = memory.device["weights"]
        needs = [MemoryNeed(f"on the GPU, {what}", weights + rank, free), MemoryNeed(what, copy, available())]
    else:
        needs = [MemoryNeed(what + many(harness), rank * harness.here + copy, available())]
    advice = "write method: lora" if spec.method.serves == "whole" else "use a smaller base"
    for need in needs:
        check_fits(harness, need, where="method", advice=advice)


def check_fits(harness: Harness, need: MemoryNeed, *, where: str, advice: str) -> None:
    """Raise RequestError on every rank when the first finds too little memory; none allocates before it has checked."""
    message = None
    if need.bytes > need.free:
        fewer = ", write fewer compute.workers" if harness.here > 1 else ""
        message = (
            f"{need.what}: {bytes_text(need.bytes)} of memory are needed and {bytes_text(need.free)} are free: "
            f"{advice}{fewer}, or take a machine with more"
        )
    message = harness.from_first(message)
    if message is not None:
        raise RequestError(message, where=where)


def many(harness: Harness) -> str:
    """Return for how many ranks of this machine memory is counted, as text; empty for one."""
    return f" for {harness.here} workers on one machine" if harness.here > 1 else ""


def weight_bytes(base: Base) -> int:
    """Return the bytes of the base's loaded weights: four for every number, whatever the file stores."""
    return sum(4 * count for path in base.path.glob("*.safetensors") for count in _counts(path))


def _counts(path: Path) -> Iterator[int]:
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    for name, entry in header.items():
        if name != "__metadata__":
            yield torch.Size(entry["shape"]).numel()


def available() -> int:
    """Return the bytes that are free: on the machine, and in the container that this process runs in."""
    return min([psutil.virtual_memory().available, *container_limits()])


def container_limits(root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return the free bytes of each control group of this process; psutil counts the machine, a pod has less."""
    try:
        paths = dict(line.split(":", 2)[1:] for line in own.read_text().splitlines())
    except (OSError, ValueError):
        return []
    found = []
    for controller, *names in _FILES:
        at = Path(paths.get(controller, "/").lstrip("/"))
        # A container sees its own group at the root of the mount, or at the path under which the machine has it.
        found += [_free_bytes(root / controller / folder, *names) for folder in (at, *at.parents)]
    return [free for free in found if free is not None]


def _free_bytes(folder: Path, limit: str, use: str, reclaimable: str) -> int | None:
    try:
        most, used = int((folder / limit).read_text()), int((folder / use).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, most - used + int(stat.get(reclaimable, 0)))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None


@contextmanager
def explain_out_of_memory(spec: RunSpec) -> Iterator[None]:
    """Turn running out of memory into a RunError that says what to make smaller."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and not any(sign in text.lower() for sign in _OUT_OF_MEMORY):
            raise
        training = spec.training
        raise RunError(
            f"memory ran out ({text[:200] or type(error).__name__}): lower training.batch_size ({training.batch_size}) "
            f"or raise training.accumulation ({training.accumulation}), or turn on compute.activation_checkpointing",
            where="memory",
        ) from error
