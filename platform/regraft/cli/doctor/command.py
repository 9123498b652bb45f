"""`regraft doctor`: whether this machine can train, keep and serve models, and what to do where it cannot.

Nothing here uses the network unless the store or the address that is asked about lies on it. With an address the
cluster is looked at from inside too: through its Job API as a job.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from uuid import uuid4

import psutil
import torch
from packaging.requirements import Requirement
from rich.text import Text

from regraft.cli.dispatch import WORK, function
from regraft.cli.doctor import probes
from regraft.cli.doctor.finding import Check, Finding
from regraft.cli.jobs.remote import elsewhere, there
from regraft.cli.screen import Reply, Screen, size, store_of
from regraft.errors import Conflict, RegraftError, StoreError
from regraft.spec.run import RunSpec
from regraft.spec.sections import ComputeSpec
from regraft.store.objects import PROBE, ObjectStore, open_store

_GB = 10**9
_STANDS_ON = (
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
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(args: argparse.Namespace, screen: Screen) -> Reply:
    """Run every check, one after the other, each shown as it ends; exit code 1 when one failed."""
    spec = RunSpec.load(Path(args.spec)) if args.spec else None
    store = spec.store if spec and not args.store else store_of(args.store)
    compute = spec.compute if spec else None
    if args.inside:
        found = list(_shown([("cluster", partial(_inside, args, store, screen))], screen))
        return Reply({"findings": [asdict(finding) for finding in found]})  # summed by the client
    address = args.address or os.environ.get("RAY_ADDRESS")
    findings = list(_shown(checks(store, address), screen))
    if address and not any(finding.name == "cluster" and finding.status == "fail" for finding in findings):
        args.compute = compute.model_dump_json() if compute else None
        if elsewhere(address):
            screen.say(f"from inside {address}, as a job:")
            pack = partial(function(WORK["pack doctor"]), store=store, compute=args.compute)
            reply = there(address, screen, pack, again=False)
            findings += [Finding(**item) for item in reply.document.get("findings", ())]
        else:
            args.address = address
            findings += _shown([("cluster", partial(_inside, args, store, screen))], screen)
    return _summed(findings, screen)


def _inside(args: argparse.Namespace, store: str, screen: Screen) -> Iterable[Finding]:
    """The checks that are made from inside the cluster, by a process that its Ray lets in."""
    compute = ComputeSpec.model_validate_json(args.compute) if args.compute else None
    client = json.loads(args.client) if args.client else None
    found: Iterable[Finding] = function(WORK["inside"])(store, args.address, compute, client, screen.note)
    return found


def _shown(listed: Iterable[tuple[str, Check]], screen: Screen) -> Iterator[Finding]:
    for name, check in listed:
        for finding in _answer(name, check):
            _show(finding, screen)
            yield finding


def _summed(findings: list[Finding], screen: Screen) -> Reply:
    failed = sum(finding.status == "fail" for finding in findings)
    warned = sum(finding.status == "warn" for finding in findings)
    screen.say()
    screen.say(f"{failed} failed, {warned} to look at, {len(findings) - failed - warned} fine")
    return Reply({"findings": [asdict(finding) for finding in findings]}, code=1 if failed else 0)


def checks(store: str, address: str | None) -> list[tuple[str, Check]]:
    """Every check with its name, quick ones first."""
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


def _answer(name: str, check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except RegraftError as error:
        yield Finding(name, "fail", str(error), "see the message")
    except Exception as error:  # a check that breaks is a finding, and the others still run
        yield Finding(name, "fail", f"{type(error).__name__}: {error}", "report it, with `regraft version`")


def _show(finding: Finding, screen: Screen) -> None:
    mark = (f"{finding.status:<4}", _COLOURS[finding.status])
    screen.say(Text.assemble(mark, "  ", (f"{finding.name:<16}", "dim"), finding.found))
    if finding.todo:
        screen.say(f"{'':<22}→ {finding.todo}")


def versions() -> Iterator[Finding]:
    """Python and the libraries against what the installed package asks for."""
    yield Finding("python", "ok", f"{sys.version.split()[0]} in {sys.prefix}")
    try:
        needs = [Requirement(line) for line in requires("regraft") or () if "extra ==" not in line]
    except PackageNotFoundError:
        todo = "pip install it, so that versions can be compared"
        yield Finding("regraft", "warn", "runs from a source tree and is not installed", todo)
        needs = []
    wanted = {need.name: need for need in needs}
    for name in _STANDS_ON:
        yield _installed(name, wanted.get(name))


def _installed(name: str, need: Requirement | None) -> Finding:
    asked = str(need.specifier) if need else ""
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, "fail", f"is not installed; wanted {asked or 'any'}", f"pip install '{need or name}'")
    if need and not need.specifier.contains(found, prereleases=True):
        return Finding(name, "fail", f"{found}; wanted {asked}", f"pip install '{need}'")
    return Finding(name, "ok", f"{found}{f' ({asked})' if asked else ''}")


def processor() -> Iterator[Finding]:
    """CPUs this process may use, and the threads that torch takes."""
    usable = probes.cpus()
    asked = os.environ.get("OMP_NUM_THREADS")
    told = f"{usable:g} CPUs, {torch.get_num_threads()} threads in this process"
    if asked:
        told += f" (OMP_NUM_THREADS={asked})"
    if torch.get_num_threads() > max(1, usable):
        todo = f"set OMP_NUM_THREADS={max(1, int(usable))}: more threads than CPUs slow one another down"
        yield Finding("processor", "warn", told, todo)
    else:
        yield Finding("processor", "ok", told)


def memory() -> Iterator[Finding]:
    """Memory that can be had now, and the container's limit."""
    limit, used = probes.memory()
    free = max(limit - used, 0)
    told = f"{size(free)} free of {size(limit)}"
    if free < 2 * _GB:
        yield Finding("memory", "warn", told, "close something, or use small bases: one worker takes about 1.5 GB")
    else:
        yield Finding("memory", "ok", told)


def disk(store: str) -> Iterator[Finding]:
    """Free space where the store, downloaded bases and Ray's session lie."""
    places = {"disk: cache": Path(os.environ.get("REGRAFT_CACHE") or "~/.cache/regraft").expanduser()}
    places["disk: temporary"] = Path(tempfile.gettempdir())
    if "://" not in store:
        places["disk: store"] = Path(store).expanduser().absolute()
    for name, place in places.items():
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        free = shutil.disk_usage(there).free
        low = free < 2 * _GB
        todo = "free some space: bases, checkpoints and Ray's session need it" if low else ""
        yield Finding(name, "warn" if low else "ok", f"{size(free)} free at {place}", todo)


def shared_memory() -> Iterator[Finding]:
    """/dev/shm, where Ray keeps its object store."""
    there = Path("/dev/shm")
    if not there.exists():
        yield Finding("shared memory", "ok", "this system has no /dev/shm; Ray uses files")
        return
    free = shutil.disk_usage(there).free
    wanted = min(2 * _GB, int(0.3 * psutil.virtual_memory().total))
    low = free < wanted
    todo = "docker run --shm-size=2g (Kubernetes: an emptyDir with medium Memory at /dev/shm)" if low else ""
    yield Finding("shared memory", "warn" if low else "ok", f"{size(free)} free at /dev/shm", todo)


def gpu() -> Iterator[Finding]:
    """Every GPU with its memory and whether it has bf16."""
    if not torch.cuda.is_available():
        yield Finding(
            "gpu", "ok", f"none that this torch ({torch.__version__}) can use: training runs on the CPU in fp32"
        )
        return
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        half = device.major >= 8
        told = f"{device.name}, {size(device.total_memory)}, {'bf16' if half else 'no bf16: precision auto is fp32'}"
        yield Finding(f"gpu {number}", "ok", told)


def token() -> Iterator[Finding]:
    """Whether a Ray started here asks for a token: its processes listen on every interface."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if mode.lower() == "disabled":
        todo = "unset RAY_AUTH_MODE, or set it to token, unless nobody else can reach this machine"
        yield Finding("ray token", "warn", "RAY_AUTH_MODE=disabled: whoever reaches Ray's ports can run code", todo)
    elif mode and mode.lower() != "token":
        yield Finding(
            "ray token", "fail", f"RAY_AUTH_MODE={mode} is written; allowed are token, disabled", "correct it"
        )
    else:
        yield Finding("ray token", "ok", "a Ray started here asks for a token")


def store_round_trip(url: str) -> Iterator[Finding]:
    """Write, read, conditional writes, delete: what checkpoints, versions and aliases stand on."""
    store = open_store(url)
    store.check()
    yield Finding("store", "ok", f"{store.url}: written, read back and deleted")
    conditional_writes(store)
    yield Finding("store: writes", "ok", "put_if_absent and put_if_match let one writer win")


def conditional_writes(store: ObjectStore) -> None:
    """A server that ignores the condition loses versions silently, so it is asked in earnest; StoreError then."""
    key = f"{PROBE}{uuid4().hex}"
    first, second, third = (uuid4().bytes for _ in range(3))
    try:
        store.put_if_absent(key, first)
        if _goes_through(lambda: store.put_if_absent(key, second)):
            raise StoreError(
                "put_if_absent wrote over an object (If-None-Match is ignored): use another server", store.url
            )
        _, tag = store.read(key)
        store.put_if_match(key, second, tag)
        if _goes_through(lambda: store.put_if_match(key, third, tag)):
            raise StoreError(
                "put_if_match wrote over a newer object (If-Match is ignored): use another server", store.url
            )
        if store.get(key) != second:
            raise StoreError("it does not give back what was written last: use another server", store.url)
    finally:
        store.delete([key])


def _goes_through(write: Callable[[], None]) -> bool:
    try:
        write()
    except Conflict:
        return False
    return True


def ring() -> Iterator[Finding]:
    """Two processes that sum a number over gloo on the loopback interface, as two workers do."""
    seconds, trouble = probes.ring()
    if trouble:
        todo = "workers could not train together: look at the firewall, GLOO_SOCKET_IFNAME, and /etc/hosts"
        yield Finding("two processes", "fail", trouble, todo)
    else:
        yield Finding("two processes", "ok", f"gloo on loopback summed right ({seconds:.1f} s with starting)")


def cluster(address: str) -> Iterator[Finding]:
    """Whether something answers at the cluster's address."""
    trouble = probes.answers(address)
    if trouble:
        todo = "is it up and reachable from here? `kubectl port-forward svc/...-head-svc 8265` opens a way"
        yield Finding("cluster", "fail", f"{address}: {trouble}", todo)
    else:
        yield Finding("cluster", "ok", f"{address} answers")
