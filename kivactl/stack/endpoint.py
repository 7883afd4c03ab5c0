"""The address under which clients reach a platform, with what they need to be let in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kivactl.stack.secret import Secret


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible endpoint.

    Attributes:
        url: Base URL that ends in `/v1`, without a trailing slash.
        token: Bearer token.
        ca: PEM file with the authority to trust; None for the system's authorities.
        model: Name to put into `model`.
    """

    url: str
    token: Secret
    ca: Path | None
    model: str
