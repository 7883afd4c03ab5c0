"""The gateway's configuration in pods: the same builders as on one machine, with what differs there.

Replicas are found by the names of their Services instead of by sockets, files change by the swap of a mounted folder instead of by being
renamed, and a loopback port of the pod stands for the waiting room's socket. Who is let in and who gets an answer from where is the same.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kivactl.spec.platform import Platform
from kivactl.stack.gateway import access, bootstrap, clusters, listener, quota, routes
from kivactl.stack.gateway.clusters import Service
from kivactl.stack.gateway.files import Files, Json

POD_FILES = Files(
    folder=Path("/etc/kiva/gateway"),
    run=Path("/run/kiva"),
    certificate=Path("/etc/kiva/tls/tls.crt"),
    certificate_key=Path("/etc/kiva/tls/tls.key"),
    access_log=Path("/var/kiva/log/access.log"),
    quota_folder=Path("/var/kiva/quota"),
    mounted=True,
    waiting_port=4010,
    operations_port=4011,
)
"""Where the gateway's containers have their files."""

METER_ORDERS, USAGE_FOLDER, LEDGER_FOLDER = Path("/etc/kiva/meter/meter.json"), Path("/var/kiva/usage"), Path("/var/kiva/ledger")
"""Of the meter beside it: what it has to know, what the engines counted, the claim for a ledger in a file."""

ENVOY = Path("/usr/local/bin/envoy")


def pod_files_for(
    platform: Platform, services: Mapping[str, Service], jwks: Mapping[str, Any], revoked: Iterable[str], files: Files = POD_FILES
) -> dict[str, Json]:
    """Every file of the gateway by its name, `quota.json` only as it is before the meter writes it.

    Args:
        platform: The spec.
        services: Of every model.
        jwks: Public keys that sign the platform's tokens.
        revoked: The `jti` of every token that is no longer good.
        files: Where they lie.
    """
    inside = listening(platform)
    content = {
        files.bootstrap: bootstrap.bootstrap_for(inside, files),
        files.certificate_secret: listener.certificate_for(files),
        files.authentication: access.authentication_for(inside, jwks),
        files.revoked: access.revocation_for(revoked),
        files.admission: access.admission_for(inside),
        files.limits: access.limits_for(inside),
        files.quota: quota.quota_for({}),
        files.clusters: clusters.clusters_by_name_for(inside, files, services),
        files.routes: routes.routes_for(inside),
        files.listeners: listener.listeners_for(inside, files, {}),
    }
    return {path.name: value for path, value in content.items()}


def gateway_command_for(platform: Platform, workers: int) -> tuple[str, ...]:
    """Envoy's command line in a pod.

    Args:
        platform: The spec.
        workers: Threads of the gateway.
    """
    return bootstrap.command_for(ENVOY, POD_FILES, workers=workers, drain_s=platform.gateway.request_timeout)


def listening(platform: Platform) -> Platform:
    """The spec with addresses that are reached from outside a pod: what says this machine only is meant for machines."""
    gateway = platform.gateway
    metrics = gateway.metrics.model_copy(update={"address": _reachable(gateway.metrics.address)})
    return platform.model_copy(update={"gateway": gateway.model_copy(update={"address": _reachable(gateway.address), "metrics": metrics})})


def _reachable(address: str) -> str:
    """Every address of the pod, of the family that the spec names."""
    return "::" if ipaddress.ip_address(address).version == 6 else "0.0.0.0"  # noqa: S104  (a pod has its network policies)
