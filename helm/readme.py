"""Write the chart's README.md and the descriptions of its schema from the comments in values.yaml.

python helm/readme.py           # writes both
python helm/readme.py --check   # prints which one is out of date
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "regraft"
MARK = "# -- "

HEAD = """\
# The chart regraft

Written by `helm/readme.py` from the comments in `values.yaml`.

One release is one thing, by `mode`: a Ray **cluster** that stays, a one-off **job** (train, search, predict) on a
cluster of its own, or a **service** (endpoints for models of the store). All run on KubeRay 1.7, whose operator must be
installed:

```sh
helm repo add kuberay https://ray-project.github.io/kuberay-helm
helm install kuberay-operator kuberay/kuberay-operator --version 1.7.0 --namespace kuberay-operator --create-namespace
```

Build the image ([helm/image](../image/Dockerfile)), push it, and:

```sh
helm install lab helm/regraft --set image.repository=REGISTRY/regraft --set store=s3://bucket/prefix \\
    --set s3.existingSecret=regraft-s3
helm install tickets helm/regraft --set image.repository=REGISTRY/regraft --set store=s3://bucket/prefix \\
    --set s3.existingSecret=regraft-s3 --set mode=job --set-file job.spec=spec.yaml
helm install answers helm/regraft --set image.repository=REGISTRY/regraft --set store=s3://bucket/prefix \\
    --set s3.existingSecret=regraft-s3 --set mode=service --set service.keys.existingSecret=endpoint-keys
```

Complete sets of values are in `ci/`. Pods keep to the Pod Security Standard *restricted*: not root, no capabilities, a
read-only root file system. Keys are read from Secrets, and appear in no argument and no other object.
Ray's token authentication is always on; the token does not protect the endpoints' port: their own keys do
(`regraft key`).

A node of a job may be lost at any time, and the run continues from its last checkpoint. So spot nodes suit worker
groups, but not the head. PodDisruptionBudgets hold back drains of nodes until you end the job.

## Values

"""


@dataclass(frozen=True)
class Value:
    """One value: its path, its default and its meaning."""

    path: tuple[str, ...]
    default: Any
    text: str


def values(text: str) -> Iterator[Value]:
    """Yield the values that have a comment, in the order of the file."""
    document = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith(MARK):
            comment = [stripped.removeprefix(MARK)]
        elif stripped.startswith("#") and comment:
            comment.append(stripped.removeprefix("#").strip())
        elif key := re.match(r"( *)([A-Za-z0-9_-]+):", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            if comment:
                default: Any = document
                for name in path:
                    default = default[name]
                yield Value(tuple(path), default, " ".join(comment))
            comment = []


def holders_of(found: list[Value]) -> set[tuple[str, ...]]:
    """Return the paths of values that only hold others."""
    return {value.path[:depth] for value in found for depth in range(1, len(value.path))}


def table(found: list[Value]) -> str:
    """Return a Markdown table of the values; those that only hold others have no default."""
    holders = holders_of(found)
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for value in found:
        default = "" if value.path in holders else f"`{json.dumps(value.default, ensure_ascii=False)}`"
        cells = (f"`{'.'.join(value.path)}`", default, value.text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def described(schema: dict[str, Any], found: list[Value]) -> dict[str, Any]:
    """Add the comments to the schema as descriptions, beside the `$ref` of definitions that several values share."""
    holders = holders_of(found)
    for value in found:
        place = schema
        for name in value.path:
            while "$ref" in place:
                place = schema["$defs"][place["$ref"].rpartition("/")[2]]
            place = place["properties"][name]
        place["description"] = value.text
        if value.path not in holders:
            place["default"] = value.default
    return schema


def written() -> dict[Path, str]:
    """Return the text that each of the two files should have."""
    found = list(values((CHART / "values.yaml").read_text()))
    path = CHART / "values.schema.json"
    schema = described(json.loads(path.read_text()), found)
    return {CHART / "README.md": HEAD + table(found), path: json.dumps(schema, indent=2, ensure_ascii=False) + "\n"}


def main(arguments: list[str]) -> int:
    """Write both files; with --check only compare them. Return the exit code."""
    stale = [path for path, text in written().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if "--check" in arguments:
            print(f"{path} is out of date: run python helm/readme.py")
        else:
            path.write_text(written()[path])
            print(f"wrote {path}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
