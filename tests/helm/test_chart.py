"""For all allowed values, the rendered objects are accepted by Kubernetes, KubeRay and Ray."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr as derive

from helm.charts import (
    CHART,
    RAY_KINDS,
    ROOT,
    SETS,
    cluster_spec,
    groups,
    needs_helm,
    objects,
    pods,
    ray_object,
    refusal,
    render,
    rendered,
    templates,
    the,
    written,
)
from helm.operator_rules import rule_violations
from helm.pod_security import breaches
from helm.valid_values import SCHEMA, valid

pytestmark = needs_helm
CRDS = ROOT.parent / "shared" / "data" / "kuberay-crds"
KUBERNETES = "1.32"
every_set = pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem.removesuffix("-values"))


@cache
def crd(kind: str) -> Any:
    """Return the CRD's schema; fields with a default are not required."""
    schema = json.loads((CRDS / f"{kind.lower()}_v1.json").read_text())
    return jsonschema.Draft202012Validator(without_defaults_required(schema))


def without_defaults_required(node: Any) -> Any:
    if isinstance(node, dict):
        defaults = {name for name, inner in node.get("properties", {}).items() if "default" in inner}
        if isinstance(node.get("required"), list):
            node["required"] = [name for name in node["required"] if name not in defaults]
        for inner in node.values():
            without_defaults_required(inner)
    elif isinstance(node, list):
        for inner in node:
            without_defaults_required(inner)
    return node


def check(found: list[dict[str, Any]]) -> None:
    """Validate every object: Ray's by operator, CRD and autoscaler, others and all pods by Kubernetes' schemas."""
    import kubernetes_validate

    for item in found:
        if item["kind"] in RAY_KINDS:
            assert rule_violations(item) == []
            if CRDS.is_dir():
                assert [error.message for error in crd(item["kind"]).iter_errors(item)] == []
            derived(item)
        elif item["kind"] != "PodMonitor":
            kubernetes_validate.validate(item, KUBERNETES, strict=True)
    for pod in templates(found):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert list(breaches(pod["spec"])) == []
        assert all(c["securityContext"]["readOnlyRootFilesystem"] for c in pod["spec"]["containers"])


def derived(ray: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration that Ray's autoscaler reads from a cluster; it checks resources, labels and numbers."""
    spec = copy.deepcopy(cluster_spec(ray))
    config: dict[str, Any] = derive({"metadata": {"name": "demo", "namespace": "ml"}, "spec": spec})
    return config


@every_set
def test_strict_lint_finds_nothing(path: Path) -> None:
    import helm_python

    found = helm_python.lint(str(CHART), written(path), strict=True, kube_version="1.32.0")
    assert found["errors"] == []
    assert [item for item in found["messages"] if item["severity"] > 1] == []


@every_set
def test_every_set_of_values_gives_valid_objects(path: Path) -> None:
    if not CRDS.is_dir():
        print(f"KubeRay's CRDs are not at {CRDS}: Ray objects are checked by the operator's rules and by Ray alone")
    found = rendered(written(path))
    check(found)
    assert {item["metadata"]["namespace"] for item in found} == {"ml"}


@pytest.mark.parametrize("seed", range(60))
def test_random_valid_values_give_valid_objects(seed: int) -> None:
    values = valid(seed)
    jsonschema.Draft202012Validator(SCHEMA).validate(values)
    check(rendered(values))


def test_the_defaults_give_a_valid_cluster() -> None:
    check(rendered({}))


@every_set
def test_kubernetes_reserves_what_ray_is_given(path: Path) -> None:
    ray = ray_object(rendered(written(path)))
    available = {name: node["resources"] for name, node in derived(ray)["available_node_types"].items()}
    assert available.pop("headgroup")["CPU"] == 0, "the head takes no work"
    for group in groups(ray)[1:]:
        reserved = group["template"]["spec"]["containers"][0]["resources"]
        assert reserved["requests"] == reserved["limits"]
        assert available[group["groupName"]]["CPU"] == int(reserved["limits"]["cpu"])
        assert available[group["groupName"]].get("GPU", 0) == int(reserved["limits"].get("nvidia.com/gpu", 0))


@every_set
def test_shared_memory_holds_the_object_store_and_lies_within_memory(path: Path) -> None:
    for group in groups(ray_object(rendered(written(path)))):
        pod = group["template"]["spec"]
        (shared,) = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shared-memory"]
        size = int(shared["sizeLimit"].removesuffix("Mi")) << 20
        memory = int(pod["containers"][0]["resources"]["limits"]["memory"].removesuffix("Gi")) << 30
        assert int(group["rayStartParams"]["object-store-memory"]) < size < memory


@every_set
def test_secrets_stand_in_secret_objects_only(path: Path) -> None:
    secrets = {
        "s3": {"accessKeyId": "SENTINEL-1", "secretAccessKey": "SENTINEL-2"},
        "hub": {"token": "SENTINEL-3"},
        "redis": {"enabled": True, "address": "redis:6379", "password": "SENTINEL-4"},
        "service": {"keys": {"file": "SENTINEL-5"}},
    }
    values = written(path)
    for section, own in secrets.items():
        kept = {key: value for key, value in values.get(section, {}).items() if key != "existingSecret"}
        values[section] = {**kept, **own}
    files = render(values)
    found = objects(files)
    names = {item["metadata"]["name"] for item in found if item["kind"] == "Secret"}
    assert len(names) == (4 if values.get("mode") == "service" else 3)
    for item in found:
        assert item["kind"] == "Secret" or "SENTINEL" not in yaml.safe_dump(item)
    assert "SENTINEL" not in files["NOTES.txt"]
    named = set(secret_names(found))
    assert names <= named, "what is created is used"


def secret_names(node: Any) -> list[str]:
    if isinstance(node, list):
        return [name for inner in node for name in secret_names(inner)]
    if not isinstance(node, dict):
        return []
    own = [node["secretKeyRef"]["name"]] if "secretKeyRef" in node else []
    own += [node["secretName"]] if "secretName" in node else []
    return own + [name for inner in node.values() for name in secret_names(inner)]


def test_only_the_head_of_an_autoscaled_cluster_may_talk_to_kubernetes() -> None:
    for on in (True, False):
        found = rendered({"autoscaler": {"enabled": on}})
        speakers = {where for where, pod in pods(found) if pod["automountServiceAccountToken"]}
        assert speakers == ({"head"} if on else set())


def test_false_and_zero_of_a_group_count_as_written() -> None:
    values = {"workerDefaults": {"replicas": 2, "minReplicas": 1, "enabled": True}, "autoscaler": {"enabled": False}}
    values["workerGroups"] = {"cpu": {"replicas": 0, "minReplicas": 0}, "gpu": {"enabled": False}}
    spec = cluster_spec(ray_object(rendered(values)))
    assert spec["enableInTreeAutoscaling"] is False
    (group,) = spec["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"]) == (0, 0)


@pytest.mark.parametrize(("mode", "most"), [("cluster", 53), ("job", 47), ("service", 47)])
@pytest.mark.parametrize("name", ["a" * 53, "x." + "b-" * 24 + "c", "7seas", "regraft"])
def test_names_are_cut_to_what_kuberay_takes(mode: str, most: int, name: str) -> None:
    base = {"mode": mode, "store": "s3://b/p", "job": {"spec": "name: a"}, "service": {"openToAll": True}}
    ray = ray_object(rendered(base, name=name))
    assert rule_violations(ray) == []
    assert 0 < len(ray["metadata"]["name"]) <= most


def test_network_policy_opens_what_is_asked_for_and_nothing_else() -> None:
    ingress = the("NetworkPolicy", rendered({}))["spec"]["ingress"]
    assert len(ingress) == 2, "each other, and the operator"
    assert ingress[1]["ports"] == [{"protocol": "TCP", "port": 8265}]
    policy = {"dashboardFrom": ["research"], "metricsFrom": ["monitoring"], "endpointsFrom": ["shop"]}
    values = {"mode": "service", "store": "s3://b/p", "service": {"openToAll": True}, "networkPolicy": policy}
    opened = {
        (peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], port["port"])
        for rule in the("NetworkPolicy", rendered(values))["spec"]["ingress"][2:]
        for peer in rule["from"]
        for port in rule["ports"]
    }
    assert opened == {("research", 8265), ("monitoring", 8080), ("shop", 8000)}


def test_selectors_find_the_pods_and_restarts_are_not_forced_by_a_new_chart() -> None:
    found = rendered(written(CHART / "ci" / "cluster-gpu-values.yaml"))
    labels = [group["template"]["metadata"]["labels"] for group in groups(ray_object(found))]
    budgets = [item["spec"]["selector"]["matchLabels"] for item in found if item["kind"] == "PodDisruptionBudget"]
    assert sorted(len([own for own in labels if wanted.items() <= own.items()]) for wanted in budgets) == [1, 3]
    monitor = the("PodMonitor", found)["spec"]
    assert all(monitor["selector"]["matchLabels"].items() <= own.items() for own in labels)
    ports = {port["name"] for _, pod in pods(found) for c in pod["containers"] for port in c.get("ports", ())}
    assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} <= ports
    assert not any("helm.sh/chart" in own for own in labels)
    for item in found:
        if item["kind"] == "PodDisruptionBudget":
            assert isinstance(item["spec"]["minAvailable"], int), "Kubernetes knows no scale of an operator's pods"


def test_the_job_runs_the_command_word_for_word() -> None:
    import shlex

    job = the("RayJob", rendered(written(CHART / "ci" / "job-train-values.yaml")))
    assert shlex.split(job["spec"]["entrypoint"]) == [
        *("regraft", "train", "/etc/regraft/job/spec.yaml", "--store", "s3://models/regraft"),
        *("--set", "training.lr=1e-4", "--set", "name=it's quoted"),
    ]
    values = written(CHART / "ci" / "job-predict-kueue-values.yaml")
    predict = the("RayJob", rendered(values))
    assert shlex.split(predict["spec"]["entrypoint"])[:4] == [
        *("regraft", "predict", "support-tickets@production", "s3://data/tickets.parquet")
    ]
    assert predict["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "batch"


def test_the_job_mounts_the_spec_that_was_given() -> None:
    values = written(CHART / "ci" / "job-search-values.yaml")
    found = rendered(values)
    config = the("ConfigMap", found)
    assert config["data"]["spec.yaml"] == values["job"]["spec"]
    head = dict(pods(found))["head"]
    assert {"name": "spec", "configMap": {"name": config["metadata"]["name"]}} in head["volumes"]
    rules = ray_object(found)["spec"]["deletionStrategy"]["deletionRules"]
    assert {(rule["policy"], *sorted(rule["condition"].values(), key=str)) for rule in rules} >= {
        ("DeleteCluster", 30, "SUCCEEDED"),
        ("DeleteCluster", 3600, "FAILED"),
        ("DeleteCluster", 3600, "Failed"),
        ("DeleteSelf", 86400, "FAILED"),
    }


def test_notes_give_commands_for_what_was_made() -> None:
    for path in SETS:
        values = written(path)
        notes = render(values)["NOTES.txt"]
        assert "helm test demo --namespace ml" in notes
        assert f"get ray{values.get('mode', 'cluster')} demo-regraft" in notes


def test_readme_and_descriptions_are_those_of_the_values() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "helm" / "readme.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_schema_is_closed_and_every_value_is_described() -> None:
    def look(node: Any, where: str) -> None:
        if node.get("type") == "object" and where.rpartition(".")[2] not in {"if", "then", "else", "not"}:
            # A parent chart may pass global values to charts that do not use them.
            assert (node.get("additionalProperties") is False) == (where != "values.global"), where
        for name, inner in node.get("properties", {}).items():
            assert inner.get("description") or "$ref" in inner, f"{where}.{name}"
            look(inner, f"{where}.{name}")
        for name, inner in (*node.get("patternProperties", {}).items(), *node.get("$defs", {}).items()):
            look(inner, f"{where}.{name}")
        if "items" in node:
            look(node["items"], f"{where}[]")

    look(SCHEMA, "values")


@needs_helm
def test_a_digest_pins_the_image_of_every_pod() -> None:
    values = written(CHART / "ci" / "service-values.yaml")
    digest = "sha256:" + "0" * 64
    for given, end in ((digest, f"@{digest}"), ("", "")):
        found = rendered({**values, "image": {**values.get("image", {}), "tag": "1.0", "digest": given}})
        images = {one["image"] for _, pod in pods(found) for one in pod["containers"] if "regraft" in one["image"]}
        assert images and all(image.endswith(f":1.0{end}") for image in images)
    assert "digest" in refusal({**values, "image": {"digest": "sha256:abc"}})


@pytest.mark.parametrize(
    ("own", "end"),
    [
        ({}, ":1.0@sha256:" + "0" * 64),
        ({"imageTag": "2.0"}, ":2.0"),
        ({"imageTag": "2.0", "imageDigest": "sha256:" + "1" * 64}, ":2.0@sha256:" + "1" * 64),
        ({"imageDigest": "sha256:" + "1" * 64}, ":1.0@sha256:" + "1" * 64),
    ],
)
def test_a_group_with_another_image_has_a_digest_of_its_own(own: dict[str, str], end: str) -> None:
    values = written(CHART / "ci" / "service-values.yaml")
    values |= {"image": {"tag": "1.0", "digest": "sha256:" + "0" * 64}, "workerGroups": {"cpu": own}}
    head, worker = groups(ray_object(rendered(values)))
    assert worker["template"]["spec"]["containers"][0]["image"].endswith(end)
    assert head["template"]["spec"]["containers"][0]["image"].endswith(":1.0@sha256:" + "0" * 64)
