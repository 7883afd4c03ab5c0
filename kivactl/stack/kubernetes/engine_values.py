"""The values of the chart kiva-engine: one model on Kubernetes."""

from __future__ import annotations

from typing import Any, Literal

from kivactl.spec.platform import Model, Platform

Json = dict[str, Any]

Rollout = Literal["rolling", "in-turn", "recreate"]
"""A new pod before an old one goes; an old one goes before a new one (several replicas, no free GPU); all at once, with an outage."""


def engine_values_for(platform: Platform, model: Model, *, weights_bytes: int | None = None, rollout: Rollout | None = None) -> Json:
    """The values of one model's release.

    Args:
        platform: The spec, with `target: kubernetes`.
        model: One of its models.
        weights_bytes: Size of the weights, where known.
        rollout: How a new version takes over; what the spec says when absent, `rolling` for auto.

    Raises:
        PreconditionError: The size of the claim is neither in the spec nor known.
    """
    raise NotImplementedError
