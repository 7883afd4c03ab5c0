"""One platform as the flows see it: its spec, where its files lie, how clients reach it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from kivactl.errors import PreconditionError
from kivactl.spec.load import Loaded
from kivactl.spec.platform import Platform
from kivactl.stack import tokens
from kivactl.stack.endpoint import Endpoint
from kivactl.stack.kubernetes.names import endpoint_of
from kivactl.stack.layout import Layout
from kivactl.targets.desired import endpoint_url
from kivactl.targets.target import Target, open_target, url_for
from kivactl.tools.clock import Clock

PROBE = "kivactl-probe"
"""Name of the short-lived tokens that kivactl makes for itself."""


@dataclass(frozen=True)
class Deployment:
    """One platform to deploy.

    Attributes:
        loaded: The spec as read.
        layout: Where its files lie.
        reload: Reads the spec again, to notice that it changed meanwhile.
        clock: Time.
    """

    loaded: Loaded
    layout: Layout
    reload: Callable[[], Loaded]
    clock: Clock = field(default_factory=Clock)

    @property
    def platform(self) -> Platform:
        return self.loaded.platform

    @property
    def endpoint(self) -> str:
        """Base URL for clients."""
        return endpoint_url(self.platform) if self.platform.kubernetes is None else endpoint_of(self.platform)

    @cached_property
    def target(self) -> Target[Any]:
        """Where it runs; opened once, for credentials may be those of a program that takes a while."""
        return open_target(self.platform, self.layout, self.clock)


def endpoint_for(deployment: Deployment, *, tenant: str | None = None, lifetime: timedelta = timedelta(hours=1), name: str = PROBE) -> Endpoint:
    """The platform's address with a new token for one of its tenants.

    The token is not in the register: nobody keeps it, and it lives for `register.OWN_TOKENS_LIVE` at most.

    Args:
        deployment: The platform.
        tenant: A tenant of the spec, or the operator; the spec's first one when absent.
        lifetime: How long the token is valid.
        name: What the token is for.

    Raises:
        PreconditionError: There is no signing key yet.
    """
    import secrets

    platform, layout = deployment.platform, deployment.layout
    try:
        key = layout.signing_key.read_bytes()
    except FileNotFoundError:
        raise PreconditionError(f"this machine is not provisioned for '{platform.name}'", "kivactl provision") from None
    token = tokens.issue(
        key,
        platform=platform.name,
        tenant=tenant or platform.gateway.tenants[0].name,
        name=name,
        token_id=secrets.token_hex(8),
        issued_at=datetime.now(UTC),
        lifetime=lifetime,
    )
    own = platform.gateway.tls.certificate is None and (platform.kubernetes is None or platform.kubernetes.gateway.certificate == "own")
    ca = layout.ca_certificate if own else None
    return Endpoint(url_for(platform, deployment.target), token, ca, platform.models[0].name)
