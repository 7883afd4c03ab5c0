"""Small parts that the values of several charts have in common: quantities, placement, what may be reached."""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from kivactl.spec.kubernetes import Kubernetes, NodePool

Json = dict[str, Any]

_PORTS = {"http": 80, "https": 443, "postgresql": 5432}
_UNITS = (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10))


def quantity(size_bytes: int) -> str:
    """A size as Kubernetes writes it, exactly: `16Gi`, `1536Mi`, `65000000000`."""
    return next((f"{size_bytes // factor}{unit}" for unit, factor in _UNITS if size_bytes and size_bytes % factor == 0), str(size_bytes))


def cores(cpu: float) -> str:
    """Cores as Kubernetes writes them: `4`, `500m`."""
    return str(int(cpu)) if cpu == int(cpu) else f"{round(cpu * 1000)}m"


def certificate_secret(name: str, certificate: bytes, key: bytes) -> Json:
    """The Secret with a certificate (PEM, a chain) and its key: applied without Helm, which would keep both in its history."""
    labels = {"app.kubernetes.io/part-of": "kiva", "app.kubernetes.io/managed-by": "kivactl"}
    data = {"tls.crt": b64encode(certificate).decode(), "tls.key": b64encode(key).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name, "labels": labels}, "data": data}


def placement_for(pool: NodePool | None, *, spread: str) -> Json:
    """Where pods go.

    Args:
        pool: Of the spec; None for any node.
        spread: The label of nodes by which pods keep away from each other.
    """
    pool = pool or NodePool()
    return {
        "nodeSelector": dict(pool.select),
        "tolerations": [_toleration(text) for text in pool.tolerate],
        "priorityClass": pool.priority_class or "",
        "spread": spread,
    }


def egress_to(urls: Iterable[str]) -> list[Json]:
    """Rules of a network policy that let out to the servers of some URLs: by port, and by address where the URL has one."""
    rules: list[Json] = []
    for url in urls:
        parts = urlsplit(url)
        rule: Json = {"ports": [{"protocol": "TCP", "port": parts.port or _PORTS[parts.scheme]}]}
        try:
            address = ipaddress.ip_address(parts.hostname or "")
            rule["to"] = [{"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}]
        except ValueError:
            pass  # network policies know no names
        rules.append(rule)
    return rules


def scrape_annotations(cluster: Kubernetes, port: int, path: str) -> dict[str, str]:
    """The annotations by which a plain Prometheus finds pods; none where an operator or nobody reads."""
    if cluster.monitoring.style != "prometheus":
        return {}
    return {"prometheus.io/scrape": "true", "prometheus.io/port": str(port), "prometheus.io/path": path}


def store_of(cluster: Kubernetes) -> dict[str, str]:
    """The External Secrets store that secrets come from, as charts name it; empty when Kubernetes itself has them."""
    kind, _, store = cluster.secrets.partition(":")
    return {"store": store, "storeKind": "ClusterSecretStore" if kind == "cluster-external" else "SecretStore"} if store else {}


def _toleration(text: str) -> Json:
    key_value, _, effect = text.partition(":")
    key, equals, value = key_value.partition("=")
    how: Json = {"operator": "Equal", "value": value} if equals else {"operator": "Exists"}
    return {"key": key, **how, **({"effect": effect} if effect else {})}
