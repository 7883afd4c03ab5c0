"""Checks a run's folder against its signature: without the platform, on any copy. It never raises for what it finds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from kivactl.runbooks import chain
from kivactl.runbooks.evidence.manifest import (
    CERTIFICATE,
    JOURNAL,
    LOCK,
    MANIFEST,
    RESERVE,
    SIGNATURE,
    UNSIGNED,
    Manifest,
    entries_in,
    hash_of,
    is_plain,
    manifest_from,
)
from kivactl.stack import signature
from kivactl.stack.signature import Trust

_MOST_LINES = 20
_CLOCKS_DIFFER = timedelta(hours=24)
_HOLDER = {"user", "host", "pid", "verb", "since"}


class Kind(StrEnum):
    """What may be wrong with evidence."""

    UNSIGNED = "unsigned"
    SIGNATURE = "signature"
    UNTRUSTED = "untrusted"
    EXPIRED = "expired"
    OTHER_RUN = "other run"
    CHANGED = "changed"
    ADDED = "added"
    MISSING = "missing"
    CHAIN = "chain"
    CUT_OFF = "cut off"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was signed.

    Attributes:
        kind: What.
        path: The file, as a path in the folder.
        message: One sentence, without a full stop.
    """

    kind: Kind
    path: str
    message: str

    def __str__(self) -> str:
        return self.message


def verify(folder: Path, trust: Path | None, *, run: str | None = None, now: datetime | None = None) -> list[Finding]:
    """Everything that is not as it was signed.

    Args:
        folder: The run's folder, or a copy of it.
        trust: File with the certificates (PEM) of who is believed: the platform's authority. Without it the signature may be anybody's,
            which is a finding.
        run: The name that the run must have; any when absent.
        now: Aware; the present when absent.

    Returns:
        A finding for each fault; empty when the folder is as it was signed.
    """
    try:
        return list(_findings(folder, trust, run, now or datetime.now(UTC)))
    except OSError as error:
        return [Finding(Kind.MISSING, "", f"{error.filename or folder} cannot be read: {error.strerror}")]


def _findings(folder: Path, trust: Path | None, run: str | None, now: datetime) -> Iterator[Finding]:
    entries = dict(entries_in(folder)) if folder.is_dir() else {}
    if not entries:
        yield Finding(Kind.MISSING, "", f"there is no run in {folder}")
        return
    special = {name for name, path in entries.items() if not is_plain(path)}
    for name in sorted(special):
        yield Finding(Kind.ADDED, name, f"'{name}' is a link or no file at all: its content is not signed")
    plain = {name: path for name, path in entries.items() if name not in special}
    text = _bytes(plain, MANIFEST)
    manifest = manifest_from(text)
    if MANIFEST not in plain or SIGNATURE not in plain:
        yield Finding(Kind.UNSIGNED, MANIFEST, "the run has no signature: it has not ended, was killed at its end, or the signature was taken away")
    else:
        yield from _signature(plain, text, manifest, trust, run, now)
    if manifest is not None:
        yield from _files(plain, manifest)
    yield from _journal(_bytes(plain, JOURNAL), manifest)
    yield from _unsigned(plain)


def _signature(plain: dict[str, Path], text: bytes, manifest: Manifest | None, trust: Path | None, run: str | None, now: datetime) -> Iterator[Finding]:
    certificate = _bytes(plain, CERTIFICATE)
    if not signature.is_signed(certificate, text, _bytes(plain, SIGNATURE)):
        yield Finding(Kind.SIGNATURE, SIGNATURE, "the signature does not fit the manifest and the certificate: one of the three was changed")
        return
    if manifest is None:
        yield Finding(Kind.SIGNATURE, MANIFEST, "the manifest was signed, but is none of this format")
        return
    if manifest.made_at > now + _CLOCKS_DIFFER:
        yield Finding(Kind.EXPIRED, MANIFEST, f"the manifest says that it was signed in the future, on {manifest.made_at:%Y-%m-%d %H:%M} UTC")
    if run is not None and manifest.run != run:
        yield Finding(Kind.OTHER_RUN, MANIFEST, f"this is the evidence of the run '{manifest.run}', not of '{run}'")
    if trust is None:
        yield Finding(Kind.UNTRUSTED, CERTIFICATE, "the signature may be anybody's: nothing says which authority to believe")
        return
    try:
        believed = trust.read_bytes()
    except OSError as error:
        yield Finding(Kind.UNTRUSTED, CERTIFICATE, f"the certificates of who is believed cannot be read from {trust}: {error.strerror}")
        return
    match signature.trust_in(certificate, believed, manifest.made_at):
        case Trust.GOOD:
            return
        case Trust.OUTSIDE:
            yield Finding(Kind.EXPIRED, CERTIFICATE, f"the certificate was not valid when the run was signed, on {manifest.made_at:%Y-%m-%d}")
        case Trust.STRANGE:
            yield Finding(Kind.UNTRUSTED, CERTIFICATE, f"the certificate comes from nobody whom {trust} names")
        case fault:
            yield Finding(Kind.UNTRUSTED, CERTIFICATE, f"the certificate {fault}")


def _files(plain: dict[str, Path], manifest: Manifest) -> Iterator[Finding]:
    for name in sorted(manifest.files.keys() | plain.keys()):
        if name not in plain:
            yield Finding(Kind.MISSING, name, f"'{name}' is missing")
        elif name in manifest.files:
            if name != JOURNAL and hash_of(plain[name]) != manifest.files[name]:  # of the journal there is more to say
                yield Finding(Kind.CHANGED, name, f"'{name}' was changed")
        elif name not in UNSIGNED:
            yield Finding(Kind.ADDED, name, f"'{name}' was added")


def _journal(journal: bytes, manifest: Manifest | None) -> Iterator[Finding]:
    faults = chain.faults_of(journal)
    for fault in faults[:_MOST_LINES]:
        yield Finding(Kind.CHAIN, JOURNAL, f"the journal was changed: {fault.removeprefix('the journal ')}")
    if len(faults) > _MOST_LINES:
        yield Finding(Kind.CHAIN, JOURNAL, f"the journal has {len(faults) - _MOST_LINES} more such lines")
    if manifest is None or JOURNAL not in manifest.files or not journal:
        return
    signed = journal[: manifest.journal_bytes]
    added = journal[manifest.journal_bytes :].count(b"\n")
    if len(signed) == manifest.journal_bytes and chain.head_of(signed) == manifest.journal_head and added and not faults:
        yield Finding(Kind.ADDED, JOURNAL, f"the journal has {added} more entries than were signed: the run was taken up again")
    elif len(journal) < manifest.journal_bytes and not faults:
        missing = manifest.journal_entries - journal.count(b"\n")
        yield Finding(Kind.CUT_OFF, JOURNAL, f"the end of the journal was cut off: {missing} entries are missing")
    elif hashlib.sha256(journal).hexdigest() != manifest.files[JOURNAL]:
        yield Finding(Kind.CHANGED, JOURNAL, "the journal is not the one that was signed")


def _unsigned(plain: dict[str, Path]) -> Iterator[Finding]:
    """The two files that are not signed must not say anything but what kivactl writes into them."""
    if LOCK in plain and not _says_holder(_bytes(plain, LOCK)):
        yield Finding(Kind.ADDED, LOCK, f"'{LOCK}' holds something else than who works on the run")
    if RESERVE in plain and _bytes(plain, RESERVE).strip(b"\0"):
        yield Finding(Kind.ADDED, RESERVE, f"'{RESERVE}' is not empty")


def _says_holder(text: bytes) -> bool:
    if not text:
        return True
    try:
        holder = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(holder, dict) and set(holder) == _HOLDER


def _bytes(plain: dict[str, Path], name: str) -> bytes:
    return plain[name].read_bytes() if name in plain else b""
