"""The gateway: Envoy's configuration from the spec, the same for every target.

The parts change at different times, so each is a file of its own that Envoy watches:

- `bootstrap` (admin socket, where the rest lies): a change restarts the gateway;
- `listeners` (TLS, tokens, routes) and `clusters` (one per model): changed at run time, open connections live on;
- `endpoints` (the replicas of one model): a replica is drained by marking it here;
- `certificate`: read again when the file is replaced.

Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/api
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kivactl.spec.gateway import Gateway
from kivactl.spec.platform import Platform
from kivactl.stack import refusals
from kivactl.stack.gateway_filters import Json, access_log, http_filters, metadata_match, type_url

API_PATHS = ("chat/completions", "completions", "embeddings", "responses", "rerank", "score", "pooling", "classify")
"""What clients may ask of an engine, below `/v1/`. All else of an engine (metrics, LoRA loading, sleep) is unreachable."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where the gateway finds its files, as absolute paths on the machine it runs on."""

    folder: Path
    admin_socket: Path
    certificate: Path
    certificate_key: Path

    @property
    def bootstrap(self) -> Path:
        return self.folder / "bootstrap.json"

    @property
    def listeners(self) -> Path:
        return self.folder / "listeners.json"

    @property
    def clusters(self) -> Path:
        return self.folder / "clusters.json"

    @property
    def certificate_secret(self) -> Path:
        return self.folder / "certificate.json"

    def endpoints(self, model: str) -> Path:
        """The file with the replicas of a model."""
        return endpoints_file(self.folder, model)


@dataclass(frozen=True, slots=True)
class Replica:
    """An engine replica as the gateway sees it."""

    name: str
    socket: Path
    draining: bool = False


def bootstrap_for(platform: Platform, files: Files) -> Json:
    """What Envoy starts with."""
    return {
        "node": {"id": platform.name, "cluster": "kiva"},
        "admin": {"address": {"pipe": {"path": str(files.admin_socket), "mode": 0o600}}},
        "dynamic_resources": {"lds_config": _watched(files.listeners), "cds_config": _watched(files.clusters)},
        "layered_runtime": {
            "layers": [{"name": "static", "static_layer": {"re2.max_program_size.error_level": 1000}}],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": type_url("extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"),
                        "max_active_downstream_connections": 20_000,
                    },
                }
            ]
        },
    }


def validation_for(bootstrap: Json, listeners: Json, clusters: Json, certificate: Json) -> Json:
    """All parts in one static configuration that reads no watched file, for `envoy --mode validate`."""
    return {
        **_without(bootstrap, "dynamic_resources"),
        "static_resources": {
            "listeners": [_without(resource, "@type", "sds_config") for resource in listeners["resources"]],
            "clusters": [{**_without(resource, "@type", "eds_cluster_config"), "type": "STATIC"} for resource in clusters["resources"]],
            "secrets": [_without(resource, "@type") for resource in certificate["resources"]],
        },
    }


def listeners_for(platform: Platform, files: Files, jwks: Mapping[str, Any]) -> Json:
    """The listener: TLS 1.3, tokens, body limits, routes.

    Args:
        platform: The spec.
        files: Where the certificate lies.
        jwks: Public keys that sign tokens, as a JSON Web Key Set.
    """
    gateway = platform.gateway
    manager = {
        "@type": type_url("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "gateway",
        "server_name": "kiva",
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "always_set_request_id_in_response": True,
        "request_headers_timeout": "10s",
        "stream_idle_timeout": _seconds(gateway.request_timeout),
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST", "idle_timeout": "3600s"},
        "http2_protocol_options": {"max_concurrent_streams": 1024},
        "access_log": [access_log()],
        "local_reply_config": refusals.local_replies(),
        "http_filters": http_filters(platform, jwks),
        "route_config": {
            "name": "gateway",
            "virtual_hosts": [{"name": "gateway", "domains": ["*"], "routes": routes_for(platform)}],
            "request_headers_to_remove": ["authorization", "x-kiva-tenant"],
        },
    }
    tls = {
        "@type": type_url("extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificate_sds_secret_configs": [{"name": "gateway", "sds_config": _watched(files.certificate_secret)}],
        },
    }
    listener = {
        "@type": type_url("config.listener.v3.Listener"),
        "name": "gateway",
        "address": {"socket_address": {"address": gateway.address, "port_value": gateway.port}},
        "per_connection_buffer_limit_bytes": gateway.request_size,
        "filter_chains": [
            {
                "filters": [{"name": "http", "typed_config": manager}],
                "transport_socket": {"name": "tls", "typed_config": tls},
                "transport_socket_connect_timeout": "10s",
            }
        ],
    }
    return {"resources": [listener]}


def certificate_for(files: Files) -> Json:
    """The reference to the certificate files; Envoy reads them again when their folder changes."""
    secret = {
        "@type": type_url("extensions.transport_sockets.tls.v3.Secret"),
        "name": "gateway",
        "tls_certificate": {
            "certificate_chain": {"filename": str(files.certificate)},
            "private_key": {"filename": str(files.certificate_key)},
            "watched_directory": {"path": str(files.certificate.parent)},
        },
    }
    return {"resources": [secret]}


def clusters_for(platform: Platform, files: Files) -> Json:
    """One cluster per model; its replicas come from the model's own file."""
    return {"resources": [_cluster(platform.gateway, model.name, files) for model in platform.models]}


def endpoints_for(model: str, replicas: Iterable[Replica]) -> Json:
    """The replicas of a model. A draining one finishes what it has and gets nothing new."""
    return {
        "resources": [
            {
                "@type": type_url("config.endpoint.v3.ClusterLoadAssignment"),
                "cluster_name": cluster_name(model),
                "endpoints": [
                    {
                        "lb_endpoints": [
                            {
                                "health_status": "DRAINING" if replica.draining else "UNKNOWN",
                                "endpoint": {"address": {"pipe": {"path": str(replica.socket)}}, "hostname": replica.name},
                            }
                            for replica in replicas
                        ]
                    }
                ],
            }
        ]
    }


def endpoints_file(folder: Path, model: str) -> Path:
    """The file with the replicas of a model, in the gateway's folder."""
    return folder / f"endpoints-{model}.json"


def cluster_name(model: str) -> str:
    """Name of a model's cluster in Envoy's configuration and statistics."""
    return f"engine-{model}"


def command_for(envoy: Path, files: Files, *, workers: int, drain_s: float) -> tuple[str, ...]:
    """Envoy's command line. One gateway per socket folder needs no hot restart, which would take shared memory."""
    return (
        str(envoy),
        "--config-path",
        str(files.bootstrap),
        "--concurrency",
        str(workers),
        "--disable-hot-restart",
        "--drain-time-s",
        str(round(drain_s)),
        "--drain-strategy",
        "immediate",
        "--log-level",
        "warning",
    )


def routes_for(platform: Platform) -> list[Json]:
    """The routes in the order Envoy tries them."""
    api = {"safe_regex": {"regex": f"/v1/({'|'.join(API_PATHS)})"}}
    models = [{"id": model.name, "object": "model", "owned_by": platform.name} for model in platform.models]
    to_models = [
        {
            "match": {**api, "dynamic_metadata": [metadata_match("model", {"string_match": {"exact": model.name}})]},
            "route": {
                "cluster": cluster_name(model.name),
                "timeout": _seconds(platform.gateway.request_timeout),
                "retry_policy": _retries(),
            },
        }
        for model in platform.models
    ]
    return [
        {
            "match": {"path": "/v1/models", "headers": [{"name": ":method", "string_match": {"exact": "GET"}}]},
            "direct_response": {"status": 200, "body": {"inline_string": json.dumps({"object": "list", "data": models})}},
            "response_headers_to_add": [{"header": {"key": "content-type", "value": "application/json"}}],
        },
        *to_models,
        refusals.route({**api, "dynamic_metadata": [metadata_match("model", {"present_match": True})]}, refusals.UNKNOWN_MODEL),
        refusals.route({**api, "headers": [{"name": ":method", "string_match": {"exact": "POST"}}]}, refusals.NO_MODEL),
        refusals.route({"prefix": "/"}, refusals.UNKNOWN_PATH),
    ]


def _cluster(gateway: Gateway, model: str, files: Files) -> Json:
    return {
        "@type": type_url("config.cluster.v3.Cluster"),
        "name": cluster_name(model),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _watched(files.endpoints(model))},
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "per_connection_buffer_limit_bytes": gateway.request_size,
        # With no healthy replica a quick 503 beats sending requests to a dead one.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "ignore_health_on_host_removal": True,
        # A replica that hangs keeps its connections open: closing them lets the requests that have no answer yet be
        # retried elsewhere.
        "close_connections_on_host_health_failure": True,
        "circuit_breakers": {"thresholds": [{"max_connections": 20_000, "max_pending_requests": 20_000, "max_requests": 20_000, "max_retries": 1_000}]},
        "health_checks": [
            {
                # Ten seconds: an engine that computes on all its cores answers late, and that is not a fault.
                "timeout": "10s",
                "interval": "5s",
                "unhealthy_interval": "1s",
                "no_traffic_interval": "1s",
                "interval_jitter_percent": 10,
                "unhealthy_threshold": 3,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/health"},
            }
        ],
        "outlier_detection": {
            "consecutive_5xx": 1_000_000,
            "enforcing_consecutive_5xx": 0,
            "enforcing_success_rate": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 2,
            "enforcing_consecutive_local_origin_failure": 100,
            "enforcing_local_origin_success_rate": 0,
            "interval": "1s",
            "base_ejection_time": "1s",
            "max_ejection_time": "5s",
            "max_ejection_percent": 100,
        },
    }


def _retries() -> Json:
    return {
        "retry_on": "connect-failure,refused-stream,reset,reset-before-request",
        "num_retries": 4,
        "retry_host_predicate": [
            {"name": "previous_hosts", "typed_config": {"@type": type_url("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")}}
        ],
        "host_selection_retry_max_attempts": 5,
        "retry_back_off": {"base_interval": "0.1s", "max_interval": "2s"},
    }


def _without(value: Any, *keys: str) -> Any:
    """A copy without some keys: `@type` at the top only, for inside it says what a filter is; the others anywhere."""
    if isinstance(value, list):
        return [_without(entry, *keys) for entry in value]
    if isinstance(value, dict):
        deeper = tuple(key for key in keys if key != "@type")
        return {key: _without(entry, *deeper) for key, entry in value.items() if key not in keys}
    return value


def _watched(path: Path) -> Json:
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}}


def _seconds(duration_s: float) -> str:
    return f"{duration_s:g}s"
