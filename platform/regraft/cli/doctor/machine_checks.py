"""Checks of this machine, of a store and of a cluster's address, as `regraft doctor` runs them.

Nothing here uses the network unless the store or the address lies on it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from uuid import uuid4

import psutil
import torch
from packaging.requirements import Requirement

from regraft.cli.doctor import probes
from regraft.cli.doctor.finding import Check, Finding
from regraft.errors import Conflict, StoreError
from regraft.store.objects import PROBE, ObjectStore, open_store
from regraft.units import bytes_text

_GB = 10**9
_REQUIRED = (
    "torch",
    "ray",
    "transformers",
    "peft",
    "accelerate",
    "pydantic",
    "pyarrow",
    "safetensors",
    "huggingface_hub",
)


def checks(store: str, address: str | None) -> list[tuple[str, Check]]:
    """Return every check with its name, quick ones first."""
    listed: list[tuple[str, Check]] = [
        ("versions", versions),
        ("processor", processor),
        ("memory", memory),
        ("disk", partial(disk, store)),
        ("shared memory", shared_memory),
        ("gpu", gpu),
        ("ray token", token),
        ("store", partial(store_round_trip, store)),
        ("two processes", ring),
    ]
    return [*listed, ("cluster", partial(cluster, address))] if address else listed


def versions() -> Iterator[Finding]:
    """Compare Python and the libraries with what the installed package requires."""
    yield Finding("python", "ok", f"{sys.version.split()[0]} in {sys.prefix}")
    try:
        required = [Requirement(line) for line in requires("regraft") or () if "extra ==" not in line]
    except PackageNotFoundError:
        todo = "pip install it, so that versions can be compared"
        yield Finding("regraft", "warn", "runs from a source tree and is not installed", todo)
        required = []
    wanted = {need.name: need for need in required}
    for name in _REQUIRED:
        yield _installed(name, wanted.get(name))


def _installed(name: str, need: Requirement | None) -> Finding:
    wanted = str(need.specifier) if need else ""
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, "fail", f"is not installed; wanted {wanted or 'any'}", f"pip install '{need or name}'")
    if need and not need.specifier.contains(found, prereleases=True):
        return Finding(name, "fail", f"{found}; wanted {wanted}", f"pip install '{need}'")
    return Finding(name, "ok", f"{found}{f' ({wanted})' if wanted else ''}")


def processor() -> Iterator[Finding]:
    """Compare the CPUs that this process may use with the threads that torch takes."""
    usable = probes.cpus()
    variable = os.environ.get("OMP_NUM_THREADS")
    text = f"{usable:g} CPUs, {torch.get_num_threads()} threads in this process"
    if variable:
        text += f" (OMP_NUM_THREADS={variable})"
    if torch.get_num_threads() > max(1, usable):
        todo = f"set OMP_NUM_THREADS={max(1, int(usable))}: more threads than CPUs slow one another down"
        yield Finding("processor", "warn", text, todo)
    else:
        yield Finding("processor", "ok", text)


def memory() -> Iterator[Finding]:
    """Measure the free memory within the machine's size or the container's limit."""
    limit, used = probes.memory()
    free = max(limit - used, 0)
    text = f"{bytes_text(free)} free of {bytes_text(limit)}"
    if free < 2 * _GB:
        yield Finding("memory", "warn", text, "close something, or use small bases: one worker takes about 1.5 GB")
    else:
        yield Finding("memory", "ok", text)


def disk(store: str) -> Iterator[Finding]:
    """Measure the free space of the file systems of the store, downloaded bases and Ray's session."""
    places = {"disk: cache": Path(os.environ.get("REGRAFT_CACHE") or "~/.cache/regraft").expanduser()}
    places["disk: temporary"] = Path(tempfile.gettempdir())
    if "://" not in store:
        places["disk: store"] = Path(store).expanduser().absolute()
    for name, place in places.items():
        existing = next(folder for folder in (place, *place.parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        low = free < 2 * _GB
        todo = "free some space: bases, checkpoints and Ray's session need it" if low else ""
        yield Finding(name, "warn" if low else "ok", f"{bytes_text(free)} free at {place}", todo)


def shared_memory() -> Iterator[Finding]:
    """Measure /dev/shm, where Ray keeps its object store."""
    folder = Path("/dev/shm")
    if not folder.exists():
        yield Finding("shared memory", "ok", "this system has no /dev/shm; Ray uses files")
        return
    free = shutil.disk_usage(folder).free
    wanted = min(2 * _GB, int(0.3 * psutil.virtual_memory().total))
    low = free < wanted
    todo = "docker run --shm-size=2g (Kubernetes: an emptyDir with medium Memory at /dev/shm)" if low else ""
    yield Finding("shared memory", "warn" if low else "ok", f"{bytes_text(free)} free at /dev/shm", todo)


def gpu() -> Iterator[Finding]:
    """List every GPU with its memory and whether it has bf16."""
    if not torch.cuda.is_available():
        yield Finding(
            "gpu", "ok", f"none that this torch ({torch.__version__}) can use: training runs on the CPU in fp32"
        )
        return
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        half = device.major >= 8
        text = (
            f"{device.name}, {bytes_text(device.total_memory)}, {'bf16' if half else 'no bf16: precision auto is fp32'}"
        )
        yield Finding(f"gpu {number}", "ok", text)


def token() -> Iterator[Finding]:
    """Check that a Ray started here asks for a token: its processes listen on every interface."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if mode.lower() == "disabled":
        todo = "unset RAY_AUTH_MODE, or set it to token, unless no one else can reach this machine"
        yield Finding(
            "ray token", "warn", "RAY_AUTH_MODE=disabled: everyone who reaches Ray's ports can run code", todo
        )
    elif mode and mode.lower() != "token":
        yield Finding(
            "ray token", "fail", f"RAY_AUTH_MODE={mode} is written; allowed are token, disabled", "correct it"
        )
    else:
        yield Finding("ray token", "ok", "a Ray started here asks for a token")


def store_round_trip(url: str) -> Iterator[Finding]:
    """Write, read and delete an object, and try the conditional writes that versions and aliases need."""
    store = open_store(url)
    store.check()
    yield Finding("store", "ok", f"{store.url}: written, read back and deleted")
    conditional_writes(store)
    yield Finding("store: writes", "ok", "put_if_absent and put_if_match let one writer win")


def conditional_writes(store: ObjectStore) -> None:
    """Raise StoreError if the server ignores the conditions of writes: it would lose versions silently."""
    key = f"{PROBE}{uuid4().hex}"
    first, second, third = (uuid4().bytes for _ in range(3))
    try:
        store.put_if_absent(key, first)
        if _succeeds(lambda: store.put_if_absent(key, second)):
            raise StoreError(
                "put_if_absent wrote over an object (If-None-Match is ignored): use another server", store.url
            )
        _, tag = store.read(key)
        store.put_if_match(key, second, tag)
        if _succeeds(lambda: store.put_if_match(key, third, tag)):
            raise StoreError(
                "put_if_match wrote over a newer object (If-Match is ignored): use another server", store.url
            )
        if store.get(key) != second:
            raise StoreError("it does not return what was written last: use another server", store.url)
    finally:
        store.delete([key])


def _succeeds(write: Callable[[], None]) -> bool:
    try:
        write()
    except Conflict:
        return False
    return True


def ring() -> Iterator[Finding]:
    """Have two processes sum a number over gloo on the loopback interface, as two workers do."""
    seconds, error = probes.ring()
    if error:
        todo = "workers could not train together: look at the firewall, GLOO_SOCKET_IFNAME, and /etc/hosts"
        yield Finding("two processes", "fail", error, todo)
    else:
        yield Finding("two processes", "ok", f"gloo on loopback summed right ({seconds:.1f} s with starting)")


def cluster(address: str) -> Iterator[Finding]:
    """Check that something answers at the cluster's address."""
    error = probes.connection_error(address)
    if error:
        todo = "is it up and reachable from here? `kubectl port-forward svc/...-head-svc 8265` opens a way"
        yield Finding("cluster", "fail", f"{address}: {error}", todo)
    else:
        yield Finding("cluster", "ok", f"{address} answers")
