"""The values of the chart kiva-gateway: Envoy, its configuration files, the meter beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kivactl.spec.kubernetes import Kubernetes
from kivactl.spec.platform import Model, Platform
from kivactl.stack.gateway.clusters import Service
from kivactl.stack.kubernetes.gateway_files import LEDGER_FOLDER, METER_ORDERS, POD_FILES, USAGE_FOLDER, gateway_command_for, pod_files_for
from kivactl.stack.kubernetes.names import ENGINE_PORT, all_replicas_host, cluster_of, gateway_names, service_host, tls_secret
from kivactl.stack.kubernetes.parts import cores, egress_to, placement_for, quantity, scrape_annotations, store_of
from kivactl.stack.metering import orders_for
from kivactl.stack.monitoring import GATEWAY_METRICS

Json = dict[str, Any]

_LONGEST_DRAIN_S = 3600
_WITH_CLASS = {"load-balancer", "ingress", "gateway-api"}
_LEDGER_SIZE = "5Gi"
_POSTGRESQL_PORT = 5432


@dataclass(frozen=True, slots=True)
class _PodPlaces:
    """Where the meter's files lie in the gateway's pod."""

    access_log: Path = POD_FILES.access_log
    usage: Path = USAGE_FOLDER
    gateway_admin_socket: Path = POD_FILES.admin_socket
    quota: Path = POD_FILES.quota
    ledger: Path = LEDGER_FOLDER / "ledger.db"


def gateway_values_for(platform: Platform, *, jwks: Mapping[str, Any], revoked: Iterable[str] = ()) -> Json:
    """The values of the gateway's release.

    Args:
        platform: The spec, with `target: kubernetes`.
        jwks: Public keys that sign tokens.
        revoked: Ids of tokens that are no longer good.
    """
    cluster, gateway = cluster_of(platform), platform.gateway
    entrance = cluster.gateway
    drain_s = min(round(gateway.request_timeout), _LONGEST_DRAIN_S)
    return {
        "platform": platform.name,
        "image": {"reference": cluster.images.gateway, "pullPolicy": "IfNotPresent", "unpinned": cluster.images.unpinned},
        "tools": {"reference": cluster.images.tools or cluster.images.engine},
        "pullSecrets": list(cluster.pull_secrets),
        "replicas": entrance.replicas,
        "command": list(gateway_command_for(platform, max(1, int(entrance.resources.cpu)))),
        "files": {name: written(content) for name, content in pod_files_for(platform, services_for(platform), jwks, revoked).items()},
        "meter": {
            # Even one gateway shares its ledger for a while: with the pod that takes its place.
            "orders": written({**orders_for(platform, _PodPlaces()), "engines": engines_of(platform), "shared": True}),
            "secret": cluster.ledger_secret or "" if platform.usage.ledger != "sqlite" else "",
            "stateClaim": {"create": platform.usage.ledger == "sqlite", "class": cluster.storage.class_name or "", "size": _LEDGER_SIZE},
        },
        # Whom it asks stands in the orders, so that a new model starts no gateway anew.
        "usage": {"command": ["python3", "-m", "kivactl.usage.fetch", str(METER_ORDERS)]},
        "ports": {"https": gateway.port, "metrics": gateway.metrics_port, "engines": ENGINE_PORT},
        "tls": _tls(platform, cluster),
        "expose": {
            "kind": entrance.expose,
            "host": entrance.host or "",
            "class": entrance.class_name or "" if entrance.expose in _WITH_CLASS else "",
            "allowed": list(entrance.allowed),
            "annotations": dict(entrance.annotations),
        },
        "drain": {"seconds": drain_s},
        "resources": {"cpu": cores(entrance.resources.cpu), "memory": quantity(entrance.resources.memory)},
        "placement": placement_for(cluster.nodes.get(cluster.gateway_nodes or ""), spread="kubernetes.io/hostname"),
        "disruptionBudget": {"enabled": True, "maxUnavailable": 1},
        "networkPolicy": {
            "enabled": cluster.network_policies,
            "monitoringNamespace": cluster.monitoring.namespace or "",
            "egress": egress_to(_reached(platform)),
        },
        "autoscaling": {"enabled": False, "min": entrance.replicas, "max": entrance.replicas, "cpu": 70},
        "labels": {},
        "annotations": scrape_annotations(cluster, gateway.metrics_port, GATEWAY_METRICS),
    }


def _reached(platform: Platform) -> list[str]:
    """URLs of what a gateway's pod connects to besides engines: identity providers, the collector of traces, the ledger."""
    gateway, ledger = platform.gateway, urlsplit(platform.usage.ledger)
    keys = [issuer.jwks for issuer in gateway.issuers if urlsplit(issuer.jwks).scheme in {"http", "https"}]
    traces = [gateway.tracing.otlp] if gateway.tracing else []
    server = f"{ledger.scheme}://{ledger.netloc}{'' if ledger.port else f':{_POSTGRESQL_PORT}'}"
    return [*keys, *traces, *([server] if ledger.netloc else [])]


def services_for(platform: Platform) -> dict[str, Service]:
    """Where the gateway finds the engines of each model, and how many there may be."""
    return {model.name: Service(service_host(platform, model.name), ENGINE_PORT, most_replicas(model)) for model in platform.models}


def most_replicas(model: Model) -> int:
    """How many replicas a model has at most."""
    scale = model.kubernetes.autoscale
    return model.replicas if scale is None else scale.max


def engines_of(platform: Platform) -> list[str]:
    """Names and ports behind which all replicas are found, ready or not, that have counted something."""
    return [f"{all_replicas_host(platform, model.name)}:{ENGINE_PORT}" for model in platform.models]


def _tls(platform: Platform, cluster: Kubernetes) -> Json:
    kind, _, name = cluster.gateway.certificate.partition(":")
    issuers = {"cert-manager": "Issuer", "cluster-issuer": "ClusterIssuer"}
    return {
        "secret": tls_secret(platform),
        "certManager": {"issuer": name if kind in issuers else "", "kind": issuers.get(kind, "Issuer"), "names": list(gateway_names(platform))},
        "externalSecret": {
            "store": "",
            "storeKind": "SecretStore",
            "key": "",
            **({**store, "key": name} if kind == "secret" and (store := store_of(cluster)) else {}),
        },
    }


def written(content: Any) -> str:
    """JSON that is the same whenever its content is."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
