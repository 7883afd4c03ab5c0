"""The key that signs evidence, its certificate, and whom to believe: files of the platform, in `STATE/evidence`.

The key is not the one that signs tokens: a rotation of that one, or its loss, leaves old evidence as good as it was.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from kivactl.errors import PreconditionError
from kivactl.stack import signature
from kivactl.stack.certificates import RENEW_WITHIN, new_key
from kivactl.stack.layout import Layout
from kivactl.targets.release import write_file

KEY, CERTIFICATE, TRUSTED = "signing.key", "certificate.pem", "trusted.pem"


def evidence_folder(layout: Layout) -> Path:
    """Where key and certificate lie."""
    return layout.state / "evidence"


def trusted(layout: Layout) -> Path | None:
    """The certificates (PEM) that this platform's evidence is held against: every authority it ever had; None before the first evidence."""
    path = evidence_folder(layout) / TRUSTED
    return path if path.exists() else None


def signer_for(layout: Layout, platform: str, now: datetime) -> tuple[bytes, bytes]:
    """The key and its certificate (PEM); made when they are missing, the certificate also when it ends or the authority is another.

    Without an authority that can sign, the certificate signs itself: a run's evidence must not fail for want of it.

    Args:
        layout: The platform's files.
        platform: Its name.
        now: Aware.

    Raises:
        PreconditionError: The key is damaged.
        OSError: The files cannot be written.
    """
    folder = evidence_folder(layout)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = _read(folder / KEY)
    if not key:
        key = new_key()
        write_file(folder / KEY, key.decode())
    authority = _read(layout.ca_certificate)
    present = _read(folder / CERTIFICATE)
    certificate = present if _usable(present, key, authority, now) else _issued(layout, key, authority, platform, now, present)
    if certificate != present:
        write_file(folder / CERTIFICATE, certificate.decode(), 0o644)
    _trust(folder / TRUSTED, authority if signature.is_issued(certificate, authority) else certificate)
    return key, certificate


def write_signature(path: Path, content: bytes) -> None:
    """Replace the signature in one step, on disk before it has its name."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        error.filename = str(path)
        raise


def _issued(layout: Layout, key: bytes, authority: bytes, platform: str, now: datetime, present: bytes) -> bytes:
    authority_key = _read(layout.ca_key)
    if authority and authority_key:
        with suppress(PreconditionError):
            return signature.certificate_for(key, platform=platform, now=now, issuer=(authority, authority_key))
    if _valid(present, key, now):  # of an authority whose key is kept elsewhere by now
        return present
    return signature.certificate_for(key, platform=platform, now=now)


def _usable(certificate: bytes, key: bytes, authority: bytes, now: datetime) -> bool:
    """Whether the certificate can stay: valid for a while, and of the present authority when there is one."""
    return _valid(certificate, key, now) and _valid(certificate, key, now + RENEW_WITHIN) and (not authority or signature.is_issued(certificate, authority))


def _valid(certificate: bytes, key: bytes, at: datetime) -> bool:
    validity = signature.validity_of(certificate, key)
    return validity is not None and validity[0] <= at <= validity[1]


def _trust(path: Path, certificate: bytes) -> None:
    """Add who is believed; those before stay, for the evidence of their time."""
    known = _read(path)
    if not set(signature.certificates_in(certificate)) <= set(signature.certificates_in(known)):
        write_file(path, (known + certificate).decode(), 0o644)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return b""
