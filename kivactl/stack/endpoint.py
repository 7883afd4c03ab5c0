"""The address under which clients reach a platform, with what they need to be let in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kivactl.stack.secret import Secret


def reached_at(address: str) -> str:
    """The address on which this machine reaches what listens on an address: a wildcard over loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104  (asked for, not bound)


def authority_of(address: str, port: int) -> str:
    """The `host:port` of a URL for what listens there."""
    host = reached_at(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible endpoint.

    Attributes:
        url: Base URL that ends in `/v1`, without a trailing slash.
        token: Bearer token.
        ca: PEM file with the authority to trust; None for the system's authorities.
        model: Name to put into `model`.
        is_foreign: Whether it is no platform of a spec: what is wrong with it, kivactl's other commands cannot tell.
    """

    url: str
    token: Secret
    ca: Path | None
    model: str
    is_foreign: bool = False
