"""`token`: issue, list and revoke tokens. The platform keeps none of them."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from kivactl.errors import UsageError
from kivactl.flows.chat import known
from kivactl.flows.deployment import Deployment
from kivactl.journal import Journal, run_name
from kivactl.plan import Change, Outcome, Plan, Status, Verb, digest
from kivactl.stack import tokens
from kivactl.stack.secret import Secret
from kivactl.targets.publication import announce, key_id, signing_key, tidied
from kivactl.targets.register import Entry, Register, locked, read_register, write_register

LONGEST_NAME = 64


class State(StrEnum):
    """What a token is worth."""

    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"
    UNKNOWN_TENANT = "unknown tenant"
    """The spec no longer has its tenant: the gateway refuses it."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A token of the register.

    Attributes:
        entry: As registered.
        state: What it is worth now.
        ends_at: When it ends by itself; its key's end cuts it short. None for never.
    """

    entry: Entry
    state: State
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which tokens to revoke: one by its id or the beginning of it, or a tenant's, all or those of a name.

    Attributes:
        id: Id or beginning of it.
        tenant: All of its tokens.
        name: Only those with this name.
    """

    id: str | None = None
    tenant: str | None = None
    name: str | None = None


def issue(deployment: Deployment, tenant: str, *, name: str, lifetime: timedelta | None) -> tuple[Secret, Entry]:
    """A new token; it is in the register before anyone sees it.

    Args:
        deployment: The platform.
        tenant: One of the spec.
        name: What it is for: 1 to 64 printable characters.
        lifetime: How long it is valid, in whole seconds, more than 0; None for no end.

    Raises:
        UsageError: The spec has no such tenant, or the name is none.
        PreconditionError: The machine is not provisioned, or the register is damaged or locked.
    """
    known_tenant(deployment, tenant)
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise UsageError(f"a token's name has 1 to {LONGEST_NAME} printable characters", "kivactl token issue TENANT --name laptop")
    layout = deployment.layout
    now = datetime.now(UTC).replace(microsecond=0)
    with locked(layout, "token issue", deployment.clock):
        key = signing_key(layout)
        register = tidied(layout, read_register(layout), now)
        announce(layout, register, deployment.target.gateway, look=False)
        entry = Entry(secrets.token_hex(8), tenant, name, now, None if lifetime is None else now + lifetime, None, key_id(key))
        token = tokens.issue(key, platform=deployment.platform.name, tenant=tenant, name=name, token_id=entry.id, issued_at=now, lifetime=lifetime)
        write_register(layout, register.with_token(entry))
    return token, entry


def listing(deployment: Deployment, *, tenant: str | None = None, now: datetime | None = None) -> list[Listed]:
    """All registered tokens in the order of their issue.

    Args:
        deployment: The platform.
        tenant: Only its tokens; it need not be in the spec any more.
        now: Aware; the present when absent.

    Raises:
        PreconditionError: The register is damaged.
    """
    register = read_register(deployment.layout)
    tenants = {known.name for known in deployment.platform.gateway.tenants}
    moment = now or datetime.now(UTC)
    return [_listed(token, register, tenants, moment) for token in register.tokens if tenant is None or token.tenant == tenant]


def plan_revoke(deployment: Deployment, chosen: Chosen) -> tuple[Plan, frozenset[str]]:
    """What revoking would end, and the ids.

    Raises:
        UsageError: Nothing is chosen, or the id fits no token or several.
        PreconditionError: The register is damaged.
    """
    found = _found(deployment, chosen)
    live = [token for token in found if token.state in {State.VALID, State.UNKNOWN_TENANT}]
    changes = [Change(Verb.DELETE, f"token {token.entry.id}", disruption=_whose(token)) for token in live]
    notes = [f"token {token.entry.id} is {token.state} already" for token in found if token not in live]
    ids = frozenset(token.entry.id for token in live)
    return Plan(f"revoke tokens of {deployment.platform.name}", tuple(changes), tuple(notes), digest(sorted(ids))), ids


def apply_revoke(deployment: Deployment, ids: frozenset[str]) -> Iterator[Outcome]:
    """Revoke tokens: a running gateway refuses them when this returns.

    Raises:
        PreconditionError: The register is damaged or locked.
        ToolError: The gateway refuses the change.
        NotReadyError: The gateway does not take it over in time.
    """
    layout, clock = deployment.layout, deployment.clock
    with locked(layout, "token revoke", clock), Journal(layout.journal, run_name("token-revoke"), {"tokens": sorted(ids)}) as journal:
        yield from journal.record(_revoke(deployment, ids))


def known_tenant(deployment: Deployment, name: str) -> None:
    """Check that the spec has a tenant.

    Raises:
        UsageError: It has not; the hint says what it has.
    """
    known("tenant", name, [tenant.name for tenant in deployment.platform.gateway.tenants])


def count(things: Collection[object], noun: str) -> str:
    """How many, in words: `1 token`, `2 tokens`."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _revoke(deployment: Deployment, ids: frozenset[str]) -> Iterator[Outcome]:
    layout, clock = deployment.layout, deployment.clock
    started_s = clock.now_s()
    yield Outcome("tokens", Status.STARTED, f"revoking {count(ids, 'token')}")
    now = datetime.now(UTC)
    register = tidied(layout, read_register(layout), now).revoked(ids, now)
    write_register(layout, register)
    told = announce(layout, register, deployment.target.gateway)
    message = f"{count(ids, 'token')} revoked" + told.sentence("the gateway refuses them")
    yield Outcome("tokens", Status.DONE, message, clock.now_s() - started_s, {"tokens": sorted(ids)})


def _listed(token: Entry, register: Register, tenants: Collection[str], now: datetime) -> Listed:
    until = next((key.until for key in register.keys if key.key == token.key), None)
    ends = [end for end in (token.expires_at, until) if end is not None]
    if token.revoked_at is not None:
        state = State.REVOKED
    elif token.expires_at is not None and token.expires_at <= now:
        state = State.EXPIRED
    else:
        state = State.VALID if token.tenant in tenants else State.UNKNOWN_TENANT
    return Listed(token, state, min(ends, default=None))


def _found(deployment: Deployment, chosen: Chosen) -> list[Listed]:
    if chosen.id is not None:
        if chosen.tenant is not None or chosen.name is not None:
            raise UsageError("a token's id says enough: leave out --tenant and --name", "kivactl token revoke --help")
        return [_one(listing(deployment), chosen.id)]
    if chosen.tenant is None:
        raise UsageError("say which tokens: an id, or --tenant, with --name for some of them", "kivactl token list")
    found = [token for token in listing(deployment, tenant=chosen.tenant) if chosen.name is None or token.entry.name == chosen.name]
    if not found:
        if chosen.tenant not in {token.entry.tenant for token in listing(deployment)}:
            known_tenant(deployment, chosen.tenant)
        named = "" if chosen.name is None else f" named '{chosen.name}'"
        raise UsageError(f"'{chosen.tenant}' has no token{named}", f"kivactl token list --tenant {chosen.tenant} --all")
    return found


def _one(listed: list[Listed], beginning: str) -> Listed:
    exact = [token for token in listed if token.entry.id == beginning]
    found = exact or [token for token in listed if beginning and token.entry.id.startswith(beginning)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{len(found)} tokens begin with '{beginning}'", f"one of: {', '.join(token.entry.id for token in found[:10])}")
    raise UsageError(f"no token has the id '{beginning}'", "kivactl token list --all")


def _whose(token: Listed) -> str:
    end = f"until {token.ends_at:%Y-%m-%d}" if token.ends_at else "without end"
    return f"'{token.entry.tenant}' has it as '{token.entry.name}', {end}"
