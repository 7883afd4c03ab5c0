"""The gateway on this machine, between two deploys: told by files that it watches, asked by its admin socket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kivactl.errors import NotReadyError, PreconditionError
from kivactl.stack.certificates import parse
from kivactl.stack.gateway.files import Json
from kivactl.stack.layout import Layout
from kivactl.targets import publication, routing
from kivactl.targets.release import read_release, write_release
from kivactl.targets.steering import Shares, Told
from kivactl.tools import tls
from kivactl.tools.clock import Clock
from kivactl.tools.envoy import Admin

_SHOWN_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class LocalGateway:
    """The gateway of a platform on this machine.

    Attributes:
        layout: Where its files lie.
        clock: Time.
    """

    layout: Layout
    clock: Clock

    def announce(self, jwks: Mapping[str, Any], revoked: Sequence[str], *, look: bool) -> Told:  # noqa: ARG002  (it is beside us: it has what it was told)
        """Tell it keys and revoked tokens; returns when it has them."""
        taken_over = publication.announce_here(self.layout, jwks, revoked, self.clock)
        return Told(changed=taken_over, taken_over=taken_over)

    def routes(self) -> Json | None:
        """The routes that it has; None when nothing is deployed."""
        return routing.deployed_routes(self.layout)

    def route(self, routes: Json) -> Told:
        """Exchange its routes; returns when it has them."""
        changed = routing.publish_routes(self.layout, routes, self.clock)
        return Told(changed=changed, taken_over=changed)

    def held_shares(self) -> Shares:
        """The shares that rollouts under way hold against the spec."""
        return routing.read_shares(self.layout)

    def hold_shares(self, shares: Shares) -> None:
        """Replace them."""
        routing.write_shares(self.layout, shares)

    def refuse_unserved(self, models: Sequence[str]) -> None:
        """Refuse to give requests to models without a replica, or with all of them in maintenance."""
        release = read_release(self.layout.release)
        for model in models:
            names = release.replicas.get(model, [])
            if not any(name in release.processes for name in names):
                raise PreconditionError(f"'{model}' is not deployed: it cannot answer", "kivactl deploy")
            if all(name in release.maintenance for name in names):
                raise PreconditionError(f"all replicas of '{model}' are in maintenance: it cannot answer", "kivactl runbook show node-maintenance")

    def follow_spec(self, before: str, after: str) -> None:
        """Note that what is deployed is what the changed spec says."""
        release = read_release(self.layout.release)
        if release.spec_digest == before:
            release.spec_digest = after
            write_release(self.layout.release, release)

    def holds(self, certificate: bytes) -> bool:  # noqa: ARG002  (it reads this machine's files)
        """Always."""
        return True

    def show(self, key: bytes, certificate: bytes, at: tuple[str, int]) -> Told:  # noqa: ARG002  (it reads this machine's files)
        """Wait until it shows the certificate in its files; it sees by itself that they changed."""
        fingerprint = parse(certificate)[0].fingerprint
        for _ in self.clock.ticks(_SHOWN_WITHIN_S, every_s=0.05):
            seen = self.shown(at)
            if seen is None or seen == fingerprint:
                return Told(changed=True, taken_over=seen is not None)
        raise NotReadyError(f"the gateway does not show the new certificate within {_SHOWN_WITHIN_S:g} s", "kivactl logs gateway")

    def shown(self, at: tuple[str, int]) -> str | None:
        """SHA-256 of the certificate that it shows now; None when it does not run."""
        return tls.shown_fingerprint(*at) if Admin(self.layout.gateway_admin_socket, timeout_s=2).ready() else None
