"""Signatures under documents, and the certificates that say whose they are: ECDSA on P-256 over SHA-256, as plain openssl checks them. Pure.

A certificate that signs documents says so (RFC 9336), so that the gateway's key, of the same authority, cannot sign one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from kivactl.errors import PreconditionError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CERTIFICATE_DAYS = 3650
"""The same as an authority's: records are kept for years, and are judged by the day on which they were signed."""

_DOCUMENTS = "1.3.6.1.5.5.7.3.36"
"""Key purpose `id-kp-documentSigning`. Source: https://www.rfc-editor.org/rfc/rfc9336"""

_BACKDATED = timedelta(hours=1)


class Trust(StrEnum):
    """Whether a certificate stands for what its key signed."""

    GOOD = "is trusted"
    UNREADABLE = "is damaged"
    PURPOSE = "is not for signing documents"
    STRANGE = "comes from nobody who is trusted"
    OUTSIDE = "was not valid when the signature was made"


def sign(key: bytes, document: bytes) -> bytes:
    """The signature under a document, DER.

    Raises:
        PreconditionError: The key (PEM) is damaged, or not for ECDSA on P-256.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return _private(key).sign(document, ec.ECDSA(hashes.SHA256()))


def is_signed(certificate: bytes, document: bytes, signature: bytes) -> bool:
    """Whether a signature is under exactly this document, by the key of a certificate (PEM)."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        holder = _first(certificate)
        public = holder.public_key() if holder is not None else None
        if not isinstance(public, ec.EllipticCurvePublicKey):
            return False
        public.verify(signature, document, ec.ECDSA(hashes.SHA256()))
    except _damages():
        return False
    return True


def certificate_for(key: bytes, *, platform: str, now: datetime, issuer: tuple[bytes, bytes] | None = None, days: int = CERTIFICATE_DAYS) -> bytes:
    """A certificate for a key that signs documents, PEM.

    Args:
        key: The private key, PEM.
        platform: Whose documents.
        now: Aware; it counts from shortly before.
        issuer: The authority's certificate and private key, PEM; it signs itself when absent.
        days: How long it is valid; the authority's end cuts it short.

    Raises:
        PreconditionError: A key or the authority is damaged, or they do not belong together.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    private = _private(key)
    begin, end = now.astimezone(UTC) - _BACKDATED, now.astimezone(UTC) + timedelta(days=days)
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "kivactl"), x509.NameAttribute(NameOID.COMMON_NAME, f"{platform[:50]} evidence")])
    signing, issued_by = private, name
    if issuer is not None:
        authority, signing = _first(issuer[0]), _private(issuer[1])
        if authority is None or not _belongs(signing, authority):
            raise PreconditionError("the authority's key does not belong to its certificate", "kivactl certs show")
        issued_by, begin, end = authority.subject, max(begin, authority.not_valid_before_utc), min(end, authority.not_valid_after_utc)
        if begin >= end:
            raise PreconditionError("the authority is not valid at this machine's time", "kivactl certs show")
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issued_by).public_key(private.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(), True),
        (x509.ExtendedKeyUsage([x509.ObjectIdentifier(_DOCUMENTS)]), False),
        (x509.SubjectKeyIdentifier.from_public_key(private.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), False),
    ):
        builder = builder.add_extension(extension, critical)
    return _pem(builder.sign(signing, hashes.SHA256()))


def trust_in(certificate: bytes, trusted: bytes, at: datetime) -> Trust:
    """Whether a certificate stands for what was signed at a moment.

    Args:
        certificate: PEM; the first one counts.
        trusted: PEM of who is trusted: authorities, or the very certificate.
        at: When its key signed, aware.
    """
    holder = _first(certificate)
    if holder is None:
        return Trust.UNREADABLE
    try:
        if not _for_documents(holder):
            return Trust.PURPOSE
    except _damages():
        return Trust.UNREADABLE
    roots = [root for root in _all(trusted) if root == holder or _issued(holder, root)]
    if not roots:
        return Trust.STRANGE
    if not any(_valid(root, at) and _valid(holder, at) for root in roots):
        return Trust.OUTSIDE
    return Trust.GOOD


def certificates_in(pem: bytes) -> Sequence[bytes]:
    """Each certificate of a PEM file by itself; none when it is damaged."""
    return [_pem(certificate) for certificate in _all(pem)]


def is_issued(certificate: bytes, authority: bytes) -> bool:
    """Whether the first certificate of a PEM file was issued by the first of another, which may issue them."""
    holder, root = _first(certificate), _first(authority)
    return holder is not None and root is not None and _issued(holder, root)


def validity_of(certificate: bytes, key: bytes) -> tuple[datetime, datetime] | None:
    """From when to when a certificate is valid; None when it is damaged, or is not of this private key."""
    holder = _first(certificate)
    if holder is None or not _belongs(_private(key), holder):
        return None
    return holder.not_valid_before_utc, holder.not_valid_after_utc


def fingerprint_of(certificate: bytes) -> str:
    """SHA-256 of a certificate (PEM), as openssl shows it, in lower case and without colons; empty when it is damaged."""
    from cryptography.hazmat.primitives import hashes

    holder = _first(certificate)
    return holder.fingerprint(hashes.SHA256()).hex() if holder is not None else ""


def _belongs(key: EllipticCurvePrivateKey, certificate: x509.Certificate) -> bool:
    try:
        return certificate.public_key() == key.public_key()
    except _damages():
        return False


def _issued(holder: x509.Certificate, root: x509.Certificate) -> bool:
    from cryptography import x509

    try:
        if not root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        holder.verify_directly_issued_by(root)
    except _damages():
        return False
    return True


def _for_documents(holder: x509.Certificate) -> bool:
    from cryptography import x509

    try:
        purposes = holder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return x509.ObjectIdentifier(_DOCUMENTS) in purposes


def _damages() -> tuple[type[Exception], ...]:
    """What reading and checking a certificate raises that is not what it should be."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    return ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension, x509.ExtensionNotFound


def _valid(certificate: x509.Certificate, at: datetime) -> bool:
    return certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc


def _usage() -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private(pem: bytes) -> EllipticCurvePrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PreconditionError("there is no private key for ECDSA on P-256 in PEM form that opens without a passphrase", "kivactl certs show")
    return key


def _first(pem: bytes) -> x509.Certificate | None:
    return next(iter(_all(pem)), None)


def _all(pem: bytes) -> list[x509.Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except _damages():
        return []


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)
