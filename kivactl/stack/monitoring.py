"""What Prometheus scrapes: the gateway and every engine replica, in one list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kivactl.spec.platform import Platform
from kivactl.stack.endpoint import authority_of

GATEWAY_METRICS = "/metrics/gateway"


def engine_metrics(replica: str) -> str:
    """Path of a replica's metrics at the gateway's metrics port."""
    return f"/metrics/engines/{replica}"


def scrape_targets_for(platform: Platform, replicas: Mapping[str, Iterable[str]]) -> list[dict[str, Any]]:
    """The list for Prometheus' `file_sd_configs`, in the order gateway, replicas.

    Args:
        platform: The spec.
        replicas: Names of the replicas of every model.
    """
    target = authority_of(platform.gateway.metrics.address, platform.gateway.metrics_port)

    def entry(path: str, **labels: str) -> dict[str, Any]:
        return {"targets": [target], "labels": {"__metrics_path__": path, "platform": platform.name, **labels}}

    engines = [entry(engine_metrics(name), component="engine", instance=name, model=model) for model, names in replicas.items() for name in names]
    return [entry(GATEWAY_METRICS, component="gateway", instance="gateway"), *engines]


def levels_rules_for(platform: Platform) -> dict[str, Any]:
    """What a platform promises and must have, as series that the alert rules (`helm/kiva-monitoring/rules`) compare with: the content of a rule file.

    The chart kiva-monitoring makes the same from its values; for a Prometheus beside the target `local` this is the file.

    Args:
        platform: The spec.
    """

    def series(name: str, value: float, **labels: str) -> dict[str, Any]:
        return {"record": f"kiva:{name}", "expr": f"vector({value:g})", "labels": {"platform": platform.name, **labels}}

    levels = platform.service_levels
    promised = {"error_ratio": levels.error_ratio, "tpot_p95_seconds": levels.tpot_p95, "ttft_p95_seconds": levels.ttft_p95}
    rules = [
        *(series(f"level:{name}", value) for name, value in promised.items()),
        *(series("replicas_expected", model.replicas, model_name=model.name) for model in platform.models),
    ]
    return {"groups": [{"name": f"kiva-levels-{platform.name}", "rules": rules}]}
