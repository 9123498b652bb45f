"""`regraft serve`: serve models over HTTP until Ctrl-C; `regraft key`: make an API key."""

from __future__ import annotations

import argparse
import contextlib
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from regraft.cli.dispatch import WORK, function
from regraft.cli.jobs.remote import is_job_api
from regraft.cli.screen import Reply, Screen, store_of
from regraft.cli.signals import ended_by_signals
from regraft.endpoint.api_keys import ApiKey, append, hashed, new_key
from regraft.errors import RequestError
from regraft.spec.serve import EVERY, ServeSpec
from regraft.store import names
from regraft.store.names import LATEST
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.units import seconds_text

_HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"


def serve(args: argparse.Namespace, screen: Screen) -> Reply:
    """Serve models until Ctrl-C or SIGTERM (`serve`)."""
    if is_job_api(args.address):
        raise RequestError(
            f"{args.address} is a cluster's Job API, and an endpoint never ends as a job does: submit it by `ray "
            f"job submit --no-wait --address {args.address} --working-dir . -- python jobs/serve.py ...`, have a "
            "RayService serve it (helm/regraft, mode=service), or give the cluster's own address, host:6379",
            where="--address",
        )
    spec = spec_of(args)
    _refuse_unknown(spec)
    local = args.replicas == 0
    if spec.proxy == "haproxy" and not local:
        os.environ[_HAPROXY] = "1"  # Serve reads it when it is imported
    began = time.monotonic()
    screen.note(f"opening {_models(spec)} of {spec.store}" + ("" if local else " on Ray Serve"))
    work = function(WORK["serve here" if local else "serve"])
    with ended_by_signals(), work(spec, args.address) as url:
        _show_usage(spec, url, screen, time.monotonic() - began)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        screen.note("ending: answering the requests that have begun")
    return Reply({"url": url, "models": list(spec.models), "store": spec.store, "seconds": time.monotonic() - began})


def spec_of(args: argparse.Namespace) -> ServeSpec:
    """Return the spec of a command line: a YAML file, or models and options; options override the file."""
    files = _files(args)
    if files and len(args.models) > 1:
        raise RequestError(f"{files[0]} is a spec, which names its models itself: leave out the others", where="MODEL")
    overrides = {key: value for key, value in _options(args).items() if value is not None}
    if files:
        return ServeSpec.load(Path(files[0]), overrides=overrides)
    document: dict[str, Any] = {"models": args.models or [EVERY], "store": store_of(args.store)}
    return ServeSpec.resolve(document, overrides=overrides)


def _files(args: argparse.Namespace) -> list[str]:
    return [written for written in args.models if written.endswith((".yaml", ".yml"))]


def _options(args: argparse.Namespace) -> Mapping[str, Any]:
    fewest, most = args.min_replicas, args.max_replicas
    if args.replicas:
        fewest = most = args.replicas
    if fewest is not None and most is None and not _files(args):
        most = max(1, fewest)
    return {
        "store": args.store,
        "host": args.host,
        "port": args.port,
        "keys": args.keys,
        "allow_origins": args.allow_origin,
        "precision": args.precision,
        "plugins": args.plugins or None,
        "scaling.min_replicas": fewest,
        "scaling.max_replicas": most,
    }


def key(args: argparse.Namespace, screen: Screen) -> Reply:
    """Make a key, store its hash and print it once (`key`)."""
    made = new_key()
    for model in args.model:
        names.model_name(model)
    append(Path(args.keys), ApiKey(name=args.name, sha256=hashed(made), models=tuple(args.model) or None))
    screen.note(f"{args.keys} holds its hash; the key itself is shown this once:")
    screen.say(made)
    return Reply({"key": made, "name": args.name, "file": args.keys})


def _refuse_unknown(spec: ServeSpec) -> None:
    """Raise NotFound for a model or version that the registry does not have, before anything heavy starts."""
    registry = Registry(open_store(spec.store))
    for written in spec.models:
        if written != EVERY:
            name, ref = registry.parse(written)
            # An alias that the spec defines need not be in the registry; a missing version gets no requests.
            registry.version(name, LATEST if (name, ref) in spec.shares else ref)


def _models(spec: ServeSpec) -> str:
    return "every model" if EVERY in spec.models else ", ".join(spec.models)


def _show_usage(spec: ServeSpec, url: str, screen: Screen, seconds: float) -> None:
    name = next((written for written in spec.models if written != EVERY), "NAME")
    screen.note("")
    screen.note(Text.assemble((url, "bold green"), f"  serves {_models(spec)}; open it in a browser to try them"))
    pairs: list[tuple[str, object]] = [
        ("ask", f"curl {url}/models/{name.partition('@')[0]} -H 'Content-Type: application/json' -d @request.json"),
        ("in Python", f"InferenceClient(model='{url}/models/{name.partition('@')[0]}')"),
        ("documented", f"{url}/docs"),
        ("ready after", seconds_text(seconds)),
        ("end it", "Ctrl-C"),
    ]
    for label, value in pairs:
        screen.note(f"  {label:12} {value}")
