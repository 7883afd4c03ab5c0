"""How this process reaches a gateway in a cluster: by its own name where it has one, else through the API server."""

from __future__ import annotations

from kivactl.errors import NotReadyError, PreconditionError
from kivactl.spec.platform import Platform
from kivactl.stack.kubernetes.names import cluster_of, endpoint_of, gateway_release
from kivactl.targets.kubernetes.capacity import INSTANCE
from kivactl.targets.kubernetes.waiting import ending, is_ready
from kivactl.tools.kube import Cluster


def url_for(platform: Platform, cluster: Cluster) -> str:
    """Base URL that ends in `/v1`, for requests of this process.

    A forwarded port stays open until the process ends.

    Args:
        platform: The spec.
        cluster: Where it runs.

    Raises:
        PreconditionError: Nothing leads to the gateway under a name that its certificate has.
        NotReadyError: No pod of the gateway is ready.
        KivaError: The cluster refuses, or does not answer.
    """
    entrance = cluster_of(platform).gateway
    if entrance.host is not None and entrance.expose != "cluster-ip":
        return endpoint_of(platform)
    if entrance.certificate != "own":
        raise PreconditionError(
            "the gateway's certificate is somebody else's, so it is only good under the gateway's own name",
            "set `kubernetes.gateway.host` and an `expose` that leads there in kiva.yaml",
        )
    return f"https://127.0.0.1:{cluster.forward(_ready_pod(platform, cluster), platform.gateway.port).port}/v1"


def _ready_pod(platform: Platform, cluster: Cluster) -> str:
    pods = cluster.list("Pod", f"{INSTANCE}={gateway_release(platform)}").items
    for pod in pods:
        if is_ready(pod) and not ending(pod):
            return str(pod["metadata"]["name"])
    raise NotReadyError("no pod of the gateway is ready" if pods else "there is no pod of the gateway", "kivactl status")
