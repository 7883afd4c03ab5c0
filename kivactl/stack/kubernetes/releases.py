"""All Helm releases of a platform: which chart, which values, in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kivactl.spec.platform import Platform
from kivactl.stack.kubernetes.engine_values import Rollout, engine_values_for
from kivactl.stack.kubernetes.gateway_values import gateway_values_for
from kivactl.stack.kubernetes.monitoring_values import monitoring_values_for
from kivactl.stack.kubernetes.names import gateway_release, monitoring_release, namespace_of, release_for

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChartRelease:
    """A Helm release as it should be.

    Attributes:
        name: Of the release.
        chart: `kiva-engine`, `kiva-gateway` or `kiva-monitoring`.
        namespace: Where it lives.
        values: All values of the chart; never a secret.
        order: Lower ones are rolled out first; those of the same order at the same time.
        model: The model of the spec that it serves; empty for gateway and monitoring.
    """

    name: str
    chart: str
    namespace: str
    values: Json
    order: int
    model: str = ""


def releases_for(
    platform: Platform,
    *,
    jwks: Mapping[str, Any],
    revoked: Iterable[str] = (),
    weights_bytes: Mapping[str, int] | None = None,
    rollouts: Mapping[str, Rollout] | None = None,
) -> tuple[ChartRelease, ...]:
    """All releases of a platform, in the order of rolling out.

    Args:
        platform: The spec, with `target: kubernetes`.
        jwks: Public keys that sign tokens.
        revoked: Ids of tokens that are no longer good.
        weights_bytes: Size of the weights by model, where known; without, the spec or fixed values decide.
        rollouts: How a new version of a model takes over, where `strategy: auto` has been decided.

    Raises:
        PreconditionError: The size of a claim is neither in the spec nor known.
    """
    namespace, sizes, ways = namespace_of(platform), weights_bytes or {}, rollouts or {}
    engines = tuple(
        ChartRelease(
            release_for(platform, model.name),
            "kiva-engine",
            namespace,
            engine_values_for(platform, model, weights_bytes=sizes.get(model.name), rollout=ways.get(model.name)),
            0,
            model.name,
        )
        for model in platform.models
    )
    gateway = ChartRelease(gateway_release(platform), "kiva-gateway", namespace, gateway_values_for(platform, jwks=jwks, revoked=revoked), 1)
    monitoring = ChartRelease(monitoring_release(platform), "kiva-monitoring", namespace, monitoring_values_for(platform), 2)
    return (*engines, gateway, monitoring)
