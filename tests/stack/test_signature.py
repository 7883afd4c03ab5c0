"""Signatures and the certificates of those who sign: checked by openssl too, and never an exception for a damaged one."""

from __future__ import annotations

import base64
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import PreconditionError
from kivactl.stack.certificates import authority_for, new_key, parse
from kivactl.stack.signature import Trust, certificate_for, certificates_in, fingerprint_of, is_issued, is_signed, sign, trust_in, validity_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY, AUTHORITY_KEY = new_key(), new_key()
AUTHORITY = authority_for(AUTHORITY_KEY, platform="city", now=NOW)
ISSUED = certificate_for(KEY, platform="city", now=NOW, issuer=(AUTHORITY, AUTHORITY_KEY))
OWN = certificate_for(KEY, platform="city", now=NOW)


@given(st.binary(), st.binary())
def test_a_signature_is_under_one_document_only(document, other):
    signature = sign(KEY, document)
    assert is_signed(ISSUED, document, signature)
    assert is_signed(ISSUED, other, signature) == (other == document)
    assert not is_signed(certificate_for(new_key(), platform="city", now=NOW), document, signature)


def test_plain_openssl_agrees(tmp_path):
    for name, content in (("a.pem", AUTHORITY), ("c.pem", ISSUED), ("own.pem", OWN), ("d", b"document"), ("s", sign(KEY, b"document"))):
        (tmp_path / name).write_bytes(content)

    def openssl(*words):
        return subprocess.run(["openssl", *words], cwd=tmp_path, capture_output=True, text=True, check=False).stdout.strip()

    (tmp_path / "p.pem").write_text(openssl("x509", "-in", "c.pem", "-pubkey", "-noout"))
    assert openssl("dgst", "-sha256", "-verify", "p.pem", "-signature", "s", "d") == "Verified OK"
    at = ("-attime", str(int(NOW.timestamp())))
    assert openssl("verify", *at, "-CAfile", "a.pem", "c.pem") == "c.pem: OK"
    assert openssl("verify", *at, "-CAfile", "own.pem", "own.pem") == "own.pem: OK"
    assert openssl("x509", "-in", "c.pem", "-noout", "-fingerprint", "-sha256").partition("=")[2].replace(":", "").lower() == fingerprint_of(ISSUED)


@pytest.mark.parametrize(
    ("certificate", "trusted", "days", "expected"),
    [
        (ISSUED, AUTHORITY, 0, Trust.GOOD),
        (ISSUED, OWN + AUTHORITY, 0, Trust.GOOD),
        (OWN, OWN, 0, Trust.GOOD),
        (ISSUED, ISSUED, 0, Trust.GOOD),
        (OWN, AUTHORITY, 0, Trust.STRANGE),
        (ISSUED, b"", 0, Trust.STRANGE),
        (ISSUED, b"no certificate", 0, Trust.STRANGE),
        (ISSUED, authority_for(new_key(), platform="city", now=NOW), 0, Trust.STRANGE),
        (b"", AUTHORITY, 0, Trust.UNREADABLE),
        (AUTHORITY, AUTHORITY, 0, Trust.PURPOSE),
        (ISSUED, AUTHORITY, -1, Trust.OUTSIDE),
        (ISSUED, AUTHORITY, 4000, Trust.OUTSIDE),
    ],
)
def test_trust(certificate, trusted, days, expected):
    assert trust_in(certificate, trusted, NOW + timedelta(days=days)) is expected


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("certificate", [ISSUED, OWN])
def test_no_damaged_byte_raises(certificate):
    """Each byte of the certificate in turn: nothing is thrown, and nobody is trusted for what was not issued."""
    issued = x509.load_pem_x509_certificate(certificate).tbs_certificate_bytes
    lines = certificate.splitlines()
    der = base64.b64decode(b"".join(lines[1:-1]))
    signature = sign(KEY, b"document")
    for at in range(len(der)):
        for change in (1, 0x80):
            broken = der[:at] + bytes([der[at] ^ change]) + der[at + 1 :]
            pem = b"\n".join([lines[0], base64.encodebytes(broken).strip(), lines[-1]]) + b"\n"
            is_signed(pem, b"document", signature)
            validity_of(pem, KEY)
            is_issued(ISSUED, pem)
            if trust_in(pem, AUTHORITY + OWN, NOW) is Trust.GOOD:  # a padding bit of the signature means nothing
                assert x509.load_pem_x509_certificate(pem).tbs_certificate_bytes == issued
            trust_in(certificate, pem, NOW)


def test_a_certificate_ends_with_its_authority():
    short = authority_for(AUTHORITY_KEY, platform="city", now=NOW, days=10)
    said = parse(certificate_for(KEY, platform="city", now=NOW, issuer=(short, AUTHORITY_KEY)))[0]
    assert said.not_after == parse(short)[0].not_after
    assert not said.authority
    with pytest.raises(PreconditionError, match="not valid"):
        certificate_for(KEY, platform="city", now=NOW + timedelta(days=11), issuer=(short, AUTHORITY_KEY))


def test_an_authority_and_a_key_that_do_not_belong_together_are_refused():
    with pytest.raises(PreconditionError, match="does not belong"):
        certificate_for(KEY, platform="city", now=NOW, issuer=(AUTHORITY, KEY))


@pytest.mark.parametrize("key", [b"", b"x", AUTHORITY])
def test_what_is_no_key_cannot_sign(key):
    with pytest.raises(PreconditionError, match="private key"):
        sign(key, b"document")


def test_a_long_name_fits():
    assert "CN=" in parse(certificate_for(KEY, platform="n" * 63, now=NOW))[0].subject


def test_certificates_are_told_apart():
    assert certificates_in(AUTHORITY + b"\n# a note\n" + OWN) == [AUTHORITY, OWN]
    assert validity_of(ISSUED, AUTHORITY_KEY) is None
    assert fingerprint_of(b"x") == ""
