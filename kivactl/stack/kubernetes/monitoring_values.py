"""The values of the chart kiva-monitoring: what is scraped, which levels alert."""

from __future__ import annotations

from typing import Any

from kivactl.spec.platform import Platform

Json = dict[str, Any]


def monitoring_values_for(platform: Platform) -> Json:
    """The values of the release of the monitoring."""
    raise NotImplementedError
