"""`certs`: show the certificates that matter, and give the gateway a new one while it serves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kivactl.errors import KivaError, PreconditionError, UsageError
from kivactl.flows.deployment import Deployment
from kivactl.flows.provision import names_for
from kivactl.journal import Journal, run_name
from kivactl.plan import Change, Difference, Outcome, Plan, Status, Verb, digest
from kivactl.stack.certificates import (
    SERVER_DAYS,
    Certificate,
    Validity,
    authority_for,
    new_key,
    parse,
    server_certificate_for,
    signed_by,
)
from kivactl.stack.endpoint import reached_at
from kivactl.targets.lock import held
from kivactl.targets.pair import install_pair
from kivactl.targets.release import write_file

AUTHORITY, GATEWAY = "authority", "gateway"
"""What certificates are for."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate that matters.

    Attributes:
        role: What it is for: `authority`, `gateway`, `gateway (chain 2)`, `issuer https://...`.
        path: The file.
        certificate: What it says; None when the file is missing or damaged.
        validity: How it stands in time; None without a certificate.
        fault: What is wrong with it besides; empty when nothing is.
        served: Whether the running gateway shows it; None when that does not apply or no gateway runs.
    """

    role: str
    path: Path
    certificate: Certificate | None
    validity: Validity | None
    fault: str
    served: bool | None = None

    @property
    def good(self) -> bool:
        """Whether clients are served with it."""
        return not self.fault and self.validity in {Validity.OK, Validity.SOON}


def shown(deployment: Deployment, now: datetime | None = None) -> list[Shown]:
    """Every certificate of the platform, the authority first."""
    layout, tls_spec = deployment.layout, deployment.platform.gateway.tls
    moment = now or datetime.now(UTC)
    found: list[Shown] = []
    if tls_spec.certificate is None or tls_spec.key is None:
        found += _in_file(AUTHORITY, layout.ca_certificate, None, moment)
        found += _in_file(GATEWAY, layout.certificate, layout.certificate_key, moment, _shown_by_gateway(deployment))
    else:
        found += _in_file(GATEWAY, Path(tls_spec.certificate), Path(tls_spec.key), moment, _shown_by_gateway(deployment))
    for issuer in deployment.platform.gateway.issuers:
        if issuer.ca is not None:
            found += _in_file(f"issuer {issuer.issuer}", Path(issuer.ca), None, moment)
    return found


def plan_certificate(deployment: Deployment, *, only_if_due: bool, days: int = SERVER_DAYS, new_authority: bool = False) -> Plan:
    """What a new certificate for the gateway would change.

    Args:
        deployment: The platform.
        only_if_due: Plan nothing as long as the present one is good, by the rules that provisioning has too.
        days: How long the new one is valid.
        new_authority: Whether to begin anew with another authority.

    Raises:
        UsageError: The spec gives the certificate.
        SpecError: A name for the certificate is neither a DNS name nor an address.
        PreconditionError: The authority or its key is missing, damaged or over.
    """
    given = deployment.platform.gateway.tls.certificate
    if given is not None:
        then = "kivactl certs show" if deployment.platform.target == "local" else "kivactl deploy"
        raise UsageError(f"the spec gives the gateway's certificate, {given}: who issued it renews it", f"rename the new files onto the old; {then}")
    _refuse_foreign(deployment)
    now = datetime.now(UTC)
    title = f"certificate of {deployment.platform.name}"
    if not new_authority:
        _authority(deployment, now)
    present = _present(deployment)
    reason = due(deployment, now)
    if reason is None and not deployment.target.gateway.holds(deployment.layout.certificate.read_bytes()):
        reason = "the gateway in the cluster does not have it"
    if only_if_due and reason is None and not new_authority:
        assert present is not None
        return Plan(title, (), (f"the gateway's certificate is good until {present.not_after:%Y-%m-%d}",), present.fingerprint)
    changes = []
    if new_authority:
        changes.append(Change(Verb.REPLACE, "certificate authority", (), f"clients have to trust the new {deployment.layout.ca_certificate}"))
    names = ", ".join(names_for(deployment.platform))
    before = (None, None) if present is None else (", ".join(present.names), f"{present.not_after:%Y-%m-%d}")
    differences = [Difference("names", before[0], names)] if before[0] != names else []
    differences.append(Difference("days", before[1] and f"until {before[1]}", str(days)))
    changes.append(Change(Verb.CREATE if present is None else Verb.REPLACE, "certificate of the gateway", tuple(differences)))
    notes = () if reason is None else (f"the present certificate: {reason}",)
    return Plan(title, tuple(changes), notes, digest([names, present and present.fingerprint]))


def apply_certificate(deployment: Deployment, *, days: int = SERVER_DAYS, new_authority: bool = False) -> Iterator[Outcome]:
    """Make a new key and certificate; a running gateway shows them to new clients when this is done, old connections stay.

    Raises:
        SpecError: A name for the certificate is neither a DNS name nor an address.
        PreconditionError: The authority or its key is missing, damaged or over; someone holds the platform's lock.
        NotReadyError: The gateway does not show it in time.
    """
    layout = deployment.layout
    if not layout.tls.is_dir():
        raise PreconditionError(f"this machine is not provisioned for '{deployment.platform.name}'", "kivactl provision")
    facts = {"names": names_for(deployment.platform), "days": days, "new_authority": new_authority}
    with held(layout.lock, "certs"), Journal(layout.journal, run_name("certs"), facts) as journal:
        yield from journal.record(_issue(deployment, days, new_authority=new_authority))


def due(deployment: Deployment, now: datetime) -> str | None:
    """Why the gateway's certificate has to be made anew; None while it is good. Provisioning goes by the same rules."""
    layout = deployment.layout
    if not layout.certificate.exists():
        return "it is missing"
    present = _present(deployment)
    if present is None or not present.matches(_bytes(layout.certificate_key)):
        return "it is damaged"
    if not signed_by(_bytes(layout.certificate), _bytes(layout.ca_certificate)):
        return "it is not from our authority"
    match present.validity(now):
        case Validity.SOON:
            return f"it ends on {present.not_after:%Y-%m-%d}"
        case Validity.EXPIRED | Validity.EARLY as validity:
            return f"it is {validity}"
    return "the names it is for changed" if list(present.names) != names_for(deployment.platform) else None


def _issue(deployment: Deployment, days: int, *, new_authority: bool) -> Iterator[Outcome]:
    layout, name, now = deployment.layout, deployment.platform.name, datetime.now(UTC)
    started_s = deployment.clock.now_s()
    yield Outcome("certificate", Status.STARTED)
    if new_authority:
        key = new_key()
        write_file(layout.ca_key, key.decode())
        write_file(layout.ca_certificate, authority_for(key, platform=name, now=now).decode())
        yield Outcome("authority", Status.DONE, f"new: clients have to trust {layout.ca_certificate}")
    authority, authority_key = _authority(deployment, now)
    key = new_key()
    certificate = server_certificate_for(
        key, platform=name, names=names_for(deployment.platform), authority=authority, authority_key=authority_key, now=now, days=days
    )
    install_pair(layout, key, certificate)
    said = parse(certificate)[0]
    told = deployment.target.gateway.show(key, certificate, _entrance(deployment))
    message = f"good until {said.not_after:%Y-%m-%d}" + told.sentence("the gateway shows it")
    facts = {"fingerprint": said.fingerprint, "not_after": said.not_after.isoformat(), "names": list(said.names), "served": told.taken_over}
    yield Outcome("certificate", Status.DONE, message, deployment.clock.now_s() - started_s, facts)


def _shown_by_gateway(deployment: Deployment) -> str | None:
    try:
        return deployment.target.gateway.shown(_entrance(deployment))
    except KivaError:
        return None  # the files can be told of all the same


def _entrance(deployment: Deployment) -> tuple[str, int]:
    gateway = deployment.platform.gateway
    return reached_at(gateway.address), gateway.port


def _refuse_foreign(deployment: Deployment) -> None:
    """Where something in the cluster makes the certificate, it is not ours to renew."""
    cluster = deployment.platform.kubernetes if deployment.platform.target == "kubernetes" else None
    if cluster is not None and cluster.gateway.certificate != "own":
        raise UsageError(
            f"the gateway's certificate comes from `kubernetes.gateway.certificate: {cluster.gateway.certificate}`, which renews it",
            f"kubectl --context {cluster.context} -n {cluster.namespace} describe certificates,secrets",
        )


def _authority(deployment: Deployment, now: datetime) -> tuple[bytes, bytes]:
    """The authority and its key, when it can sign."""
    layout = deployment.layout
    if not layout.ca_certificate.exists():
        raise PreconditionError(f"there is no certificate authority {layout.ca_certificate}", "kivactl provision")
    if not layout.ca_key.exists():
        raise PreconditionError(f"the key of the certificate authority {layout.ca_key} is not here", "put it back, or: kivactl certs issue --new-authority")
    authority, key = layout.ca_certificate.read_bytes(), layout.ca_key.read_bytes()
    said = _parsed(authority)
    if said is None or not said.matches(key):
        raise PreconditionError(f"the certificate authority {layout.ca_certificate} is damaged", "put it back, or: kivactl certs issue --new-authority")
    if said.validity(now) in {Validity.EXPIRED, Validity.EARLY}:
        raise PreconditionError(
            f"the certificate authority {layout.ca_certificate} is not valid at this machine's time", "check the clock, or: kivactl certs issue --new-authority"
        )
    return authority, key


def _in_file(role: str, path: Path, key: Path | None, now: datetime, served: str | None = None) -> list[Shown]:
    content = _bytes(path)
    if not content:
        return [Shown(role, path, None, None, "is missing or empty")]
    try:
        certificates = parse(content)
    except PreconditionError:
        return [Shown(role, path, None, None, "is damaged")]
    found = []
    for number, certificate in enumerate(certificates, 1):
        fault = "does not belong to its key" if number == 1 and key is not None and not certificate.matches(_bytes(key)) else ""
        seen = certificate.fingerprint == served if number == 1 and served is not None else None
        found.append(Shown(role if number == 1 else f"{role} (chain {number})", path, certificate, certificate.validity(now), fault, seen))
    return found


def _present(deployment: Deployment) -> Certificate | None:
    return _parsed(_bytes(deployment.layout.certificate))


def _parsed(pem: bytes) -> Certificate | None:
    try:
        return parse(pem)[0]
    except PreconditionError:
        return None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return b""
