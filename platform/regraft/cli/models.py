"""`regraft models`: what the registry holds, and the few ways to change it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from regraft.cli import metric_table
from regraft.cli.screen import Reply, Screen, confirmed, figure, store_of
from regraft.errors import Damaged, NotFound, RequestError
from regraft.spec.stored import read_stored_spec
from regraft.store.card import taught_classes, taught_sentence, unmeasured_classes
from regraft.store.comparisons import comparison_texts, with_comparison
from regraft.store.manifest import read_verified
from regraft.store.objects import open_store
from regraft.store.registry import Registry, Version
from regraft.units import bytes_text, counted, seconds_text

_COLUMNS = ("model", "versions", "aliases", "score", "method", "delta", "created", "base")
_WIDE = 130


def registry_of(args: argparse.Namespace) -> Registry:
    """Return the registry of the store that the command names."""
    return Registry(open_store(store_of(args.store)))


def chosen(registry: Registry, reference: str) -> Version:
    """Return the version that `name`, `name@v3` or `name@alias` refers to."""
    return registry.version(*registry.parse(reference))


def _exact(registry: Registry, reference: str) -> tuple[str, str]:
    """Return name and version of `name@v3`. Raises RequestError for a bare name: the newest would be a guess."""
    name, at, _ = reference.partition("@")
    if not at:
        have = ", ".join(f"{name}@{version.version}" for version in registry.versions(name))
        raise RequestError(f"write the version too{f': {have}' if have else ', as in {name}@v1'}", where=reference)
    return registry.parse(reference)


def listing(args: argparse.Namespace, screen: Screen) -> Reply:
    """List the models, each with its newest version (`models list`)."""
    registry = registry_of(args)
    models = [_entry(registry, name) for name in registry.models()]
    if not models:
        screen.say(f"no models in {registry.store.url}; `regraft train SPEC` makes one, --store names another store")
    else:
        # A narrow terminal leaves out the last two columns: a table of folded cells cannot be read.
        shown = len(_COLUMNS) if screen.console.width >= _WIDE else len(_COLUMNS) - 2
        screen.table(_COLUMNS[:shown], [_row(entry)[:shown] for entry in models])
        for entry in models:
            _note_damage(entry, screen)
    return Reply({"store": registry.store.url, "models": models})


def _entry(registry: Registry, name: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "versions": [], "aliases": {}}
    try:
        versions = registry.versions(name)
        entry |= {"versions": [v.version for v in versions], "aliases": registry.aliases(name)}
        if damaged := registry.damaged_aliases(name):
            entry["damaged_aliases"] = {alias: str(error) for alias, error in damaged.items()}
        meta = versions[-1].meta if versions else {}
    except (Damaged, NotFound, RequestError) as error:  # one damaged version must not hide the other models
        return {**entry, "damaged": str(error)}
    score = meta.get("score", {}).get("name")
    return {
        **entry,
        "score": {score: meta.get("metrics", {}).get(score)} if score else {},
        "base": meta.get("base", {}).get("reference"),
        "method": meta.get("method", {}).get("type"),
        "delta_bytes": meta.get("delta_bytes"),
        "created": meta.get("created"),
    }


def _note_damage(entry: Mapping[str, Any], screen: Screen) -> None:
    """Print what is damaged of a model, and what to do."""
    if "damaged" in entry:
        screen.note(f"{entry['name']}: its newest version is damaged: {entry['damaged']}")
    for alias, error in entry.get("damaged_aliases", {}).items():
        screen.note(f"{entry['name']}@{alias} is damaged: {error}; `regraft models promote` sets it anew")


def _row(entry: Mapping[str, Any]) -> tuple[object, ...]:
    aliases = ", ".join(f"{alias} → {version}" for alias, version in sorted(entry["aliases"].items()))
    known = entry["versions"]
    versions = known[0] if len(known) == 1 else f"{known[0]}–{known[-1]} ({len(known)})" if known else ""
    if "damaged" in entry:
        return entry["name"], versions, aliases, "damaged: see `regraft models show`"
    score = ", ".join(f"{name} {figure(value)}" for name, value in entry["score"].items())
    delta = bytes_text(entry["delta_bytes"]) if entry["delta_bytes"] is not None else ""
    return entry["name"], versions, aliases, score, entry["method"], delta, when(entry["created"]), entry["base"]


def when(created: object) -> str:
    """Return a stored ISO time to the minute."""
    return str(created or "")[:16].replace("T", " ")


def show(args: argparse.Namespace, screen: Screen) -> Reply:
    """Show everything that the registry holds of a version (`models show`)."""
    registry = registry_of(args)
    version = chosen(registry, args.model)
    meta, manifest = with_comparison(version), version.manifest
    aliases = sorted(alias for alias, means in registry.aliases(version.name).items() if means == version.version)
    files: list[dict[str, Any]] = [
        {"name": entry.name, "size": entry.size, "sha256": entry.sha256} for entry in manifest.files
    ]
    screen.head(str(version) + (f"  ({', '.join(aliases)})" if aliases else ""))
    screen.facts(_facts(meta))
    if meta.get("metrics"):
        screen.head("results")
        screen.table(*metric_table.table(meta))
        if absent := unmeasured_classes(meta):
            screen.say(f"  no row of {', '.join(absent)} is in these metrics")
        if meta.get("gain"):
            screen.say(f"  {metric_table.gained(meta['gain'])}")
    if (meta.get("test") or {}).get("metrics"):
        screen.table(*metric_table.of_test_rows(meta["test"], meta.get("score", {}).get("name")))
    if meta.get("comparison"):
        screen.head("controls")
        screen.table(*metric_table.of_controls(meta["comparison"]))
        for text in comparison_texts(meta["comparison"]):
            screen.say(f"  {text}")
    for taught in taught_classes(meta):
        screen.head(f"taught: {taught.get('class')}")
        screen.say(f"  {taught_sentence(taught, version.name)}")
        screen.table(*effect_table(taught))
    screen.head("lineage")
    screen.facts(_lineage(meta))
    screen.head("files")
    screen.table(("name", "size", "sha256"), [(f["name"], bytes_text(f["size"]), f["sha256"][:16]) for f in files])
    return Reply({"store": registry.store.url, "id": version.id, "aliases": aliases, **meta, "files": files})


def effect_table(taught: Mapping[str, Any]) -> tuple[Sequence[str], list[tuple[object, ...]]]:
    """Return columns and rows of what a taught class did to each class."""
    rows = []
    for one in taught.get("effect") or ():
        before, after = one.get("before"), one.get("after")
        change = "" if before is None or after is None else f"{100 * (after - before):+.1f} points"
        shown = ("-" if value is None else f"{value:.3f}" for value in (before, after))
        rows.append((f"  {one.get('label')}", one.get("rows"), *shown, change))
    return ("  class", "rows", "recall before", "after", "change"), rows


def _facts(meta: Mapping[str, Any]) -> list[tuple[str, object]]:
    labels = list(meta.get("labels") or ())
    shown = ", ".join(labels[:12]) + (f" and {len(labels) - 12} more" if len(labels) > 12 else "")
    base = meta.get("base", {})
    pairs = [
        ("task", _member(meta.get("task"))),
        ("method", _member(meta.get("method"))),
        ("labels", shown),
        ("base", f"{base.get('reference', '')}  {str(base.get('hash', ''))[:16]}"),
        ("delta", bytes_text(meta["delta_bytes"]) if meta.get("delta_bytes") is not None else ""),
        ("seed", meta.get("seed", "")),
        ("trained", seconds_text(float(meta["seconds"])) if meta.get("seconds") is not None else ""),
        ("created", when(meta.get("created"))),
        ("with", ", ".join(f"{name} {number}" for name, number in meta.get("versions", {}).items())),
    ]
    return [(name, value) for name, value in pairs if str(value).strip()]


def _member(written: object) -> str:
    if not isinstance(written, Mapping):
        return str(written or "")
    given = {key: value for key, value in written.items() if key != "type" and value is not None}
    fields = ", ".join(
        f"{key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in given.items()
    )
    return f"{written.get('type', '')}{f' ({fields})' if fields else ''}"


def _lineage(meta: Mapping[str, Any]) -> list[tuple[str, object]]:
    lineage = meta.get("lineage", {})
    data, adapt = lineage.get("data", {}), meta.get("adapt") or {}
    rows = data.get("rows", {})
    sides = ", ".join(counted(count, f"{split} row") for split, count in rows.items())
    stopped = (lineage.get("search") or {}).get("status") == "stopped"
    pairs = [
        ("run", lineage.get("run")),
        ("checkpoint", lineage.get("checkpoint")),
        ("soup", f"of the checkpoints of steps {', '.join(map(str, lineage['soup']))}" if lineage.get("soup") else ""),
        ("data", f"{data.get('fingerprint', '')}{f'  ({sides})' if sides else ''}"),
        ("training", "stopped early by the search that it is from" if stopped else ""),
        ("parent", lineage.get("parent")),
        ("adapted from", lineage.get("adapted_from")),
        ("adapted by", f"{adapt['chosen']}: {adapt.get('why', '')}" if adapt.get("chosen") else ""),
        ("ancestors", " < ".join(lineage.get("ancestors") or ())),
        ("delta", f"sha256 {meta['delta_sha256']}" if meta.get("delta_sha256") else ""),
    ]
    return [(name, value) for name, value in pairs if value]


def promote(args: argparse.Namespace, screen: Screen) -> Reply:
    """Point an alias at a version (`models promote`)."""
    registry = registry_of(args)
    name, ref = _exact(registry, args.model)
    before = registry.aliases(name).get(args.alias)
    version = registry.promote(name, ref, args.alias)
    was = f" (it was {before}; `regraft models rollback {name} {args.alias}` goes back)" if before else ""
    screen.say(f"{name}@{args.alias} is now {version.version}{was}")
    return Reply({"model": name, "alias": args.alias, "version": version.version, "before": before})


def rollback(args: argparse.Namespace, screen: Screen) -> Reply:
    """Point an alias at the version before (`models rollback`)."""
    registry = registry_of(args)
    before = registry.aliases(args.model).get(args.alias)
    version = registry.rollback(args.model, args.alias)
    screen.say(f"{args.model}@{args.alias} is {version.version} again (it was {before})")
    return Reply({"model": args.model, "alias": args.alias, "version": version.version, "before": before})


def diff(args: argparse.Namespace, screen: Screen) -> Reply:
    """Show the fields of the spec, the data and the metrics in which two versions differ (`models diff`)."""
    registry = registry_of(args)
    one, other = chosen(registry, args.one), chosen(registry, args.other)
    spec = _changed(_spec(one), _spec(other))
    metrics = _changed(dict(flat(one.meta.get("metrics", {}))), dict(flat(other.meta.get("metrics", {}))))
    data = _changed(_data(one), _data(other))
    for title, changes in (("spec", spec), ("data", data), ("metrics", metrics)):
        if changes:
            screen.head(title)
            columns = (f"  {'field' if title == 'spec' else 'name'}", str(one), str(other), "change")
            screen.table(columns, [(f"  {name}", *_sides(pair)) for name, pair in changes.items()])
    if not (spec or data or metrics):
        screen.say(f"{one} and {other} do not differ in spec, data or metrics")
    return Reply({"one": str(one), "other": str(other), "spec": spec, "data": data, "metrics": metrics})


def _spec(version: Version) -> dict[str, Any]:
    """Return the stored spec by dotted field, without compute and store, which do not change the model."""
    data = read_verified(version.store, version.prefix, "spec.yaml", version.manifest)
    document = read_stored_spec(data, f"{version.store.url}/{version.prefix}spec.yaml")
    return dict(flat({key: value for key, value in document.items() if key not in ("compute", "store")}))


def _data(version: Version) -> dict[str, Any]:
    return dict(flat(version.meta.get("lineage", {}).get("data", {})))


def flat(document: object, path: str = "") -> Iterable[tuple[str, Any]]:
    """Yield a nested document as (dotted field, value)."""
    if isinstance(document, Mapping) and document:
        for key, value in document.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, document


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    names = [*one, *(name for name in other if name not in one)]
    return {name: [one.get(name), other.get(name)] for name in names if one.get(name) != other.get(name)}


def _sides(pair: list[Any]) -> tuple[str, str, str]:
    old, new = pair
    numbers = all(isinstance(side, int | float) and not isinstance(side, bool) for side in pair)
    moved = f"{new - old:+.4g}" if numbers else ""
    return ("-" if old is None else figure(old)), ("-" if new is None else figure(new)), moved


def delete(args: argparse.Namespace, screen: Screen) -> Reply:
    """Delete a version, given by its number, never by an alias (`models delete`)."""
    registry = registry_of(args)
    name, ref = _exact(registry, args.model)
    if ref == "latest" or ref in registry.aliases(name):
        version = registry.version(name, ref)
        raise RequestError(f"{ref} is an alias; name the version to delete: {version}", where=args.model)
    version = registry.version(name, ref)
    if not args.yes and not confirmed(f"delete {version} from {registry.store.url}? [y/N] "):
        screen.say("nothing was deleted")
        return Reply({"deleted": None}, code=1)
    registry.delete(name, version.version)
    screen.say(f"{version} is deleted; its number is not given again")
    return Reply({"deleted": str(version)})
