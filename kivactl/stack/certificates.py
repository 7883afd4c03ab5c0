"""Keys and X.509 certificates: an authority of our own, the gateway's certificate, and what any certificate says. Pure.

Names are written as openssl's options have them: `DNS:localhost`, `IP:127.0.0.1`. Keys are ECDSA on P-256, unencrypted
PEM; the same certificates come out of the role that provisions a machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from kivactl.errors import PreconditionError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

AUTHORITY_DAYS = 3650
SERVER_DAYS = 398
"""What browsers and operating systems accept at most."""

RENEW_WITHIN = timedelta(days=30)
"""Time before its end in which a certificate is renewed."""

_BACKDATED = timedelta(hours=1)
"""A client whose clock is a little behind accepts a new certificate too."""


class Validity(StrEnum):
    """How a certificate stands in time."""

    OK = "ok"
    SOON = "soon"
    EXPIRED = "expired"
    EARLY = "not yet valid"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says.

    Attributes:
        subject: Distinguished name of its holder, such as `CN=kiva,O=kivactl`.
        issuer: Distinguished name of who signed it.
        names: What it is for, in its own order.
        not_before: Aware UTC.
        not_after: Aware UTC.
        serial: Its number.
        fingerprint: SHA-256 of the whole, 64 hexadecimal characters.
        authority: Whether it may sign others.
        public_key: DER of its public key.
    """

    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    serial: int
    fingerprint: str
    authority: bool
    public_key: bytes

    def matches(self, key: bytes) -> bool:
        """Whether a private key (PEM) belongs to it; a damaged or encrypted key does not."""
        try:
            return _der(_any_key(key).public_key()) == self.public_key
        except PreconditionError:
            return False

    def validity(self, now: datetime) -> Validity:
        """How it stands at a moment (aware)."""
        if now > self.not_after:
            return Validity.EXPIRED
        if now < self.not_before:
            return Validity.EARLY
        return Validity.SOON if self.not_after - now < RENEW_WITHIN else Validity.OK


def new_key() -> bytes:
    """A new private key, PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def public_half(key: bytes) -> bytes:
    """The public key of a private one, both PEM.

    Raises:
        PreconditionError: It is not a private key without passphrase.
    """
    from cryptography.hazmat.primitives import serialization

    return _any_key(key).public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def authority_for(key: bytes, *, platform: str, now: datetime, days: int = AUTHORITY_DAYS) -> bytes:
    """An authority's certificate, PEM, signed by itself.

    Args:
        key: Its private key, PEM.
        platform: Its name.
        now: Aware; it counts from shortly before.
        days: How long it is valid.

    Raises:
        PreconditionError: The key is not for ECDSA on P-256.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    private = _own_key(key)
    builder = _begun(_name(platform), _name(platform), private.public_key(), now - _BACKDATED, now + timedelta(days=days))
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_usage(signs_certificates=True), True),
        (x509.SubjectKeyIdentifier.from_public_key(private.public_key()), False),
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return _pem(builder.sign(private, hashes.SHA256()))


def server_certificate_for(
    key: bytes, *, platform: str, names: Iterable[str], authority: bytes, authority_key: bytes, now: datetime, days: int = SERVER_DAYS
) -> bytes:
    """A server's certificate, PEM.

    Args:
        key: The server's private key, PEM.
        platform: Common name.
        names: What it is for, at least one.
        authority: Who signs it, PEM.
        authority_key: The authority's private key, PEM.
        now: Aware; it counts from shortly before.
        days: How long it is valid; the authority's end cuts it short.

    Raises:
        PreconditionError: A key or the authority is damaged, or they do not belong together.
        ValueError: There is no name, or one is neither a DNS name nor an address.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    (signer, *_), signing = _loaded(authority), _own_key(authority_key)
    if _der(signer.public_key()) != _der(signing.public_key()):
        raise PreconditionError("the authority's key does not belong to its certificate", "kivactl provision")
    alternatives = [_alternative(name) for name in names]
    if not alternatives:
        msg = "a server's certificate needs a name"
        raise ValueError(msg)
    public = _own_key(key).public_key()
    begin = max(now - _BACKDATED, signer.not_valid_before_utc)
    builder = _begun(_name(platform), signer.subject, public, begin, min(now + timedelta(days=days), signer.not_valid_after_utc))
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH]), False),
        (x509.SubjectKeyIdentifier.from_public_key(public), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), False),
        (x509.SubjectAlternativeName(alternatives), False),
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return _pem(builder.sign(signing, hashes.SHA256()))


def parse(pem: bytes) -> tuple[Certificate, ...]:
    """What the certificates of a PEM file say, in its order; other content is passed over.

    Raises:
        PreconditionError: It holds none, or a damaged one.
    """
    return tuple(map(_said, _loaded(pem)))


def signed_by(certificate: bytes, authority: bytes) -> bool:
    """Whether the first certificate of a PEM file was signed by the first of another."""
    from cryptography.exceptions import InvalidSignature

    try:
        _loaded(certificate)[0].verify_directly_issued_by(_loaded(authority)[0])
    except (ValueError, TypeError, InvalidSignature, PreconditionError):
        return False
    return True


def _said(certificate: x509.Certificate) -> Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        alternatives = tuple(map(_name_of, certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value))
    except x509.ExtensionNotFound:
        alternatives = ()
    try:
        authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        authority = False
    return Certificate(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        names=alternatives,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        serial=certificate.serial_number,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        authority=authority,
        public_key=_der(certificate.public_key()),
    )


def _loaded(pem: bytes) -> list[x509.Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise PreconditionError("there is no certificate in PEM form, or a damaged one", "kivactl certs show") from None


def _begun(subject: x509.Name, issuer: x509.Name, public: PublicKeyTypes, not_before: datetime, not_after: datetime) -> x509.CertificateBuilder:
    from cryptography import x509

    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)  # type: ignore[arg-type]  # ours are of P-256
    return builder.serial_number(x509.random_serial_number()).not_valid_before(not_before.astimezone(UTC)).not_valid_after(not_after.astimezone(UTC))


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(platform: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "kivactl"), x509.NameAttribute(NameOID.COMMON_NAME, platform)])


def _alternative(name: str) -> x509.GeneralName:
    from cryptography import x509

    kind, _, value = name.partition(":")
    if kind == "IP":
        return x509.IPAddress(ipaddress.ip_address(value))
    if kind == "DNS" and value:
        return x509.DNSName(value)
    msg = f"'{name}' is no name for a certificate"
    raise ValueError(msg)


def _name_of(name: x509.GeneralName) -> str:
    from cryptography import x509

    kinds = {x509.DNSName: "DNS", x509.IPAddress: "IP", x509.RFC822Name: "email", x509.UniformResourceIdentifier: "URI"}
    return f"{kinds.get(type(name), type(name).__name__)}:{name.value}"


def _own_key(pem: bytes) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    key = _any_key(pem)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PreconditionError("the private key is not for ECDSA on P-256", "kivactl provision")
    return key


def _any_key(pem: bytes) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise PreconditionError("there is no private key in PEM form that opens without a passphrase", "kivactl provision") from None


def _der(key: PublicKeyTypes) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)
