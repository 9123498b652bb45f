"""`regraft doctor`: find out whether this machine can train, store and serve models, and what to do where it cannot.

With an address the cluster is checked from inside too: through its Job API as a job.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.text import Text

from regraft.cli.dispatch import WORK, function
from regraft.cli.doctor.finding import Check, Finding
from regraft.cli.doctor.machine_checks import checks
from regraft.cli.jobs.remote import is_job_api, run_as_job
from regraft.cli.screen import Reply, Screen, store_of
from regraft.errors import RegraftError
from regraft.spec.run import RunSpec
from regraft.spec.sections import ComputeSpec

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(args: argparse.Namespace, screen: Screen) -> Reply:
    """Run every check in turn and show each as it ends; the exit code is 1 if one failed."""
    spec = RunSpec.load(Path(args.spec)) if args.spec else None
    store = spec.store if spec and not args.store else store_of(args.store)
    compute = spec.compute if spec else None
    if args.inside:
        found = list(_run([("cluster", partial(_cluster_checks, args, store, screen))], screen))
        return Reply({"findings": [asdict(finding) for finding in found]})  # the client counts them
    address = args.address or os.environ.get("RAY_ADDRESS")
    findings = list(_run(checks(store, address), screen))
    if address and not any(finding.name == "cluster" and finding.status == "fail" for finding in findings):
        args.compute = compute.model_dump_json() if compute else None
        if is_job_api(address):
            screen.say(f"from inside {address}, as a job:")
            pack = partial(function(WORK["pack doctor"]), store=store, compute=args.compute)
            reply = run_as_job(address, screen, pack, follow_running=False)
            findings += [Finding(**item) for item in reply.document.get("findings", ())]
        else:
            args.address = address
            findings += _run([("cluster", partial(_cluster_checks, args, store, screen))], screen)
    return _summary(findings, screen)


def _cluster_checks(args: argparse.Namespace, store: str, screen: Screen) -> Iterable[Finding]:
    """Run the checks that need a process connected to the cluster's Ray."""
    compute = ComputeSpec.model_validate_json(args.compute) if args.compute else None
    client = json.loads(args.client) if args.client else None
    found: Iterable[Finding] = function(WORK["cluster checks"])(store, args.address, compute, client, note=screen.note)
    return found


def _run(listed: Iterable[tuple[str, Check]], screen: Screen) -> Iterator[Finding]:
    for name, check in listed:
        for finding in _findings(name, check):
            _show(finding, screen)
            yield finding


def _findings(name: str, check: Check) -> Iterator[Finding]:
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


def _summary(findings: list[Finding], screen: Screen) -> Reply:
    failed = sum(finding.status == "fail" for finding in findings)
    warned = sum(finding.status == "warn" for finding in findings)
    screen.say()
    screen.say(f"{failed} failed, {warned} to look at, {len(findings) - failed - warned} fine")
    return Reply({"findings": [asdict(finding) for finding in findings]}, code=1 if failed else 0)
