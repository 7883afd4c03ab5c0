"""What the shell offers for a word: names of the spec and ids of the register. Says nothing when it cannot know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kivactl.errors import KivaError

if TYPE_CHECKING:
    from kivactl.flows.deploy import Deployment


def tenants(incomplete: str) -> list[str]:
    """Tenants of the spec."""
    deployment = _deployment()
    names = [] if deployment is None else [tenant.name for tenant in deployment.platform.gateway.tenants]
    return [name for name in names if name.startswith(incomplete)]


def token_ids(incomplete: str) -> list[tuple[str, str]]:
    """Ids of valid tokens, each with whose it is."""
    from kivactl.flows.tokens import State, listing

    deployment = _deployment()
    try:
        listed = [] if deployment is None else listing(deployment)
    except (KivaError, OSError):
        return []
    valid = [token.entry for token in listed if token.state in {State.VALID, State.UNKNOWN_TENANT}]
    return [(entry.id, f"{entry.tenant}: {entry.name}") for entry in valid if entry.id.startswith(incomplete)]


def _deployment() -> Deployment | None:
    from kivactl.cli.options import Common
    from kivactl.cli.site import deployment_of

    try:
        return deployment_of(Common())
    except (KivaError, OSError):
        return None
