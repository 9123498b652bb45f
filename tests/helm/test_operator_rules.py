"""Each implemented rule of KubeRay's operator, and each rule on pods, detects a violation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from helm.charts import CHART, cluster_spec, needs_helm, ray_object, rendered, written
from helm.operator_rules import rule_violations
from helm.pod_security import breaches

pytestmark = needs_helm
Break = Callable[[dict[str, Any]], object]


def head(item: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = cluster_spec(item)["headGroupSpec"]
    return found


def worker(item: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = cluster_spec(item)["workerGroupSpecs"][0]
    return found


def container(item: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = head(item)["template"]["spec"]["containers"][0]
    return found


def variable(name: str) -> Break:
    return lambda item: container(item)["env"].append({"name": name, "value": "1"})


def rules(*written: tuple[str, str, str, int]) -> Break:
    """Return deletion rules for (policy, kind of status, status, seconds)."""
    made = [{"policy": policy, "condition": {kind: status, "ttlSeconds": ttl}} for policy, kind, status, ttl in written]
    return lambda item: (
        item["spec"].pop("shutdownAfterJobFinishes"),
        item["spec"].pop("ttlSecondsAfterFinished"),
        item["spec"].update(deletionStrategy={"deletionRules": made}),
    )


def queued(item: dict[str, Any]) -> None:
    item["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "batch"


def incremental(**options: Any) -> Break:
    whole = {"gatewayClassName": "istio", "stepSizePercent": 10, "maxSurgePercent": 50, "intervalSeconds": 5, **options}
    return lambda item: item["spec"].update(
        upgradeStrategy={"type": "NewClusterWithIncrementalUpgrade", "clusterUpgradeOptions": whole}
    )


def both(*breaks: Break) -> Break:
    return lambda item: [one(item) for one in breaks]


SUCCEEDED = ("jobStatus", "SUCCEEDED")
BROKEN: list[tuple[str, str, Break]] = [
    ("cluster", "name: over 53", lambda item: item["metadata"].update(name="a" * 54)),
    ("job-train", "name: over 47", lambda item: item["metadata"].update(name="a" * 48)),
    ("service", "name: over 47", lambda item: item["metadata"].update(name="a" * 48)),
    ("cluster", "name: no DNS-1035", lambda item: item["metadata"].update(name="7seas")),
    ("cluster", "rayVersion: no string", lambda item: cluster_spec(item).update(rayVersion=2.6)),
    ("cluster", "needs 2.52", lambda item: cluster_spec(item).update(rayVersion="2.51.0")),
    (
        "cluster-gpu",
        "needs 2.56",
        lambda item: cluster_spec(item).update(rayVersion="2.55.1") or worker(item).update(priority=1),
    ),
    ("cluster", "groupName", lambda item: cluster_spec(item)["workerGroupSpecs"].append(worker(item))),
    ("cluster", "minReplicas over", lambda item: worker(item).update(minReplicas=9)),
    ("cluster", "replicas: over", lambda item: worker(item).update(replicas=9)),
    ("cluster", "not all are strings", lambda item: head(item)["rayStartParams"].update({"num-cpus": 0})),
    ("cluster", "resources: also", lambda item: head(item).update(resources={"CPU": "1"})),
    ("cluster", "rayStartParams: labels", lambda item: worker(item)["rayStartParams"].update(labels="a=b")),
    (
        "cluster",
        "labels: those",
        lambda item: head(item)["template"]["metadata"]["labels"].update({"ray.io/group": "x"}),
    ),
    ("cluster", "unknown version", lambda item: cluster_spec(item)["autoscalerOptions"].update(version="v3")),
    ("cluster", "restartPolicy", lambda item: worker(item)["template"]["spec"].update(restartPolicy="Always")),
    ("cluster", "RAY_enable_autoscaler_v2", variable("RAY_enable_autoscaler_v2")),
    ("cluster", "KUBERAY_GEN_AUTOSCALER_START_CMD", variable("KUBERAY_GEN_AUTOSCALER_START_CMD")),
    (
        "cluster-gpu",
        "need v2",
        lambda item: cluster_spec(item)["autoscalerOptions"].update(version="v1") or worker(item).update(priority=3),
    ),
    ("cluster", "auth: no token", lambda item: cluster_spec(item).pop("authOptions")),
    ("cluster", "auth: no token", lambda item: cluster_spec(item)["authOptions"].update(mode="disabled")),
    ("job-train", "enableK8sTokenAuth", lambda item: cluster_spec(item)["authOptions"].update(enableK8sTokenAuth=True)),
    ("cluster", "RAY_AUTH_", variable("RAY_AUTH_TOKEN")),
    ("service-redis-canary", "RAY_REDIS_ADDRESS", variable("RAY_REDIS_ADDRESS")),
    (
        "service-redis-canary",
        "redis-password",
        lambda item: head(item)["rayStartParams"].update({"redis-password": "x"}),
    ),
    (
        "service-redis-canary",
        "ft-enabled",
        lambda item: item["metadata"].update(annotations={"ray.io/ft-enabled": "true"}),
    ),
    (
        "service-redis-canary",
        "redisAddress",
        lambda item: cluster_spec(item)["gcsFaultToleranceOptions"].pop("redisAddress"),
    ),
    (
        "service-redis-canary",
        "no storage",
        lambda item: cluster_spec(item)["gcsFaultToleranceOptions"].update(storage={"size": "1Gi"}),
    ),
    (
        "service-redis-canary",
        "alpha",
        lambda item: cluster_spec(item)["gcsFaultToleranceOptions"].update(backend="rocksdb"),
    ),
    ("job-train", "ttl: ttlSeconds", lambda item: item["spec"].update(shutdownAfterJobFinishes=False)),
    ("job-train", "ttl: negative", lambda item: item["spec"].update(ttlSecondsAfterFinished=-1)),
    ("job-train", "suspend", lambda item: item["spec"].update(shutdownAfterJobFinishes=False, suspend=True)),
    ("job-train", "backoffLimit: negative", lambda item: item["spec"].update(backoffLimit=-1)),
    ("job-train", "activeDeadlineSeconds", lambda item: item["spec"].update(activeDeadlineSeconds=0)),
    ("job-train", "inside a RayJob", lambda item: cluster_spec(item).update(upgradeStrategy={"type": "Recreate"})),
    ("job-train", "SidecarMode", lambda item: item["spec"].update(submissionMode="SidecarMode")),
    ("job-train", "InteractiveMode", lambda item: item["spec"].update(submissionMode="InteractiveMode")),
    (
        "job-train",
        "rules beside",
        lambda item: item["spec"].update(
            deletionStrategy={"deletionRules": [{"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}]}
        ),
    ),
    ("job-train", "no rules", rules()),
    ("job-train", "unknown status", rules(("DeleteCluster", "jobStatus", "STOPPED", 1))),
    ("job-train", "negative ttlSeconds", rules(("DeleteCluster", *SUCCEEDED, -1))),
    ("job-train", "rule twice", rules(("DeleteCluster", *SUCCEEDED, 1), ("DeleteCluster", *SUCCEEDED, 2))),
    ("job-train", "beside the autoscaler", rules(("DeleteWorkers", *SUCCEEDED, 1))),
    ("job-train", "out of order", rules(("DeleteCluster", *SUCCEEDED, 9), ("DeleteSelf", *SUCCEEDED, 1))),
    (
        "job-search",
        "exactly one status",
        lambda item: item["spec"]["deletionStrategy"]["deletionRules"][0]["condition"].update(
            jobDeploymentStatus="Failed"
        ),
    ),
    ("service", "unknown type", lambda item: item["spec"].update(upgradeStrategy={"type": "Rolling"})),
    ("service", "inside a RayService", lambda item: cluster_spec(item).update(upgradeStrategy={"type": "Recreate"})),
    ("service", "negative delay", lambda item: item["spec"].update(rayClusterDeletionDelaySeconds=-1)),
    ("service", "headService", lambda item: head(item).update(headService={"metadata": {"name": "x"}})),
    ("service", "over maxSurge", incremental(stepSizePercent=60)),
    ("service", "intervalSeconds", incremental(intervalSeconds=0)),
    ("service", "gatewayClassName", incremental(gatewayClassName="")),
    (
        "service",
        "needs the autoscaler",
        both(incremental(), lambda item: cluster_spec(item).update(enableInTreeAutoscaling=False)),
    ),
    ("cluster", "kueue: autoscaler", queued),
    (
        "cluster",
        "kueue: more than 7",
        both(queued, lambda item: cluster_spec(item).update(workerGroupSpecs=[worker(item)] * 8)),
    ),
    ("job-search", "kueue: a RayJob", queued),
]


@pytest.mark.parametrize(("values", "rule", "broken"), BROKEN, ids=lambda part: part if isinstance(part, str) else "")
def test_what_the_operator_refuses_is_caught(values: str, rule: str, broken: Break) -> None:
    item = ray_object(rendered(written(CHART / "ci" / f"{values}-values.yaml")))
    assert rule_violations(item) == []
    broken(item)
    assert any(rule in message for message in rule_violations(item)), rule_violations(item)


@pytest.mark.parametrize(
    ("breach", "broken"),
    [
        ("hostNetwork", lambda pod: pod.update(hostNetwork=True)),
        ("volume", lambda pod: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
        (
            "allowPrivilegeEscalation",
            lambda pod: pod["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
        ),
        ("privileged", lambda pod: pod["containers"][0]["securityContext"].update(privileged=True)),
        ("runAsNonRoot", lambda pod: pod["containers"][0]["securityContext"].update(runAsNonRoot=False)),
        ("runAsUser", lambda pod: pod["securityContext"].update(runAsUser=0)),
        ("capabilities", lambda pod: pod["containers"][0]["securityContext"].update(capabilities={})),
        (
            "seccompProfile",
            lambda pod: pod["containers"][0]["securityContext"].update(seccompProfile={"type": "Unconfined"}),
        ),
        ("hostPort", lambda pod: pod["containers"][0]["ports"][0].update(hostPort=80)),
    ],
)
def test_what_the_restricted_profile_refuses_is_caught(breach: str, broken: Break) -> None:
    pod = copy.deepcopy(head(ray_object(rendered({})))["template"]["spec"])
    assert list(breaches(pod)) == []
    broken(pod)
    assert any(breach in message for message in breaches(pod))
