"""What every target can do, and the one place that knows which there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from kivactl.errors import PreconditionError
from kivactl.plan import Outcome, Plan
from kivactl.stack.gateway.files import Json
from kivactl.stack.layout import Layout
from kivactl.targets.desired import Desired
from kivactl.targets.local import LocalTarget
from kivactl.tools.clock import Clock


class Target(Protocol):
    """Where a platform runs."""

    def plan(self, desired: Desired, title: str) -> Plan:
        """What `apply` would change; reads only."""

    def apply(self, desired: Desired) -> Iterator[Outcome]:
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

    def route(self, routes: Json) -> bool:
        """Exchange the deployed gateway's routes; returns when it has taken them over. False when there was nothing to change."""

    def alive(self) -> frozenset[str]:
        """Names of the processes that run."""

    def memory_bytes(self) -> int:
        """Memory that our processes hold now."""


def open_target(name: str, layout: Layout, clock: Clock) -> Target:
    """The target a spec names.

    Raises:
        PreconditionError: This version cannot deploy there.
    """
    if name == "local":
        return LocalTarget(layout, clock)
    raise PreconditionError(f"this version of kivactl cannot deploy to the target '{name}' yet", "set `target: local` in kiva.yaml")
