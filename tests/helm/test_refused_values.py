"""Invalid values give an error with the written value and the remedy, before anything is sent to the cluster."""

from __future__ import annotations

from typing import Any

import pytest

from helm.charts import needs_helm, refusal

pytestmark = needs_helm
SERVICE = {"mode": "service", "store": "s3://b/p", "service": {"openToAll": True}}
JOB = {"mode": "job", "store": "s3://b/p", "job": {"spec": "name: a"}}


def service(**own: Any) -> dict[str, Any]:
    return {**SERVICE, "service": {"openToAll": True, **own}}


def job(**own: Any) -> dict[str, Any]:
    return {**JOB, "job": {"spec": "name: a", **own}}


@pytest.mark.parametrize(
    ("values", "where", "message"),
    [
        ({"mode": "rayjob"}, "mode", "'cluster', 'job', 'service'"),
        ({"modes": "job"}, "modes", "not allowed"),
        ({"workerGroups": {"cpu": {"maxReplica": 3}}}, "/workerGroups/cpu", "maxReplica"),
        ({"workerGroups": {"Cpu": {}}}, "workerGroups", "Cpu"),
        ({"workerGroups": {"cpu": {"cpu": 0.5}}}, "/workerGroups/cpu/cpu", "integer"),
        ({"workerGroups": {"cpu": {"memory": "16G"}}}, "/workerGroups/cpu/memory", "does not match"),
        ({"rayVersion": 2.6}, "rayVersion", "string"),
        ({"service": {"port": 80}}, "/service/port", "want 1,024"),
        ({"job": {"retries": -1}}, "/job/retries", "0"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy", "'Always', 'IfNotPresent', 'Never'"),
        ({"head": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}}, "/head/tolerations/0", ""),
    ],
)
def test_the_schema_names_the_value(values: dict[str, Any], where: str, message: str) -> None:
    text = refusal(values)
    assert where in text and message in text, text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**JOB, "workerGroups": {"cpu": {"enabled": False}}}, "workerGroups: none is enabled"),
        ({"workerGroups": {"cpu": {"minReplicas": 5}}}, "minReplicas is 5 and maxReplicas 4"),
        ({"workerGroups": {"cpu": {"replicas": 5}}}, "replicas is 5 and maxReplicas 4"),
        ({"head": {"sharedMemory": "8Gi"}}, "head: sharedMemory is 8Gi and counts against memory, 8Gi"),
        ({"workerGroups": {"cpu": {"memory": "512Mi"}}}, "Ray alone needs 1Gi"),
        ({"head": {"sharedMemory": "64Mi"}}, "object store needs 128Mi"),
        ({**JOB, "autoscaler": {"enabled": False}}, "no group has replicas"),
        ({"mode": "service", "service": {"openToAll": True}}, "store: is empty"),
        ({"s3": {"accessKeyId": "a"}}, "accessKeyId and secretAccessKey belong together"),
        (job(spec=" "), "--set-file job.spec=spec.yaml"),
        (job(command="predict"), "predict needs model, input and output"),
        (job(cleanup={"selfAfterSeconds": 5}), "selfAfterSeconds is 5, but the cluster goes after 60"),
        ({"mode": "service", "store": "s3://b/p"}, "service.keys: there are none"),
        (service(scaling={"minReplicas": 9}), "service.scaling: minReplicas is 9 and maxReplicas 4"),
        (service(replica={"gpus": 1}), "no worker group has 1 CPUs and 1 GPUs"),
        (service(aliases={"a@production": {"v1": 0.5, "v2": 0.4}}), "the shares add up to 0.9"),
        (service(models=["a", "a@v3"]), "service.models: a is written more than once"),
        (service(aliases={"production": {"v1": 1}}), "several models are served; write model@production"),
        (service(upgrade={"type": "NewClusterWithIncrementalUpgrade"}), "needs gatewayClassName"),
        ({"redis": {"enabled": True}}, "redis.address: is empty"),
        ({"kueue": {"queue": "batch"}}, "autoscaler.enabled=false"),
        ({"env": {"RAY_AUTH_MODE": "disabled"}}, "env.RAY_AUTH_MODE"),
        ({"env": {"DB_PASSWORD": "x"}}, "secrets go into Secrets"),
        ({"workerGroups": {"cpu": {"env": {"HF_TOKEN": "x"}}}}, "workerGroups.cpu.env.HF_TOKEN"),
        ({"serviceAccount": {"podLabels": {"app.kubernetes.io/name": "x"}}}, "belongs to the chart"),
    ],
)
def test_values_that_exclude_one_another_are_reported_with_the_way_out(values: dict[str, Any], message: str) -> None:
    assert message in refusal(values)


def test_all_that_is_wrong_is_reported_at_once_and_no_secret_with_it() -> None:
    text = refusal({"mode": "service", "s3": {"secretAccessKey": "SENTINEL"}, "kueue": {"queue": "a"}})
    assert text.count("\n  - ") >= 4
    assert "SENTINEL" not in text
