"""Whether the gateway keeps to what is decided of tokens: asked from the outside, as a client would."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from kivactl.errors import PreconditionError
from kivactl.flows.deployment import PROBE, Deployment, endpoint_for
from kivactl.plan import Outcome, Status
from kivactl.stack import tokens
from kivactl.stack.certificates import new_key
from kivactl.stack.endpoint import Endpoint
from kivactl.stack.metering import OPERATOR
from kivactl.stack.secret import Secret
from kivactl.targets.publication import announce, key_id, keys_of, signing_key, tidied
from kivactl.targets.register import Entry, locked, read_register

_LIVES = timedelta(minutes=5)

_AT_MOST = 500
"""Tokens that are presented at once, the newest; more would be a load of its own."""


def accepted(deployment: Deployment, tenant: str | None = None) -> bool:
    """Whether the gateway accepts a fresh token.

    Args:
        deployment: The platform.
        tenant: Whose; kivactl's own, which nobody pays for, when absent.

    Raises:
        KivaError: It does not answer.
    """
    return _accepts(endpoint_for(deployment, tenant=tenant or OPERATOR, lifetime=_LIVES))


def refused(deployment: Deployment, entries: Iterable[Entry]) -> bool:
    """Whether the gateway refuses tokens, and one that a foreign key signed.

    kivactl keeps no token, but it can sign another one with the same id: the gateway refuses by the id. Tokens of a key that
    the gateway does not know any more need no line of their own, and are left out, as are those that are over.
    Without a gateway that listens everything is refused.

    Args:
        deployment: The platform.
        entries: Which; of more than 500 the newest.

    Raises:
        KivaError: It answers neither yes nor no.
    """
    layout, now = deployment.layout, datetime.now(UTC)
    known = {key_id(key) for key in keys_of(layout)}
    there = [entry for entry in entries if entry.key in known and (entry.expires_at is None or now < entry.expires_at)]
    key = signing_key(layout)
    presented = [_signed(deployment, key, entry.tenant, entry.name, entry.id) for entry in there[-_AT_MOST:]]
    presented.append(_signed(deployment, new_key(), OPERATOR, PROBE, secrets.token_hex(8)))
    endpoint = endpoint_for(deployment, lifetime=_LIVES)
    return not any(_accepts(replace(endpoint, token=token), absent=False) for token in presented)


def renew_announcement(deployment: Deployment) -> Iterator[Outcome]:
    """Tell a running gateway keys and revocations once more, for a command that was killed before it had.

    Raises:
        PreconditionError: The register is damaged or locked.
        ToolError: The gateway refuses the change.
        NotReadyError: The gateway does not take it over in time.
    """
    layout = deployment.layout
    with locked(layout, "announcing", deployment.clock):
        register = tidied(layout, read_register(layout), datetime.now(UTC))
        told = announce(layout, register, deployment.target.gateway)
    message = "keys and revocations are told anew" if told.changed else "keys and revocations are as they should be"
    yield Outcome("gateway", Status.DONE, "has taken over keys and revocations" if told.changed and not told.note else message + told.sentence("it has them"))


def _signed(deployment: Deployment, key: bytes, tenant: str, name: str, token_id: str) -> Secret:
    return tokens.issue(key, platform=deployment.platform.name, tenant=tenant, name=name, token_id=token_id, issued_at=datetime.now(UTC), lifetime=_LIVES)


def _accepts(endpoint: Endpoint, *, absent: bool | None = None) -> bool:
    """Whether a token is accepted; `absent` is the answer when nobody listens, None raises then."""
    from kivactl.tools.http import open_client

    try:
        with open_client(endpoint, timeout_s=10) as client:
            client.models()
    except PreconditionError as error:
        if "does not accept the token" in error.message:
            return False
        if absent is not None and "nothing answers at" in error.message:
            return absent
        raise
    return True
