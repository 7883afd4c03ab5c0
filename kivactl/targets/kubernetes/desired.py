"""What should run in a cluster: Helm releases with all their values, computed from the spec. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kivactl.spec.platform import Platform
from kivactl.stack.kubernetes.names import release_for
from kivactl.stack.kubernetes.releases import ChartRelease, releases_for
from kivactl.targets.kubernetes.feasibility import Decision, Way

Json = dict[str, Any]

ENGINE, GATEWAY, MONITORING = "kiva-engine", "kiva-gateway", "kiva-monitoring"
"""Names of the charts."""

CHARTS = frozenset({ENGINE, GATEWAY, MONITORING})


@dataclass(frozen=True, slots=True)
class ClusterDesired:
    """What should be.

    Attributes:
        platform: Name from the spec.
        endpoint: Base URL for clients.
        releases: All Helm releases, in the order of rolling out.
        strategies: What the spec says of how a release is exchanged, by release; `auto` for those that are not in it.
        objects: What is applied without Helm, before anything else: Secrets, whose values Helm must not keep.
    """

    platform: str
    endpoint: str
    releases: tuple[ChartRelease, ...]
    strategies: Mapping[str, str] = field(default_factory=dict)
    objects: tuple[Json, ...] = field(default=(), repr=False)

    def release(self, chart: str) -> ChartRelease | None:
        """The only release of a chart, such as the gateway's."""
        return next((one for one in self.releases if one.chart == chart), None)


def cluster_desired_for(
    platform: Platform,
    *,
    endpoint: str,
    jwks: Mapping[str, Any],
    revoked: Iterable[str] = (),
    weights_bytes: Mapping[str, int] | None = None,
    objects: Iterable[Json] = (),
) -> ClusterDesired:
    """All that should run for a spec.

    Args:
        platform: The spec, with `target: kubernetes`.
        endpoint: Base URL for clients.
        jwks: Public keys that sign tokens.
        revoked: Ids of tokens that are no longer good.
        weights_bytes: Size of the weights by model, where known.
        objects: What is applied without Helm, such as the certificate's Secret.
    """
    return ClusterDesired(
        platform=platform.name,
        endpoint=endpoint,
        releases=releases_for(platform, jwks=jwks, revoked=revoked, weights_bytes=weights_bytes),
        strategies={release_for(platform, model.name): model.kubernetes.strategy for model in platform.models},
        objects=tuple(objects),
    )


def label_of(release: ChartRelease) -> str:
    """What people call a release: the model, `gateway` or `monitoring`."""
    return release.model or release.chart.removeprefix("kiva-")


def step_of(release: ChartRelease) -> str:
    """The step of a rollout that a release is: `engine smollm2`, `gateway`."""
    return f"engine {release.model}" if release.model else release.chart.removeprefix("kiva-")


def with_decision(release: ChartRelease, decision: Decision) -> ChartRelease:
    """The release with the way in which its pods are exchanged as values of its chart."""
    if release.chart != ENGINE:
        return release
    kind = "recreate" if decision.way is Way.RECREATE else "rolling"
    # A Deployment takes neither both bounds as nothing nor bounds without a meaning.
    bounds = {"maxSurge": 0, "maxUnavailable": 1} if kind == "recreate" else {"maxSurge": decision.surge, "maxUnavailable": decision.unavailable}
    return replace(release, values={**release.values, "strategy": {"kind": kind, **bounds}})


def with_strategy_of(release: ChartRelease, values: Mapping[str, Any]) -> ChartRelease:
    """The release exchanged in the way that it was the last time; how much is free now is no reason to change anything."""
    strategy = values.get("strategy")
    return replace(release, values={**release.values, "strategy": strategy}) if release.chart == ENGINE and strategy else release
