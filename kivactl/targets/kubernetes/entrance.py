"""How this process reaches a gateway in a cluster: by its own name where it has one, else through the API server."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from kivactl.errors import NotReadyError, PreconditionError
from kivactl.spec.platform import Platform
from kivactl.stack.kubernetes.names import cluster_of, endpoint_of, gateway_release
from kivactl.targets.kubernetes.capacity import INSTANCE
from kivactl.targets.kubernetes.waiting import ending, is_ready
from kivactl.tools.kube import Cluster
from kivactl.tools.kube_forward import Forward

_GOOD_FOR_S = 1.0
_PATIENCE_S = 2.0

_GUARD = threading.Lock()


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
    return f"https://127.0.0.1:{_forwarded(platform, cluster)}/v1"


def _forwarded(platform: Platform, cluster: Cluster) -> int:
    """The port on this machine: one for the whole process, which leads to the gateway's pods in turn, as a Service does."""
    release = gateway_release(platform)
    ready = _ready_pods(cluster, release)
    key = (cluster.server, cluster.namespace, release, platform.gateway.port)
    with _GUARD:
        if key in _FORWARDS:
            forward, pods = _FORWARDS[key]
            pods.seen(ready)
        else:
            pods = _Pods(cluster, release, ready)
            forward = cluster.forward(pods.in_turn, platform.gateway.port)
            _FORWARDS[key] = (forward, pods)
        return forward.port


class _Pods:
    """The gateway's pods, looked up at most once a second."""

    def __init__(self, cluster: Cluster, release: str, ready: list[str]) -> None:
        self._cluster, self._release, self._ready = cluster.impatient(_PATIENCE_S), release, ready
        self._turn, self._looked_s, self._guard = 0, time.monotonic(), threading.Lock()

    def seen(self, ready: list[str]) -> None:
        """Take note of those that are ready now."""
        with self._guard:
            self._ready, self._looked_s = ready, time.monotonic()

    def in_turn(self) -> list[str]:
        """Those that are ready, another one first each time."""
        with self._guard:
            if time.monotonic() - self._looked_s >= _GOOD_FOR_S:
                with suppress(NotReadyError):  # those of before may be back
                    self._ready = _ready_pods(self._cluster, self._release)
                self._looked_s = time.monotonic()
            self._turn += 1
            first = self._turn % len(self._ready)
            return self._ready[first:] + self._ready[:first]


def _ready_pods(cluster: Cluster, release: str) -> list[str]:
    pods = cluster.list("Pod", f"{INSTANCE}={release}").items
    ready = [str(pod["metadata"]["name"]) for pod in pods if is_ready(pod) and not ending(pod)]
    if not ready:
        raise NotReadyError("no pod of the gateway is ready" if pods else "there is no pod of the gateway", "kivactl status")
    return ready


_FORWARDS: dict[tuple[str, str, str, int], tuple[Forward, _Pods]] = {}
"""By server, namespace, release and port."""
