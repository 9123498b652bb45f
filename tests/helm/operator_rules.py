"""Validation rules of KubeRay 1.7's operator beyond its CRDs (ray-operator/controllers/ray/utils/validation.go).

No operator runs in the tests, so its rules are written down here, and tests/helm/test_operator_rules.py breaks each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
OWN_VARIABLES = {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"}
DNS_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"


def rule_violations(item: Mapping[str, Any]) -> list[str]:
    """Yield the operator's errors for a RayCluster, RayJob or RayService."""
    inner = {"RayCluster": lambda spec: spec, "RayJob": _cluster_of_job, "RayService": _cluster_of_service}[
        item["kind"]
    ]
    spec = inner(item["spec"])
    own = {"RayCluster": lambda spec: iter(()), "RayJob": _job, "RayService": _service}[item["kind"]]
    return [
        *_name(item),
        *_version(spec),
        *_groups(spec),
        *_autoscaler(spec),
        *_authentication(item["kind"], spec),
        *_fault_tolerance(item, spec),
        *own(item["spec"]),
        *_queue(item, spec),
    ]


def _cluster_of_job(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = spec["rayClusterSpec"]
    return found


def _cluster_of_service(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = spec["rayClusterConfig"]
    return found


def _name(item: Mapping[str, Any]) -> Iterator[str]:
    name, most = item["metadata"]["name"], LONGEST[item["kind"]]
    if len(name) > most:
        yield f"name: over {most} letters"
    if not re.fullmatch(DNS_1035, name):
        yield "name: no DNS-1035 label"


def _version(spec: Mapping[str, Any]) -> Iterator[str]:
    version = spec.get("rayVersion")
    if not isinstance(version, str):
        yield "rayVersion: no string"
        return
    minor = tuple(int(part) for part in version.split(".")[:2])
    if spec.get("authOptions", {}).get("mode", "token") == "token" and minor < (2, 52):
        yield "rayVersion: token authentication needs 2.52"
    if any("priority" in group for group in spec["workerGroupSpecs"] or ()) and minor < (2, 56):
        yield "rayVersion: priority needs 2.56"


def _every(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [spec["headGroupSpec"], *(spec["workerGroupSpecs"] or ())]


def _variables(spec: Mapping[str, Any]) -> set[str]:
    return {
        variable["name"]
        for group in _every(spec)
        for container in group["template"]["spec"]["containers"]
        for variable in container.get("env", ())
    }


def _groups(spec: Mapping[str, Any]) -> Iterator[str]:
    names = [group["groupName"] for group in spec["workerGroupSpecs"] or ()]
    if len(set(names)) != len(names) or not all(names):
        yield "groupName: empty or twice"
    for group in spec["workerGroupSpecs"] or ():
        if not 0 <= group.get("minReplicas", 0) <= group["maxReplicas"]:
            yield "replicas: minReplicas over maxReplicas"
        if group.get("replicas", 0) > group["maxReplicas"]:
            yield "replicas: over maxReplicas"
    for group in _every(spec):
        parameters = group.get("rayStartParams", {})
        if not all(isinstance(value, str) for value in parameters.values()):
            yield "rayStartParams: not all are strings"
        if group.get("resources") and set(parameters) & {"num-cpus", "num-gpus", "memory", "resources"}:
            yield "resources: also in rayStartParams"
        if "labels" in parameters:
            yield "rayStartParams: labels"
        if set(group["template"].get("metadata", {}).get("labels", ())) & {
            "app.kubernetes.io/name",
            "ray.io/cluster",
            "ray.io/node-type",
            "ray.io/group",
        }:
            yield "labels: those that KubeRay's services select by"


def _autoscaler(spec: Mapping[str, Any]) -> Iterator[str]:
    on = spec.get("enableInTreeAutoscaling", False)
    options = spec.get("autoscalerOptions", {})
    if options.get("version") not in {None, "v1", "v2"}:
        yield "autoscaler: unknown version"
    v2 = on and options.get("version", "v2") == "v2"
    if v2 and any(group["template"]["spec"].get("restartPolicy", "Never") != "Never" for group in _every(spec)):
        yield "autoscaler: v2 wants restartPolicy Never or none"
    if v2 and _variables(spec) & {"RAY_enable_autoscaler_v2"}:
        yield "autoscaler: version and RAY_enable_autoscaler_v2"
    if "KUBERAY_GEN_AUTOSCALER_START_CMD" in _variables(spec):
        yield "autoscaler: KUBERAY_GEN_AUTOSCALER_START_CMD"
    if not v2 and any({"idleTimeoutSeconds", "priority"} & set(group) for group in spec["workerGroupSpecs"] or ()):
        yield "autoscaler: idleTimeoutSeconds and priority of a group need v2"


def _authentication(kind: str, spec: Mapping[str, Any]) -> Iterator[str]:
    options = spec.get("authOptions")
    if options is None or options.get("mode", "token") != "token":
        yield "auth: no token"  # stricter than the operator: this chart never disables it
        return
    if options.get("enableK8sTokenAuth") and (kind != "RayCluster" or "secretName" in options):
        yield "auth: enableK8sTokenAuth is for a RayCluster without secretName"
    if any(name.startswith("RAY_AUTH_") for name in _variables(spec)):
        yield "auth: RAY_AUTH_* is set by the operator"


def _fault_tolerance(item: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    options = spec.get("gcsFaultToleranceOptions")
    if "ray.io/ft-enabled" in item["metadata"].get("annotations", {}):
        yield "gcs: annotation ray.io/ft-enabled beside gcsFaultToleranceOptions"
    if _variables(spec) & OWN_VARIABLES:
        yield "gcs: RAY_REDIS_ADDRESS or REDIS_PASSWORD as variables"
    if "redis-password" in spec["headGroupSpec"].get("rayStartParams", {}):
        yield "gcs: redis-password among rayStartParams"
    if options is None:
        return
    if options.get("backend", "redis") == "redis" and ("storage" in options or not options.get("redisAddress")):
        yield "gcs: redis wants redisAddress and no storage"
    if options.get("backend") == "rocksdb":
        yield "gcs: rocksdb is behind an alpha gate"


def _job(spec: Mapping[str, Any]) -> Iterator[str]:
    shut_down = spec.get("shutdownAfterJobFinishes", False)
    if spec.get("ttlSecondsAfterFinished", 0) and not shut_down:
        yield "ttl: ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        yield "ttl: negative"
    if spec.get("suspend") and not shut_down:
        yield "suspend: needs shutdownAfterJobFinishes"
    if spec.get("backoffLimit", 0) < 0:
        yield "backoffLimit: negative"
    if "activeDeadlineSeconds" in spec and spec["activeDeadlineSeconds"] <= 0:
        yield "activeDeadlineSeconds: not positive"
    if "upgradeStrategy" in spec["rayClusterSpec"]:
        yield "upgradeStrategy: inside a RayJob"
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode == "SidecarMode" and {"submitterPodTemplate", "submitterConfig", "clusterSelector"} & set(spec):
        yield "submission: SidecarMode takes no template of the submitter"
    if mode == "InteractiveMode" and spec.get("backoffLimit"):
        yield "submission: InteractiveMode takes no backoffLimit"
    if "deletionStrategy" in spec:
        yield from _deletion(spec, shut_down)


def _deletion(spec: Mapping[str, Any], shut_down: bool) -> Iterator[str]:
    rules = spec["deletionStrategy"].get("deletionRules")
    if not rules:
        yield "deletion: no rules"
        return
    if shut_down or spec.get("ttlSecondsAfterFinished"):
        yield "deletion: rules beside shutdownAfterJobFinishes"
    after: dict[tuple[str, str], dict[str, int]] = {}
    for rule in rules:
        condition = rule["condition"]
        if ("jobStatus" in condition) == ("jobDeploymentStatus" in condition):
            yield "deletion: exactly one status"
            return
        key = "jobStatus" if "jobStatus" in condition else "jobDeploymentStatus"
        allowed = {"SUCCEEDED", "FAILED"} if key == "jobStatus" else {"Failed"}
        if condition[key] not in allowed:
            yield "deletion: unknown status"
        if condition.get("ttlSeconds", 0) < 0:
            yield "deletion: negative ttlSeconds"
        policies = after.setdefault((key, condition[key]), {})
        if rule["policy"] in policies:
            yield "deletion: the same rule twice"
        policies[rule["policy"]] = condition.get("ttlSeconds", 0)
        if rule["policy"] == "DeleteWorkers" and spec["rayClusterSpec"].get("enableInTreeAutoscaling"):
            yield "deletion: DeleteWorkers beside the autoscaler"
    for policies in after.values():
        times = [policies[name] for name in ("DeleteWorkers", "DeleteCluster", "DeleteSelf") if name in policies]
        if times != sorted(times):
            yield "deletion: workers, cluster and itself out of order"


def _service(spec: Mapping[str, Any]) -> Iterator[str]:
    strategy = spec.get("upgradeStrategy", {})
    if strategy.get("type", "NewCluster") not in {"NewCluster", "NewClusterWithIncrementalUpgrade", "None"}:
        yield "upgrade: unknown type"
    if "upgradeStrategy" in spec["rayClusterConfig"]:
        yield "upgradeStrategy: inside a RayService"
    if spec.get("rayClusterDeletionDelaySeconds", 0) < 0:
        yield "upgrade: negative delay"
    service = spec["rayClusterConfig"]["headGroupSpec"].get("headService", {})
    if service.get("metadata", {}).get("name"):
        yield "headService: has a name"
    if strategy.get("type") != "NewClusterWithIncrementalUpgrade":
        return
    options = strategy.get("clusterUpgradeOptions")
    if not spec["rayClusterConfig"].get("enableInTreeAutoscaling"):
        yield "upgrade: incremental needs the autoscaler"
    if not options or not options.get("gatewayClassName"):
        yield "upgrade: incremental needs clusterUpgradeOptions with a gatewayClassName"
        return
    if not 0 <= options["stepSizePercent"] <= options.get("maxSurgePercent", 100) <= 100:
        yield "upgrade: stepSizePercent over maxSurgePercent"
    if options["intervalSeconds"] <= 0:
        yield "upgrade: intervalSeconds"


def _queue(item: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    """Yield the errors of Kueue's webhooks, which are not the operator's."""
    if "kueue.x-k8s.io/queue-name" not in item["metadata"].get("labels", {}):
        return
    if spec.get("enableInTreeAutoscaling"):
        yield "kueue: autoscaler"
    if len(spec["workerGroupSpecs"] or ()) > 7:
        yield "kueue: more than 7 worker groups"
    if item["kind"] == "RayJob" and not item["spec"].get("shutdownAfterJobFinishes"):
        yield "kueue: a RayJob needs shutdownAfterJobFinishes"
