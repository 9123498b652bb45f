"""The Pod Security Standard `restricted`, for the fields that this chart can write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def breaches(pod: Mapping[str, Any]) -> Iterator[str]:
    """Yield the admission controller's errors for a pod's specification."""
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield key
    for volume in pod.get("volumes", ()):
        if set(volume) - {"name"} - VOLUMES:
            yield f"volume {volume['name']}"
    whole = pod.get("securityContext", {})
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        yield from of_container(container, whole)


def of_container(container: Mapping[str, Any], pod: Mapping[str, Any]) -> Iterator[str]:
    """Yield its errors for a container in a pod with that security context."""
    name = container["name"]
    own = container.get("securityContext", {})
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation"
    if own.get("privileged"):
        yield f"{name}: privileged"
    if not own.get("runAsNonRoot", pod.get("runAsNonRoot", False)):
        yield f"{name}: runAsNonRoot"
    if own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield f"{name}: runAsUser"
    if (own.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type") not in {
        "RuntimeDefault",
        "Localhost",
    }:
        yield f"{name}: seccompProfile"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()) or set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"{name}: capabilities"
    if any("hostPort" in port for port in container.get("ports", ())):
        yield f"{name}: hostPort"
