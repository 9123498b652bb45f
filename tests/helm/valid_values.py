"""Random values that the chart's schema and its own checks allow, drawn from the schema itself.

Hypothesis would do, but its strategy for the whole schema takes half a minute to draw sixty values.
"""

from __future__ import annotations

import json
import re._constants as pattern
from collections.abc import Mapping
from random import Random
from re import _parser
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from helm.charts import CHART

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
AWKWARD = [
    "",
    "5",
    "1e3",
    "null",
    "true",
    "no",
    "~",
    " a ",
    "a: b",
    "# a",
    "'",
    '"',
    "{{ .Values }}",
    "é\n\t\\",
    "- a",
    "%",
    "|",
]
"""Texts that break templates without quoting."""
MOST = 3


def drawn(schema: Mapping[str, Any], chance: Random) -> Any:
    """Draw a value of a schema in the style of the chart's."""
    while "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name == "memory":
            return chance.choice(["1Gi", "1536Mi", "16Gi", "2000Gi"])
        schema = SCHEMA["$defs"][name]
    if "enum" in schema:
        return chance.choice(schema["enum"])
    if "allOf" not in schema:
        return BY_TYPE[schema["type"]](schema, chance)
    allowed = Draft202012Validator({"allOf": schema["allOf"]})
    return next(
        value for value in iter(lambda: BY_TYPE[schema["type"]](schema, chance), None) if allowed.is_valid(value)
    )


def of_string(schema: Mapping[str, Any], chance: Random) -> str:
    if "pattern" in schema:
        return matching(_parser.parse(schema["pattern"]), chance)
    return chance.choice(AWKWARD)[: schema["maxLength"]]


def matching(parsed: Any, chance: Random) -> str:
    """Draw a text that a regular expression matches; supports the syntax that the JSON Schemas here use."""
    text = ""
    for kind, argument in parsed:
        if kind is pattern.LITERAL:
            text += chr(argument)
        elif kind is pattern.NOT_LITERAL:
            text += chance.choice("a'\"$ ;")
        elif kind is pattern.IN:
            text += member(argument, chance)
        elif kind is pattern.MAX_REPEAT:
            least, most, inner = argument
            text += "".join(matching(inner, chance) for _ in range(chance.randint(least, min(most, least + MOST))))
        elif kind is pattern.SUBPATTERN:
            text += matching(argument[3], chance)
        elif kind is pattern.BRANCH:
            text += matching(chance.choice(argument[1]), chance)
        else:
            assert kind is pattern.AT, kind
    return text


def member(argument: Any, chance: Random) -> str:
    """Draw one of a class of characters."""
    kind, value = chance.choice(argument)
    return chr(value) if kind is pattern.LITERAL else chr(chance.randint(*value))


def of_object(schema: Mapping[str, Any], chance: Random) -> dict[str, Any]:
    if "patternProperties" in schema:
        ((name, inner),) = schema["patternProperties"].items()
        return {of_string({"pattern": name}, chance): drawn(inner, chance) for _ in range(chance.randint(0, 2))}
    required = set(schema.get("required", ()))
    return {
        name: drawn(inner, chance)
        for name, inner in schema.get("properties", {}).items()
        if name in required or chance.random() < 0.6
    }


def of_array(schema: Mapping[str, Any], chance: Random) -> list[Any]:
    count = chance.randint(schema.get("minItems", 0), min(2, schema.get("maxItems", 2)))
    items = [drawn(schema["items"], chance) for _ in range(count)]
    return items[:1] if schema.get("uniqueItems") else items


def of_integer(schema: Mapping[str, Any], chance: Random) -> int:
    least, most = schema["minimum"], schema["maximum"]
    return chance.choice([least, most, min(most, least + 1), chance.randint(least, most)])


BY_TYPE = {
    "string": of_string,
    "boolean": lambda schema, chance: chance.random() < 0.5,
    "integer": of_integer,
    "number": lambda schema, chance: chance.uniform(schema["minimum"], schema["maximum"]),
    "array": of_array,
    "object": of_object,
}


def whole(values: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """Return a section as the chart sees it: the values over the defaults."""
    section: Any = DEFAULTS
    own: Any = values
    for name in path:
        section, own = section[name], own.get(name, {})
    return {**section, **own}


def mended(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with conflicts removed, as _check.tpl requires."""
    values.setdefault("store", "s3://bucket/prefix")
    values["store"] = values["store"] or "s3://bucket/prefix"
    mend_groups(values)
    mend_job(values)
    mend_service(values)
    s3 = whole(values, "s3")
    if bool(s3["accessKeyId"]) != bool(s3["secretAccessKey"]):
        values["s3"] |= {"accessKeyId": "", "secretAccessKey": ""}
    if whole(values, "redis")["enabled"] and not whole(values, "redis")["address"]:
        values["redis"]["address"] = "redis:6379"
    return values


def mend_groups(values: dict[str, Any]) -> None:
    """Order the numbers, leave space for shared memory, one group for everything; no autoscaler with Kueue."""
    values.setdefault("workerGroups", {})["cpu"] = {"enabled": True, "replicas": 1, "cpu": 256, "gpus": 16}
    for group in (
        values.setdefault("workerDefaults", {}),
        *values["workerGroups"].values(),
        values.setdefault("head", {}),
    ):
        group["sharedMemory"] = ""
    for group in (values["workerDefaults"], *values["workerGroups"].values()):
        least, most = sorted((group.pop("minReplicas", 0), max(1, group.pop("maxReplicas", 4))))
        group |= {
            "minReplicas": least,
            "maxReplicas": most,
            "replicas": least + group.get("replicas", 0) % (most - least + 1),
        }
    values["workerGroups"]["cpu"]["replicas"] = values["workerGroups"]["cpu"]["maxReplicas"]
    if whole(values, "kueue")["queue"]:
        values.setdefault("autoscaler", {})["enabled"] = False


def mend_job(values: dict[str, Any]) -> None:
    """Make the spec non-empty, the prediction complete and the clean-up consistent."""
    job = values.setdefault("job", {})
    job["spec"] = job.get("spec", "").strip() or "name: a"
    job["predict"] = {"model": "a", "input": "s3://in", "output": "s3://out"}
    cleanup = whole(values, "job", "cleanup")
    if cleanup["selfAfterSeconds"] >= 0:
        job["cleanup"] = cleanup | {"selfAfterSeconds": max(cleanup.values())}
    if whole(values, "kueue")["queue"]:
        job["cleanup"] = cleanup | {"failedAfterSeconds": -1, "selfAfterSeconds": -1}


def mend_service(values: dict[str, Any]) -> None:
    """Order the replicas, make shares sum to 1, keys explicit, and the upgrade possible."""
    service = values.setdefault("service", {})
    keys = whole(values, "service", "keys")
    service["openToAll"] = service.get("openToAll", False) or not any(keys.values())
    scaling = whole(values, "service", "scaling")
    service["scaling"] = scaling | {"minReplicas": min(scaling["minReplicas"], scaling["maxReplicas"])}
    service["aliases"] = {
        alias if "@" in alias else f"a@{alias}": {"v3": 0.75, "v4": 0.25} for alias in service.get("aliases", ())
    }
    upgrade = whole(values, "service", "upgrade")
    upgrade["gatewayClassName"] = upgrade["gatewayClassName"] or "istio"
    upgrade["stepSizePercent"] = min(upgrade["stepSizePercent"], upgrade["maxSurgePercent"])
    if not whole(values, "autoscaler")["enabled"]:
        upgrade["type"] = "NewCluster"
    service["upgrade"] = upgrade


def valid(seed: int) -> dict[str, Any]:
    """Draw a complete set of values: some sections random, the others at their defaults."""
    chance = Random(seed)
    names = sorted(set(SCHEMA["properties"]) - {"global", "mode"})
    values = {name: drawn(SCHEMA["properties"][name], chance) for name in names if chance.random() < 0.6}
    return mended({"mode": ("cluster", "job", "service")[seed % 3], **values})
