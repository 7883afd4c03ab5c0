"""The way in: TLS 1.3, what every request passes in which order, the access log; and where Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil

from kivactl.spec.platform import Platform
from kivactl.stack.gateway import access, affinity, claims, refusals
from kivactl.stack.gateway.clusters import ADMIN, COLLECTOR, Replica, metrics_cluster
from kivactl.stack.gateway.files import Files, Json, loopback, resources, seconds, type_url
from kivactl.stack.gateway.matching import METADATA, RBAC
from kivactl.stack.gateway.quota import NAME as QUOTA
from kivactl.stack.gateway.routes import MODEL_FROM_PATH, ROUTES
from kivactl.stack.gateway.waiting import waiting_room_for
from kivactl.stack.monitoring import GATEWAY_METRICS, engine_metrics

READY, LIVE = "/ready", "/live"
"""Paths at a pod's metrics port: whether it takes requests, and whether it should be ended."""

_MANAGER = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = {"name": "router", "typed_config": {"@type": type_url("extensions.filters.http.router.v3.Router"), "suppress_envoy_headers": True}}

_SLOWEST_HEADERS_S, _SLOWEST_REQUEST_S = 10.0, 60.0
"""Seconds a client has for the TLS handshake, for the headers, for the whole request; a slow one holds a connection no longer than that."""


def listeners_for(platform: Platform, files: Files, replicas: Mapping[str, Iterable[Replica]]) -> Json:
    """The content of the listeners file: the gateway, the waiting room, the metrics; in a pod also what drains the gateway."""
    entries = [_gateway(platform, files), waiting_room_for(platform, files), _metrics(platform, files, replicas)]
    return resources(entries if files.operations_port is None else [*entries, _operations(files.operations_port)])


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
    return resources([secret])


def http_filters(platform: Platform, files: Files) -> list[Json]:
    """The filters in the order a request passes them: token, body, model, tenant, limits, router."""
    return [
        access.authentication_filter(files),
        *filter(None, [claims.filter_for(platform.gateway.issuers)]),
        access.revocation_filter(files),
        _whole_body(platform.gateway.request_size),
        _model_from_body(),
        {"name": MODEL_FROM_PATH, "typed_config": {"@type": type_url("extensions.filters.http.header_to_metadata.v3.Config")}},
        access.admission_filter(files),
        files.discovered(QUOTA, files.quota, RBAC),
        access.limits_filter(files),
        *filter(None, [affinity.filter_for(platform)]),
        _ROUTER,
    ]


def access_log(files: Files) -> Json:
    """One JSON line a request; no prompt, no answer, no token."""
    return {
        "name": "file",
        "typed_config": {
            "@type": type_url("extensions.access_loggers.file.v3.FileAccessLog"),
            "path": str(files.access_log),
            "log_format": {
                "json_format": {
                    "at": "%START_TIME%",
                    "request_id": "%REQ(X-REQUEST-ID)%",
                    "tenant": f"%REQ({access.TENANT})%",
                    "token_id": f"%REQ({access.TOKEN_ID})%",
                    "token_name": f"%REQ({access.TOKEN_NAME})%",
                    "issuer": f"%DYNAMIC_METADATA({access.JWT_METADATA}:{access.CLAIMS}:iss)%",
                    "model": f"%DYNAMIC_METADATA({METADATA}:model)%",
                    "version": "%METADATA(CLUSTER:kiva:model)%",
                    "method": "%REQ(:METHOD)%",
                    "path": "%PATH(NQ)%",
                    "status": "%RESPONSE_CODE%",
                    "details": "%RESPONSE_CODE_DETAILS%",
                    "flags": "%RESPONSE_FLAGS%",
                    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
                    "first_byte_ms": "%RESPONSE_DURATION%",
                    "duration_ms": "%DURATION%",
                    "received_bytes": "%BYTES_RECEIVED%",
                    "sent_bytes": "%BYTES_SENT%",
                    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                    "replica": "%UPSTREAM_HOST%",
                    "trace_id": "%TRACE_ID%",
                }
            },
        },
    }


def _gateway(platform: Platform, files: Files) -> Json:
    gateway = platform.gateway
    manager = {
        "@type": type_url(_MANAGER),
        "stat_prefix": "gateway",
        "server_name": "kiva",
        "use_remote_address": True,
        "skip_xff_append": True,  # the engine needs no client address
        # No client is trusted to choose request ids, which stand in the ledger, however near it is.
        "internal_address_config": {"unix_sockets": False},
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "always_set_request_id_in_response": True,
        "max_request_headers_kb": max(1, gateway.header_size // 1024),
        "request_headers_timeout": seconds(min(_SLOWEST_HEADERS_S, gateway.request_timeout)),
        "request_timeout": seconds(min(_SLOWEST_REQUEST_S, gateway.request_timeout)),
        "stream_idle_timeout": seconds(gateway.request_timeout),
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST", "idle_timeout": "3600s", "max_headers_count": 100},
        "http2_protocol_options": {"max_concurrent_streams": 1024, "initial_stream_window_size": 65536, "initial_connection_window_size": 1048576},
        "early_header_mutation_extensions": [_not_from_outside()],
        "access_log": [access_log(files)],
        "local_reply_config": refusals.local_replies(_slow_refills(platform)),
        "http_filters": http_filters(platform, files),
        "rds": {"route_config_name": ROUTES, "config_source": files.watched(files.routes)},
        **_tracing(platform),
    }
    tls = {
        "@type": type_url("extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificate_sds_secret_configs": [{"name": "gateway", "sds_config": files.watched(files.certificate_secret)}],
        },
    }
    return {
        "@type": type_url("config.listener.v3.Listener"),
        "name": "gateway",
        "address": {"socket_address": {"address": gateway.address, "port_value": gateway.port}},
        "per_connection_buffer_limit_bytes": gateway.request_size,
        "filter_chains": [
            {
                "filters": [{"name": "http", "typed_config": manager}],
                "transport_socket": {"name": "tls", "typed_config": tls},
                "transport_socket_connect_timeout": seconds(min(_SLOWEST_HEADERS_S, gateway.request_timeout)),
            }
        ],
    }


def _slow_refills(platform: Platform) -> dict[int, list[str]]:
    """Tenants by the seconds in which their slowest limit lets one more request through; a second is the rule."""
    waits: dict[int, list[str]] = {}
    for tenant in platform.gateway.tenants:
        limits = [limit for name in platform.names_for(tenant) if (limit := tenant.limits_for(name).requests_per_minute)]
        if limits and min(limits) < 60:
            waits.setdefault(ceil(60 / min(limits)), []).append(tenant.name)
    return waits


_NOT_FROM_OUTSIDE = "|".join(
    [
        "x-kiva-([^v].*|v[^e].*)",  # all of ours but the version a client may pin
        "x-request-id",  # stands in the ledger
        "x-envoy-.*|grpc-timeout",  # Envoy obeys them: time limits, retries
        "x-vllm-.*|x-data-parallel-.*|x-session-id",  # the engine obeys them: who goes first, and where
        "x-forwarded-.*|forwarded|via|x-real-ip|x-client-ip|true-client-ip|x-original-.*|x-rewrite-.*|x-http-method.*",
        "x-api-key|api-key|cookie",  # credentials for something else
        "proxy-.*|te|trailer|keep-alive",  # end at each hop
    ]
)
"""Headers that clients have no say in: a regular expression of whole names."""


def _not_from_outside() -> Json:
    """Drop what only the gateway may say, and what would steer the gateway or the engine."""
    matcher = {"safe_regex": {"regex": f"(?i)({_NOT_FROM_OUTSIDE})"}}
    return {
        "name": "not_from_outside",
        "typed_config": {
            "@type": type_url("extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"),
            "mutations": [{"remove_on_match": {"key_matcher": matcher}}],
        },
    }


def _whole_body(size_bytes: int) -> Json:
    """Hold the body until it is whole: it is needed to choose the model and to try again on another replica."""
    return {
        "name": "envoy.filters.http.buffer",
        "typed_config": {"@type": type_url("extensions.filters.http.buffer.v3.Buffer"), "max_request_bytes": size_bytes},
    }


def _model_from_body() -> Json:
    """Read `model` from the JSON body; requests of another content type name no model."""
    rule = {"selectors": [{"key": "model"}], "on_present": {"metadata_namespace": METADATA, "key": "model", "type": "STRING"}}
    rules = {"rules": [rule], "allow_content_types_regex": {"regex": r"(?i)application/json\s*(;.*)?"}}
    return {
        "name": "envoy.filters.http.json_to_metadata",
        "typed_config": {"@type": type_url("extensions.filters.http.json_to_metadata.v3.JsonToMetadata"), "request_rules": rules},
    }


def _tracing(platform: Platform) -> Json:
    tracing = platform.gateway.tracing
    if tracing is None:
        return {}
    uri = {"uri": f"{tracing.otlp.rstrip('/')}/v1/traces", "cluster": COLLECTOR, "timeout": "5s"}
    provider = {"@type": type_url("config.trace.v3.OpenTelemetryConfig"), "http_service": {"http_uri": uri}, "service_name": f"{platform.name}-gateway"}
    return {
        "tracing": {
            "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": provider},
            "random_sampling": {"value": tracing.sample_ratio * 100},
            "spawn_upstream_span": True,
            "custom_tags": [{"tag": "kiva.tenant", "request_header": {"name": access.TENANT}}],
        }
    }


def _metrics(platform: Platform, files: Files, replicas: Mapping[str, Iterable[Replica]]) -> Json:
    """Where Prometheus reads: the gateway's metrics and those of each replica, and nothing else of them; in a pod, where the kubelet asks."""
    places = {GATEWAY_METRICS: (ADMIN, "/stats/prometheus?usedonly")}
    places |= {engine_metrics(replica.name): (metrics_cluster(replica.name), "/metrics") for group in replicas.values() for replica in group}
    if files.operations_port is not None:
        places |= {READY: (ADMIN, "/ready"), LIVE: (ADMIN, "/stats?filter=^server.live$")}
    routes = [_passed_on("GET", path, cluster, target) for path, (cluster, target) in places.items()]
    address = {"socket_address": {"address": platform.gateway.metrics.address, "port_value": platform.gateway.metrics_port}}
    # A gateway with all the connections it takes is no reason to end it.
    return _plain("metrics", address, routes) | ({} if files.operations_port is None else {"ignore_global_conn_limit": True})


def _operations(port: int) -> Json:
    """What a pod's own commands may ask, over loopback: begin to drain (clients are told to close, the probe for readiness fails), and what is in work."""
    routes = [
        _passed_on("POST", "/drain", ADMIN, "/healthcheck/fail"),
        _passed_on("GET", "/active", ADMIN, "/stats?filter=^http.gateway.downstream_rq_active$"),
    ]
    return _plain("operations", loopback(port), routes) | {"ignore_global_conn_limit": True}


def _passed_on(method: str, path: str, cluster: str, target: str) -> Json:
    """A route to exactly one path of a cluster."""
    return {
        "match": {"path": path, "headers": [{"name": ":method", "string_match": {"exact": method}}]},
        "route": {"cluster": cluster, "regex_rewrite": {"pattern": {"regex": ".*"}, "substitution": target}, "timeout": "10s"},
    }


def _plain(name: str, address: Json, routes: list[Json]) -> Json:
    """A listener without TLS and tokens."""
    manager = {
        "@type": type_url(_MANAGER),
        "stat_prefix": name,
        "http_filters": [_ROUTER],
        "request_headers_timeout": "10s",
        "request_timeout": "10s",
        "normalize_path": True,
        "merge_slashes": True,
        "route_config": {"name": name, "virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
    }
    return {
        "@type": type_url("config.listener.v3.Listener"),
        "name": name,
        "address": address,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
