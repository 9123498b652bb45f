"""The chart rendered by Helm's own engine into the objects that Kubernetes would receive."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.paths import ROOT

CHART = ROOT / "helm" / "regraft"
SETS = sorted((CHART / "ci").glob("*-values.yaml"))
RAY_KINDS = {"RayCluster": "spec", "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
MISSING = [name for name in ("helm_python", "kubernetes_validate") if importlib.util.find_spec(name) is None]

needs_helm = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: pip install -e .[charts]")


def written(path: Path) -> dict[str, Any]:
    """Return the values of a file."""
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    return values


def render(values: Mapping[str, Any], *, name: str = "demo", namespace: str = "ml") -> dict[str, str]:
    """Return the output of each template by its path in the chart."""
    import helm_python

    with helm_python.Chart.load(str(CHART)) as chart:
        files: dict[str, str] = chart.render(values=dict(values), name=name, namespace=namespace, is_upgrade=False)
    return {path.removeprefix("regraft/templates/"): text for path, text in files.items()}


def refusal(values: Mapping[str, Any]) -> str:
    """Return the error for invalid values."""
    import helm_python

    with pytest.raises(helm_python.HelmError) as caught:
        render(values)
    return str(caught.value)


def objects(files: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return all objects in the order of their files."""
    return [
        document
        for path, text in sorted(files.items())
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def rendered(values: Mapping[str, Any], **options: str) -> list[dict[str, Any]]:
    """Return all objects for these values."""
    return objects(render(values, **options))


def the(kind: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the only object of its kind."""
    (only,) = [item for item in found if item["kind"] == kind]
    return only


def ray_object(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the only Ray object."""
    (only,) = [item for item in found if item["kind"] in RAY_KINDS]
    return only


def cluster_spec(ray: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cluster specification in any of the three kinds."""
    key = RAY_KINDS[ray["kind"]]
    spec: dict[str, Any] = ray["spec"] if key == "spec" else ray["spec"][key]
    return spec


def groups(ray: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return head and worker groups."""
    spec = cluster_spec(ray)
    return [spec["headGroupSpec"], *(spec["workerGroupSpecs"] or [])]


def pods(found: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the specification of every pod of these objects, with its path."""
    for item in found:
        if item["kind"] == "Pod":
            yield "Pod", item["spec"]
        elif item["kind"] in RAY_KINDS:
            for group in groups(item):
                yield group.get("groupName", "head"), group["template"]["spec"]
            if "submitterPodTemplate" in item["spec"]:
                yield "submitter", item["spec"]["submitterPodTemplate"]["spec"]


def templates(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return the pods as complete objects, as Kubernetes would receive them."""
    for where, spec in pods(found):
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": where}, "spec": spec}
