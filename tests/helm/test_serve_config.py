"""Ray Serve and the endpoint accept the text in the RayService, and ignore none of its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from helm.charts import CHART, SETS, groups, needs_helm, ray_object, render, rendered, written
from helm.valid_values import valid
from regraft.cluster.bounded_ports import CALLBACK, VARIABLE
from regraft.spec.document import absolute
from regraft.spec.serve import ServeSpec

pytestmark = needs_helm
SERVICES = [path for path in SETS if written(path).get("mode") == "service"]
every_service = pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem.removesuffix("-values"))


def config_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration that the operator passes to Serve."""
    text = ray_object(rendered(values))["spec"]["serveConfigV2"]
    config: dict[str, Any] = yaml.safe_load(text)
    return config


def unknown(given: Any, taken: Any, where: str = "") -> list[str]:
    """Return the keys that Serve ignored: it silently drops unknown ones."""
    if isinstance(given, list):
        return [key for i, inner in enumerate(given) for key in unknown(inner, taken[i], f"{where}[{i}]")]
    if not isinstance(given, dict):
        return []
    missing = [f"{where}.{key}" for key in given if key not in taken]
    return missing + [
        key for name in given if name in taken for key in unknown(given[name], taken[name], f"{where}.{name}")
    ]


def check(config: dict[str, Any]) -> None:
    """Parse by Serve's own schema and, for the arguments, by the endpoint's."""
    taken = ServeDeploySchema.model_validate(config).model_dump()
    assert unknown(config, taken) == []
    (application,) = config["applications"]
    assert application["import_path"] == "regraft.cluster.serve:app"
    spec = ServeSpec.resolve(application["args"])
    # A resolved spec normalizes folders; all other values are unchanged.
    given = {**application["args"], "store": absolute(application["args"]["store"]), "plugins": []}
    assert {**spec.model_dump(mode="json", exclude_unset=True, exclude_none=True), "plugins": []} == given
    assert spec.beyond() and (spec.keys or spec.open_to_all)
    assert config["http_options"]["port"] == spec.port
    slowest = spec.limits.body_seconds + spec.limits.seconds
    assert config["http_options"]["request_timeout_s"] > slowest


@every_service
def test_serve_and_the_endpoint_take_every_key(path: Path) -> None:
    check(config_of(written(path)))


@pytest.mark.parametrize("seed", range(2, 60, 6))
def test_so_they_do_for_random_values(seed: int) -> None:
    check(config_of(valid(seed)))


def test_a_key_that_serve_would_drop_is_found() -> None:
    config = config_of(written(SERVICES[0]))
    config["http_options"]["keep_alive"] = 3
    assert unknown(config, ServeDeploySchema.model_validate(config).model_dump()) == [".http_options.keep_alive"]


def test_models_shares_and_numbers_arrive_as_they_were_written() -> None:
    values = written(CHART / "ci" / "service-redis-canary-values.yaml")
    values["service"]["limits"] = {"bodyBytes": 10_000_000_000}
    values["service"]["aliases"]["support-tickets@production"] = {"v3": 0.9999, "v4": 0.0001}
    arguments = config_of(values)["applications"][0]["args"]
    assert arguments["models"] == ["support-tickets@production", "defects"]
    assert arguments["aliases"] == {"support-tickets@production": {"v3": 0.9999, "v4": 0.0001}}
    assert arguments["limits"]["body_bytes"] == 10_000_000_000
    assert arguments["keys"] == "/etc/regraft/keys/keys.yaml"


def test_keys_are_mounted_where_the_endpoint_looks_on_every_node() -> None:
    ray = ray_object(rendered(written(CHART / "ci" / "service-values.yaml")))
    spec = ray["spec"]["rayClusterConfig"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert {"name": "keys", "mountPath": "/etc/regraft/keys", "readOnly": True} in pod["containers"][0][
            "volumeMounts"
        ]
        (volume,) = [item for item in pod["volumes"] if item["name"] == "keys"]
        assert volume["secret"] == {"secretName": "endpoint-keys", "defaultMode": 0o440}


def test_haproxy_is_asked_for_in_the_spec_and_on_every_node() -> None:
    values = written(CHART / "ci" / "service-values.yaml")
    values["service"]["proxy"] = "haproxy"
    ray = ray_object(rendered(values))
    assert config_of(values)["applications"][0]["args"]["proxy"] == "haproxy"
    for variables in variables_of(ray):
        assert variables["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        assert variables["RAY_SERVE_HAPROXY_BINARY_PATH"] == "/opt/regraft/bin/regraft-haproxy"


@pytest.mark.parametrize(
    ("written_proxy", "closed", "least", "chosen", "reason"),
    [
        ("auto", True, 1, "haproxy", "the network policy closes the replicas' ports"),
        ("auto", False, 1, "python", "networkPolicy.enabled is false"),
        ("auto", True, 0, "python", "service.scaling.minReplicas is 0"),
        ("python", True, 1, "python", "as service.proxy says"),
        ("haproxy", False, 0, "haproxy", "as service.proxy says"),
    ],
)
def test_the_proxy_that_is_chosen_is_used_everywhere_and_said(
    written_proxy: str, closed: bool, least: int, chosen: str, reason: str
) -> None:
    values = written(CHART / "ci" / "service-values.yaml")
    values["service"] |= {"proxy": written_proxy, "scaling": {"minReplicas": least}}
    values["networkPolicy"] = {"enabled": closed}
    files = render(values)
    assert f"Proxy: {chosen}, " in files["NOTES.txt"] and reason in files["NOTES.txt"]
    assert config_of(values)["applications"][0]["args"]["proxy"] == chosen
    for variables in variables_of(ray_object(rendered(values))):
        assert (variables.get("RAY_SERVE_ENABLE_HA_PROXY") == "1") == (chosen == "haproxy")


def variables_of(ray: Any) -> list[dict[str, Any]]:
    """Return the variables of each group's container."""
    return [
        {item["name"]: item.get("value") for item in group["template"]["spec"]["containers"][0]["env"]}
        for group in groups(ray)
    ]


def test_ports_of_serve_are_bounded_on_every_node() -> None:
    values = written(CHART / "ci" / "service-values.yaml")
    for variables in variables_of(ray_object(rendered(values))):
        assert variables[VARIABLE] == CALLBACK
    own = {**values, "env": {VARIABLE: "shop.middlewares:make"}}
    assert {variables[VARIABLE] for variables in variables_of(ray_object(rendered(own)))} == {"shop.middlewares:make"}


def test_how_long_keys_stay_in_force_without_their_file_arrives() -> None:
    values = written(CHART / "ci" / "service-values.yaml")
    assert config_of(values)["applications"][0]["args"]["keys_gone_seconds"] == 60
    values["service"]["keysGoneSeconds"] = 0
    assert config_of(values)["applications"][0]["args"]["keys_gone_seconds"] == 0


@pytest.mark.parametrize(("least", "excluded"), [(0, False), (1, True)])
def test_the_head_takes_requests_only_where_no_replica_need_be_there(least: int, excluded: bool) -> None:
    values = written(CHART / "ci" / "service-to-zero-values.yaml")
    values["service"]["scaling"] = {"minReplicas": least}
    assert ray_object(rendered(values))["spec"]["excludeHeadPodFromServeSvc"] is excluded


def test_a_change_of_models_alone_leaves_the_cluster_as_it_is() -> None:
    before = written(CHART / "ci" / "service-values.yaml")
    after = {**before, "service": {**before["service"], "models": ["defects"]}}
    first, second = (ray_object(rendered(values))["spec"] for values in (before, after))
    assert first["serveConfigV2"] != second["serveConfigV2"]
    assert first["rayClusterConfig"] == second["rayClusterConfig"], "or it would be exchanged for a new one"


def test_templates_are_what_they_were_when_rendered_again() -> None:
    values = written(CHART / "ci" / "service-redis-canary-values.yaml")
    assert render(values) == render(values), "or each upgrade would restart everything"
