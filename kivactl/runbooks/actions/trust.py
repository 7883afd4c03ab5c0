"""Tokens, the key that signs them, and the gateway's certificate."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from kivactl.errors import PreconditionError
from kivactl.flows import certs, tokens
from kivactl.flows.certs import AUTHORITY, GATEWAY, Shown
from kivactl.flows.rotation import apply_rotation
from kivactl.flows.tokens import Chosen, Listed, State
from kivactl.flows.trust import accepted, refused, renew_announcement
from kivactl.plan import Outcome, Status
from kivactl.runbooks.actions.action import ANYWHERE, Action, Kind, NoParams, Params, Probe, Site
from kivactl.spec.fields import PositiveDuration
from kivactl.spec.load import Loaded
from kivactl.spec.platform import Platform
from kivactl.stack.certificates import SERVER_DAYS
from kivactl.targets.publication import key_id, signing_key


class ChoiceParams(Params):
    """Which tokens: `all`, `tenant:NAME` for those of a tenant, or the id of one (or its beginning)."""

    tokens: str = Field(min_length=1)

    @property
    def tenant(self) -> str | None:
        """The tenant whose tokens are meant; None for others."""
        kind, colon, name = self.tokens.partition(":")
        return name if kind == "tenant" and colon else None

    def faults_in(self, loaded: Loaded) -> list[tuple[str, str]]:
        """What is wrong with it, by the spec."""
        names = [tenant.name for tenant in loaded.platform.gateway.tenants]
        if self.tenant is None or self.tenant in names:
            return []
        near = difflib.get_close_matches(self.tenant, names, n=1)
        hint = f"did you mean 'tenant:{near[0]}'?" if near else f"valid here: {', '.join(names)}"
        return [("tokens", f"there is no tenant '{self.tenant}'; {hint}")]


class RotateParams(Params):
    """How to change the signing key.

    `instead_of` names the key that is to go, as `key.note` tells it: when another one signs by then, the change was made
    already, and is not made twice.
    """

    instead_of: str = Field(min_length=1)
    at_once: bool = False
    overlap: PositiveDuration | None = None

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.at_once and self.overlap is not None:
            msg = "at_once and overlap exclude each other"
            raise ValueError(msg)
        return self


class RenewParams(Params):
    """When to make a new certificate.

    `instead_of` is the fingerprint of the one that is to go, as `certificate.note` tells it; another one is a new one already.
    """

    instead_of: str = ""
    force: bool = False
    days: int = Field(default=SERVER_DAYS, strict=True, ge=1, le=SERVER_DAYS)


class AcceptedParams(Params):
    """Whose token; kivactl's own, which nobody pays for, when absent."""

    tenant: str | None = None


class ReplacedParams(Params):
    """Which key."""

    key: str = Field(min_length=1)


class EndParams(Params):
    """Which certificates."""

    of: Literal["gateway", "authority", "all"] = "all"


def _chosen(site: Site, params: ChoiceParams) -> list[Listed]:
    """The tokens; a tenant without any has none, which in an emergency is no reason to stop."""
    deployment, tenant = site.deployment, params.tenant
    if params.tokens == "all" or tenant is not None:
        return tokens.listing(deployment, tenant=tenant)
    tokens.plan_revoke(deployment, Chosen(id=params.tokens))  # says what is wrong with an id
    listed = tokens.listing(deployment)
    return [token for token in listed if token.entry.id == params.tokens] or [token for token in listed if token.entry.id.startswith(params.tokens)]


def _live(listed: list[Listed]) -> list[Listed]:
    return [token for token in listed if token.state in {State.VALID, State.UNKNOWN_TENANT}]


def _revoke(site: Site, params: ChoiceParams) -> Iterator[Outcome]:
    chosen = _chosen(site, params)
    # With none left to revoke the gateway is still told: who was killed before may not have come so far.
    yield from tokens.apply_revoke(site.deployment, frozenset(token.entry.id for token in _live(chosen)))
    revoked = [token for token in _chosen(site, params) if token.state is State.REVOKED]
    tenants = sorted({token.entry.tenant for token in revoked})
    message = f"{tokens.count(revoked, 'token')} of {tokens.count(tenants, 'tenant')} are revoked"
    yield Outcome("tokens", Status.DONE, message, data={"result": {"revoked": len(revoked), "tenants": ", ".join(tenants) or "none"}})


def _note_key(site: Site, _: NoParams) -> Iterator[Outcome]:
    key = _key(site)
    yield Outcome("signing key", Status.DONE, f"tokens are signed by {key}", data={"result": {"key": key}})


def _rotate(site: Site, params: RotateParams) -> Iterator[Outcome]:
    if _key(site) == params.instead_of:
        overlap = None if params.overlap is None else timedelta(seconds=params.overlap)
        yield from apply_rotation(site.deployment, overlap=overlap, at_once=params.at_once)
    else:
        yield from renew_announcement(site.deployment)
    yield Outcome("signing key", Status.DONE, f"tokens are signed by {_key(site)}", data={"result": {"key": _key(site)}})


def _note_certificate(site: Site, _: NoParams) -> Iterator[Outcome]:
    present = _own(site, GATEWAY)
    said = present.certificate
    facts = {"fingerprint": said.fingerprint if said else "none", "until": f"{said.not_after:%Y-%m-%d}" if said else "none"}
    yield Outcome(
        "certificate", Status.DONE, f"the gateway's is good until {facts['until']}{f', but {present.fault}' if present.fault else ''}", data={"result": facts}
    )


def _renew(site: Site, params: RenewParams) -> Iterator[Outcome]:
    said = _own(site, GATEWAY).certificate
    is_new = bool(params.instead_of) and said is not None and said.fingerprint != params.instead_of
    plan = certs.plan_certificate(site.deployment, only_if_due=is_new or not params.force, days=params.days)
    if plan.empty:
        yield Outcome("certificate", Status.SKIPPED, "; ".join(plan.notes))
    else:
        yield from certs.apply_certificate(site.deployment, days=params.days)
    said = _own(site, GATEWAY).certificate
    facts = {"until": f"{said.not_after:%Y-%m-%d}" if said else "none"}
    yield Outcome("certificate", Status.DONE, f"good until {facts['until']}", data={"result": facts})


def _key(site: Site) -> str:
    return key_id(signing_key(site.deployment.layout))


def _own(site: Site, role: str) -> Shown:
    found = next((one for one in certs.shown(site.deployment) if one.role == role), None)
    if found is None:
        raise PreconditionError("the spec gives the gateway's certificate, and with it its authority", "kivactl certs show")
    return found


def _remaining(site: Site, params: EndParams) -> float | None:
    """Of several the first to end counts; a damaged one has ended."""
    wanted = [one for one in certs.shown(site.deployment) if params.of == "all" or one.role == (AUTHORITY if params.of == "authority" else GATEWAY)]
    now = datetime.now(UTC)
    ends = [0.0 if one.certificate is None or one.fault else (one.certificate.not_after - now).total_seconds() for one in wanted]
    return min(ends, default=None)


def _made_here(platform: Platform) -> bool:
    """Whether the platform's own authority makes the certificate: nobody's files, and in a cluster neither an issuer's nor a Secret of others."""
    return platform.gateway.tls.certificate is None and (platform.kubernetes is None or platform.kubernetes.gateway.certificate == "own")


def _served(site: Site, _: NoParams) -> bool:
    return any(one.served is True for one in certs.shown(site.deployment) if one.role == GATEWAY)


ACTIONS: Mapping[str, Action] = {
    "token.revoke": Action(
        ChoiceParams,
        _revoke,
        "Revokes tokens: a running gateway refuses them at once.",
        destructive=True,
        results={"revoked": 1, "tenants": "police"},
        targets=ANYWHERE,
    ),
    "key.note": Action(NoParams, _note_key, "Tells which key signs tokens now, for `key.rotate`.", results={"key": "4f2c"}, targets=ANYWHERE),
    "key.rotate": Action(
        RotateParams,
        _rotate,
        "Changes the key that signs tokens; tokens of the old one stay good for their time, or end at once.",
        destructive=True,
        results={"key": "4f2c"},
        targets=ANYWHERE,
    ),
    "certificate.note": Action(
        NoParams,
        _note_certificate,
        "Tells which certificate the gateway has now, for `certificate.renew`.",
        results={"fingerprint": "9a1b", "until": "2027-01-31"},
        targets=ANYWHERE,
    ),
    "certificate.renew": Action(
        RenewParams,
        _renew,
        "Gives the gateway a new certificate while it serves, when it is due or by force.",
        results={"until": "2027-01-31"},
        targets=ANYWHERE,
    ),
}
PROBES: Mapping[str, Probe] = {
    "certificate.days": Probe(
        EndParams, _remaining, Kind.SECONDS, "Time until the first of the platform's certificates ends; 0 when one is damaged.", targets=ANYWHERE
    ),
    "certificate.own": Probe(
        NoParams,
        lambda site, _: _made_here(site.deployment.platform),
        Kind.FLAG,
        "Whether the platform makes the gateway's certificate itself.",
        targets=ANYWHERE,
    ),
    "certificate.served": Probe(NoParams, _served, Kind.FLAG, "Whether the running gateway shows the certificate that is in place.", targets=ANYWHERE),
    "key.id": Probe(NoParams, lambda site, _: _key(site), Kind.TEXT, "The id of the key that signs tokens.", targets=ANYWHERE),
    "key.replaced": Probe(
        ReplacedParams, lambda site, params: _key(site) != params.key, Kind.FLAG, "Whether another key than the given one signs tokens.", targets=ANYWHERE
    ),
    "token.accepted": Probe(
        AcceptedParams,
        lambda site, params: accepted(site.deployment, params.tenant),
        Kind.FLAG,
        "Whether the gateway accepts a fresh token of a tenant.",
        targets=ANYWHERE,
    ),
    "token.refused": Probe(
        ChoiceParams,
        lambda site, params: refused(site.deployment, [token.entry for token in _chosen(site, params)]),
        Kind.FLAG,
        "Whether the gateway refuses tokens that were issued: each of them is presented once more.",
        targets=ANYWHERE,
    ),
    "token.refused-when-revoked": Probe(
        NoParams,
        lambda site, _: refused(site.deployment, [token.entry for token in tokens.listing(site.deployment) if token.state is State.REVOKED]),
        Kind.FLAG,
        "Whether the gateway refuses every revoked token, and one of a foreign key.",
        targets=ANYWHERE,
    ),
    "token.valid": Probe(
        ChoiceParams, lambda site, params: len(_live(_chosen(site, params))), Kind.NUMBER, "How many tokens are neither revoked nor over.", targets=ANYWHERE
    ),
}
