"""What every target can do, and the one place that knows which there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from kivactl.plan import Outcome, Plan
from kivactl.spec.platform import Platform
from kivactl.stack.layout import Layout
from kivactl.targets.breaking import Breaking
from kivactl.targets.desired import endpoint_url
from kivactl.targets.local import LocalTarget
from kivactl.targets.steering import Steering
from kivactl.tools.clock import Clock

Wanted_contra = TypeVar("Wanted_contra", contravariant=True)
"""What should run, in the form of one target: `desired.Desired` on this machine, `kubernetes.desired.ClusterDesired` in a cluster."""


class Target(Protocol[Wanted_contra]):
    """Where a platform runs."""

    def locked(self, verb: str) -> AbstractContextManager[Any]:
        """Hold the platform's lock; who is second is told who holds it."""

    def plan(self, desired: Wanted_contra, title: str) -> Plan:
        """What `apply` would change; reads only."""

    def apply(self, desired: Wanted_contra) -> Iterator[Outcome]:
        """Bring what runs to what is desired."""

    def finish(self, spec_digest: str, deployed_at: str) -> None:
        """Record that a deploy is done and verified."""

    def start(self) -> Iterator[Outcome]:
        """Start what was deployed, as it was deployed."""

    def stop(self) -> Iterator[Outcome]:
        """Finish the requests in work and stop everything."""

    def restart(self, replicas: Sequence[str]) -> Iterator[Outcome]:
        """Start replicas anew as they were deployed, one after the other, without losing a request."""

    def take_out(self, replicas: Sequence[str]) -> Iterator[Outcome]:
        """Let replicas finish their requests and stop them; they stay stopped until they are brought back."""

    def bring_back(self, replicas: Sequence[str]) -> Iterator[Outcome]:
        """Start replicas that were taken out, and give them requests again."""

    @property
    def gateway(self) -> Steering:
        """The deployed gateway, to be told something between two deploys."""

    @property
    def breaking(self) -> Breaking:
        """What runs, to be broken on purpose and mended."""

    def alive(self) -> frozenset[str]:
        """Names of the processes that run."""

    def memory_bytes(self) -> int:
        """Memory that our processes hold now."""


def open_target(platform: Platform, layout: Layout, clock: Clock) -> Target[Any]:
    """The target a spec names; what it is given to plan and apply must be of its own form.

    Raises:
        PreconditionError: The spec names no cluster, or one that the kubeconfig does not have.
    """
    if platform.target == "kubernetes":
        from kivactl.targets.kubernetes.target import open_kubernetes

        return open_kubernetes(platform.name, platform.kubernetes, clock)
    return LocalTarget(layout, clock)


def url_for(platform: Platform, target: Target[Any]) -> str:
    """Base URL under which this process reaches the gateway; one in a cluster maybe over a port that is forwarded until the process ends.

    Raises:
        PreconditionError: Nothing leads there.
        NotReadyError: No pod of the gateway is ready.
    """
    if platform.target == "kubernetes":
        from kivactl.targets.kubernetes.entrance import url_for as url_in_cluster
        from kivactl.targets.kubernetes.target import KubernetesTarget

        assert isinstance(target, KubernetesTarget)
        return url_in_cluster(platform, target.cluster)
    return endpoint_url(platform)
