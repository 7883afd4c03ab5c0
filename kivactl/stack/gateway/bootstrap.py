"""What Envoy starts with: its admin socket, where the rest lies, and how much it takes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kivactl.spec.platform import Platform
from kivactl.stack.gateway.files import Files, Json, type_url


def bootstrap_for(platform: Platform, files: Files) -> Json:
    """The bootstrap configuration."""
    return {
        "node": {"id": platform.name, "cluster": "kiva"},
        "admin": {"address": {"pipe": {"path": str(files.admin_socket), "mode": 0o600}}},
        "dynamic_resources": {"lds_config": files.watched(files.listeners), "cds_config": files.watched(files.clusters)},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {"re2.max_program_size.error_level": 100_000}}]},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": type_url("extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"),
                        "max_active_downstream_connections": platform.gateway.connections,
                    },
                }
            ]
        },
    }


def command_for(envoy: Path, files: Files, *, workers: int, drain_s: float) -> tuple[str, ...]:
    """Envoy's command line. One gateway per socket folder needs no hot restart, which would take shared memory."""
    return (
        str(envoy),
        *("--config-path", str(files.bootstrap)),
        *("--concurrency", str(workers)),
        "--disable-hot-restart",
        *("--drain-time-s", str(round(drain_s))),
        *("--drain-strategy", "immediate"),
        # The meter reads the access log; ten seconds, Envoy's own choice, would be late for limits.
        *("--file-flush-interval-msec", "250"),
        *("--log-level", "warning"),
    )


def validation_for(content: dict[Path, Json], files: Files) -> Json:
    """All parts in one static configuration that reads no watched file, for `envoy --mode validate`.

    Args:
        content: Every file by its path.
        files: Which is which.
    """
    filters = {
        resource["name"]: resource["typed_config"]
        for path in (files.authentication, files.revoked, files.admission, files.limits, files.quota)
        for resource in content[path]["resources"]
    }
    routes = {resource["name"]: _without(resource, "@type") for resource in content[files.routes]["resources"]}
    return {
        **_without(content[files.bootstrap], "dynamic_resources"),
        "static_resources": {
            "listeners": [_static(_without(resource, "@type", "sds_config"), filters, routes) for resource in content[files.listeners]["resources"]],
            "clusters": [_static_cluster(_without(resource, "@type", "eds_cluster_config")) for resource in content[files.clusters]["resources"]],
            "secrets": [_without(resource, "@type") for resource in content[files.certificate_secret]["resources"]],
        },
    }


def _static(value: Any, filters: Json, routes: Json) -> Any:
    """Put what would be discovered in its place."""
    if isinstance(value, list):
        return [_static(entry, filters, routes) for entry in value]
    if not isinstance(value, dict):
        return value
    if "config_discovery" in value:
        return {"name": value["name"], "typed_config": filters[value["name"]]}
    placed = {key: _static(entry, filters, routes) for key, entry in value.items() if key != "rds"}
    return {**placed, "route_config": routes[value["rds"]["route_config_name"]]} if "rds" in value else placed


def _static_cluster(cluster: Json) -> Json:
    return {**cluster, "type": "STATIC"} if cluster.get("type") == "EDS" else cluster


def _without(value: Any, *keys: str) -> Any:
    """A copy without some keys: `@type` at the top only, for inside it says what a filter is; the others anywhere."""
    if isinstance(value, list):
        return [_without(entry, *keys) for entry in value]
    if isinstance(value, dict):
        deeper = tuple(key for key in keys if key != "@type")
        return {key: _without(entry, *deeper) for key, entry in value.items() if key not in keys}
    return value
