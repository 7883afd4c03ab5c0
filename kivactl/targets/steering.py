"""What a deployed gateway can be told between two deploys, and what it says of itself: the same wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kivactl.stack.gateway.files import Json

Shares = dict[str, dict[str, int]]
"""Weights of models by alias."""


@dataclass(frozen=True, slots=True)
class Told:
    """What became of something that a gateway was told.

    Attributes:
        changed: Whether anything had to be changed.
        taken_over: Whether a running gateway has it for sure.
        within_s: Seconds within which it should have it; 0 when that is known, or none runs.
        note: How that is known, or why not; empty where there is nothing to say.
    """

    changed: bool = False
    taken_over: bool = False
    within_s: float = 0.0
    note: str = ""

    def sentence(self, effect: str) -> str:
        """The end of an outcome's message: `, the gateway refuses them (seen in 2 pods after 1.4 s)`; empty when no gateway was told."""
        if self.taken_over:
            return f", {effect} ({self.note})" if self.note else f", {effect}"
        return f"; {self.note}" if self.note else ""


class Steering(Protocol):
    """The deployed gateway of a platform."""

    def announce(self, jwks: Mapping[str, Any], revoked: Sequence[str], *, look: bool) -> Told:
        """Tell it the keys that sign tokens and the ids of tokens to refuse, and wait until it has them where that can be seen.

        Args:
            jwks: Public keys, a JSON Web Key Set.
            revoked: Ids.
            look: Whether one far away is asked also when nothing had to be changed.
        """

    def routes(self) -> Json | None:
        """The routes that it has; None when nothing is deployed."""

    def route(self, routes: Json) -> Told:
        """Exchange its routes, and wait until it has them where that can be seen."""

    def held_shares(self) -> Shares:
        """The shares that rollouts under way hold against the spec, by alias."""

    def hold_shares(self, shares: Shares) -> None:
        """Replace them."""

    def refuse_unserved(self, models: Sequence[str]) -> None:
        """Refuse to give requests to models that cannot answer.

        Raises:
            PreconditionError: One is not deployed, or out of service.
        """

    def follow_spec(self, before: str, after: str) -> None:
        """Note that what is deployed is what the spec says after a change, when it was what it said before.

        Args:
            before: Digest of the spec.
            after: The same, changed.
        """

    def holds(self, certificate: bytes) -> bool:
        """Whether a certificate (PEM) is where the gateway reads it; True as well while nothing is deployed, for a deploy puts it there."""

    def show(self, key: bytes, certificate: bytes, at: tuple[str, int]) -> Told:
        """Let it show a certificate that lies in this machine's files, and wait until it does where that can be seen.

        Args:
            key: PEM.
            certificate: PEM, a chain.
            at: Address and port of a gateway on this machine.
        """

    def shown(self, at: tuple[str, int]) -> str | None:
        """SHA-256 of the certificate that it shows now; None when it does not run or cannot be asked."""
