"""The replicas: one cluster per model, how they are chosen, watched, and left alone when they fail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kivactl.spec.gateway import Issuer
from kivactl.spec.platform import Model, Platform
from kivactl.stack import generating
from kivactl.stack.gateway.access import issuer_name
from kivactl.stack.gateway.files import Files, Json, resources, seconds, type_url
from kivactl.stack.gateway.routes import cluster_name
from kivactl.stack.gateway.waiting import waiting_endpoint

ADMIN, COLLECTOR = "admin", "collector"
"""Clusters of the gateway's own admin interface, for its metrics, and of the collector of traces."""

_SYSTEM_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
_PLENTY = 100_000
_CHECK_EVERY_S = 2.0

_ALL_BEFORE_WAITING: Json = {"overprovisioning_factor": 1_000_000}
"""Even one healthy replica takes everything: the waiting room gets requests only when there is none."""


@dataclass(frozen=True, slots=True)
class Replica:
    """An engine replica as the gateway sees it."""

    name: str
    socket: Path
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """The engine replicas of a model as a name that leads to all that are ready.

    Attributes:
        host: Whole DNS name, without a dot at its end.
        port: TCP port of each replica.
        most: How many replicas there will be at most.
    """

    host: str
    port: int
    most: int


def clusters_for(platform: Platform, files: Files, replicas: Mapping[str, Iterable[Replica]]) -> Json:
    """The content of the clusters file.

    Args:
        platform: The spec.
        files: Where the endpoints of each model lie.
        replicas: Of every model, for reading the metrics of each.
    """
    return resources(
        [
            *(_model(platform, model, _by_file(model, files), model.replicas) for model in platform.models),
            *_others(platform, files),
            *(_socket(metrics_cluster(replica.name), replica.socket) for group in replicas.values() for replica in group),
        ]
    )


def clusters_by_name_for(platform: Platform, files: Files, services: Mapping[str, Service]) -> Json:
    """The content of the clusters file where replicas come and go behind names.

    Args:
        platform: The spec.
        files: Where the waiting room is.
        services: Of every model.
    """
    of_models = (_model(platform, model, _by_name(model, files, services[model.name]), services[model.name].most) for model in platform.models)
    return resources([*of_models, *_others(platform, files)])


def metrics_cluster(replica: str) -> str:
    """Name of the cluster by which one replica's metrics are read."""
    return f"metrics-{replica}"


def endpoints_for(model: str, files: Files, replicas: Iterable[Replica], *, waiting: bool = True) -> Json:
    """The content of a model's endpoints file. A draining replica finishes what it has and gets nothing new.

    Args:
        model: Its name.
        files: Where the waiting room is.
        replicas: All of them.
        waiting: Whether requests may wait for a replica; not while the platform is stopped.
    """
    own = {
        "lb_endpoints": [
            {
                "health_status": "DRAINING" if replica.draining else "UNKNOWN",
                "endpoint": {"address": {"pipe": {"path": str(replica.socket)}}, "hostname": replica.name},
            }
            for replica in replicas
        ]
    }
    return resources(
        [
            {
                "@type": type_url("config.endpoint.v3.ClusterLoadAssignment"),
                "cluster_name": cluster_name(model),
                "endpoints": [own, *([waiting_endpoint(files)] if waiting else [])],
                "policy": _ALL_BEFORE_WAITING,
            }
        ]
    )


def _others(platform: Platform, files: Files) -> list[Json]:
    """Clusters that serve no model: identity providers, the collector of traces, the gateway's own admin interface."""
    tracing = platform.gateway.tracing
    return [
        *(_identity_provider(number, issuer) for number, issuer in enumerate(platform.gateway.issuers) if _remote(issuer)),
        *([_by_url(COLLECTOR, tracing.otlp, None)] if tracing else []),
        _socket(ADMIN, files.admin_socket),
    ]


def _by_file(model: Model, files: Files) -> Json:
    """Replicas whose sockets stand in a file."""
    return {"type": "EDS", "eds_cluster_config": {"eds_config": files.watched(files.endpoints(model.name))}}


def _by_name(model: Model, files: Files, service: Service) -> Json:
    """Replicas behind a name, asked for every second: who is no longer there gets nothing new, and finishes what it has."""
    address = {"socket_address": {"address": service.host, "port_value": service.port}}
    # Not with the search domains of a pod, which make eight questions of two.
    resolver = {
        "@type": type_url("extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"),
        "dns_resolver_options": {"no_default_search_domain": True},
    }
    return {
        "type": "STRICT_DNS",
        "typed_dns_resolver_config": {"name": "envoy.network.dns_resolver.cares", "typed_config": resolver},
        "dns_lookup_family": "ALL",
        "dns_refresh_rate": "1s",
        "respect_dns_ttl": False,
        "dns_failure_refresh_rate": {"base_interval": "1s", "max_interval": "2s"},
        "load_assignment": {
            "cluster_name": cluster_name(model.name),
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}, waiting_endpoint(files)],
            "policy": _ALL_BEFORE_WAITING,
        },
    }


def _model(platform: Platform, model: Model, found: Json, most: int) -> Json:
    """A model's cluster.

    Args:
        platform: The spec.
        model: Of the spec.
        found: The part that says how its replicas are found.
        most: How many replicas there will be at most.
    """
    room = most * (model.concurrency + model.queue)
    return {
        "@type": type_url("config.cluster.v3.Cluster"),
        "name": cluster_name(model.name),
        **_statistics(cluster_name(model.name)),
        **found,
        "metadata": {"filter_metadata": {"kiva": {"model": model.name}}},
        "connect_timeout": "2s",
        **_balance(model, most),
        "per_connection_buffer_limit_bytes": platform.gateway.request_size,
        "ignore_health_on_host_removal": True,
        **_statistics(cluster_name(model.name)),
        # A replica that hangs keeps its connections open: closing them lets the requests that have no answer yet be
        # retried elsewhere.
        "close_connections_on_host_health_failure": True,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": type_url("extensions.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": {"http_protocol_options": {}},
                # Below the engine's own five seconds: a connection must not be used while its other end closes it.
                "common_http_protocol_options": {"idle_timeout": "4s"},
            }
        },
        "circuit_breakers": {
            "thresholds": [
                _threshold("DEFAULT", room),
                # What is full for others has some room left for tenants of high priority.
                _threshold("HIGH", room + max(8, room // 4)),
            ]
        },
        "health_checks": [
            {
                # Two checks in a row fail within the time after which a replica counts as stalled.
                "timeout": seconds((model.stalled_after - _CHECK_EVERY_S) / 2),
                "interval": seconds(_CHECK_EVERY_S),
                "unhealthy_interval": "1s",
                "no_traffic_interval": seconds(_CHECK_EVERY_S),
                "no_traffic_healthy_interval": seconds(_CHECK_EVERY_S),
                "interval_jitter_percent": 10,
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                # Not /health: an engine answers that even when it generates nothing.
                "http_health_check": {"path": generating.PATH},
            }
        ],
        "outlier_detection": {
            "consecutive_5xx": _PLENTY,
            "enforcing_consecutive_5xx": 0,
            "enforcing_success_rate": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 1,
            "enforcing_consecutive_local_origin_failure": 100,
            "enforcing_local_origin_success_rate": 0,
            "interval": "1s",
            "base_ejection_time": "1s",
            "max_ejection_time": "5s",
            "max_ejection_percent": 100,
        },
    }


def _balance(model: Model, most: int) -> Json:
    # With no healthy replica the waiting room beats sending requests to a dead one.
    common: Json = {"healthy_panic_threshold": {"value": 0}}
    if model.balance == "least-request":
        return {
            "lb_policy": "LEAST_REQUEST",
            "least_request_lb_config": {"choice_count": max(2, min(most * 2, 16))},
            "common_lb_config": common,
        }
    # A replica takes at most a quarter more than its share; beyond that the next on the ring gets the request.
    hashing = {"hash_balance_factor": 125}
    return {
        "lb_policy": "RING_HASH",
        "ring_hash_lb_config": {"minimum_ring_size": 1024},
        "common_lb_config": {**common, "consistent_hashing_lb_config": hashing},
    }


def _threshold(priority: str, requests: int) -> Json:
    return {
        "priority": priority,
        "max_connections": _PLENTY,
        "max_pending_requests": requests,
        "max_requests": requests,
        # When the last of several replicas dies all requests in work need one retry each; more would be a storm.
        "retry_budget": {"budget_percent": {"value": 100}, "min_retry_concurrency": 64},
    }


def _remote(issuer: Issuer) -> bool:
    return urlsplit(issuer.jwks).scheme in {"http", "https"}


def _identity_provider(number: int, issuer: Issuer) -> Json:
    return _by_url(issuer_name(number), issuer.jwks, issuer.ca)


def _by_url(name: str, url: str, ca: str | None) -> Json:
    """A cluster for the server that a URL names."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    endpoint = {"address": {"socket_address": {"address": host, "port_value": parts.port or (443 if secure else 80)}}}
    cluster: Json = {
        "@type": type_url("config.cluster.v3.Cluster"),
        "name": name,
        "type": "STRICT_DNS",
        "dns_lookup_family": "ALL",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }
    if not secure:
        return cluster
    validation = {
        "trusted_ca": {"filename": ca or _SYSTEM_AUTHORITIES},
        "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": host}} for kind in ("DNS", "IP_ADDRESS")],
    }
    context = {
        "@type": type_url("extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
        "sni": host,
        "common_tls_context": {"validation_context": validation},
    }
    return {**cluster, "transport_socket": {"name": "tls", "typed_config": context}}


def _statistics(name: str) -> Json:
    """What a cluster is called in statistics: Envoy ends a name at its first dot, and takes the rest for a part of the metric's name."""
    return {"alt_stat_name": name.replace(".", "_")} if "." in name else {}


def _socket(name: str, path: Path) -> Json:
    endpoint = {"address": {"pipe": {"path": str(path)}}}
    return {
        "@type": type_url("config.cluster.v3.Cluster"),
        "name": name,
        **_statistics(name),
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }
