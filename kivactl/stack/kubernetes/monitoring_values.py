"""The values of the chart kiva-monitoring: which levels alert, which models must be there."""

from __future__ import annotations

from typing import Any

from kivactl.spec.platform import Model, Platform
from kivactl.stack.kubernetes.names import cluster_of

Json = dict[str, Any]


def monitoring_values_for(platform: Platform) -> Json:
    """The values of the release of the monitoring.

    Args:
        platform: The spec, with `target: kubernetes`.
    """
    monitoring, levels = cluster_of(platform).monitoring, platform.service_levels
    return {
        "platform": platform.name,
        "style": monitoring.style,
        "namespace": monitoring.namespace or "",
        "levels": {"ttft_p95_s": levels.ttft_p95, "tpot_p95_s": levels.tpot_p95, "error_ratio": levels.error_ratio},
        "models": [{"name": model.name, "replicas": _fewest(model)} for model in platform.models],
        "rules": {"enabled": monitoring.style != "none"},
        "dashboards": {"enabled": monitoring.dashboards},
    }


def _fewest(model: Model) -> int:
    scale = model.kubernetes.autoscale
    return model.replicas if scale is None else scale.min
