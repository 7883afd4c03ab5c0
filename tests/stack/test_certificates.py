from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from generated import examples
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import PreconditionError
from kivactl.stack import certificates
from kivactl.stack.certificates import Validity, authority_for, new_key, parse, public_half, server_certificate_for, signed_by

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
AUTHORITY_KEY, KEY = new_key(), new_key()
AUTHORITY = authority_for(AUTHORITY_KEY, platform="kiva", now=NOW)
NAMES = ("IP:127.0.0.1", "DNS:localhost")


def _issue(**changes) -> bytes:
    words = {"platform": "kiva", "names": NAMES, "authority": AUTHORITY, "authority_key": AUTHORITY_KEY, "now": NOW}
    return server_certificate_for(changes.pop("key", KEY), **(words | changes))


def _pem(key) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def test_what_a_server_certificate_says():
    (said,) = parse(_issue())
    assert (said.subject, said.issuer, said.names) == ("CN=kiva,O=kivactl", "CN=kiva,O=kivactl", NAMES)
    assert (said.not_before, said.not_after) == (NOW - timedelta(hours=1), NOW + timedelta(days=398))
    assert said.serial > 2**64
    assert len(said.fingerprint) == 64
    assert not said.authority
    assert said.matches(KEY)
    assert not said.matches(AUTHORITY_KEY)
    assert not said.matches(b"")


def test_what_an_authority_says():
    (said,) = parse(AUTHORITY)
    assert said.authority
    assert said.names == ()
    assert said.matches(AUTHORITY_KEY)
    assert said.not_after == NOW + timedelta(days=3650)


def test_who_signed():
    stranger = authority_for(KEY, platform="kiva", now=NOW)
    assert signed_by(_issue(), AUTHORITY)
    assert signed_by(AUTHORITY, AUTHORITY)
    assert not signed_by(_issue(), stranger)
    assert not signed_by(_issue(), b"")


def test_openssl_accepts_it_by_its_strictest_rules(tmp_path):
    now = datetime.now(UTC)
    authority, server = tmp_path / "ca.pem", tmp_path / "server.pem"
    authority.write_bytes(authority_for(AUTHORITY_KEY, platform="kiva", now=now))
    server.write_bytes(_issue(authority=authority.read_bytes(), now=now))
    check = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_ip", "127.0.0.1", "-CAfile", authority, server]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0


def test_the_extensions_are_those_of_provisioning():
    extensions = {extension.oid: extension.critical for extension in x509.load_pem_x509_certificate(_issue()).extensions}
    oid = x509.ExtensionOID
    assert extensions == {
        oid.BASIC_CONSTRAINTS: True,
        oid.KEY_USAGE: True,
        oid.EXTENDED_KEY_USAGE: False,
        oid.SUBJECT_KEY_IDENTIFIER: False,
        oid.AUTHORITY_KEY_IDENTIFIER: False,
        oid.SUBJECT_ALTERNATIVE_NAME: False,
    }


def test_no_certificate_outlives_its_authority_or_begins_before_it():
    short = authority_for(AUTHORITY_KEY, platform="kiva", now=NOW, days=10)
    (said,) = parse(_issue(authority=short))
    assert (said.not_before, said.not_after) == (NOW - timedelta(hours=1), NOW + timedelta(days=10))


@pytest.mark.parametrize(
    ("after", "validity"),
    [
        (timedelta(hours=-2), Validity.EARLY),
        (timedelta(0), Validity.OK),
        (timedelta(days=368), Validity.OK),
        (timedelta(days=368, seconds=1), Validity.SOON),
        (timedelta(days=398), Validity.SOON),
        (timedelta(days=398, seconds=1), Validity.EXPIRED),
    ],
)
def test_how_it_stands_in_time(after, validity):
    assert parse(_issue())[0].validity(NOW + after) is validity


def test_a_chain_is_read_in_its_order_past_other_content():
    chain = parse(b"a comment\n" + _issue() + KEY + AUTHORITY)
    assert [said.authority for said in chain] == [False, True]


def test_any_other_key_and_certificate_is_read_too():
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    certificate = builder.not_valid_before(NOW).not_valid_after(NOW).sign(key, hashes.SHA256())
    (said,) = parse(certificate.public_bytes(serialization.Encoding.PEM))
    assert (said.subject, said.names, said.authority, said.serial) == ("", (), False, 1)
    assert said.matches(_pem(key))


NO_CERTIFICATES = {
    "empty": b"",
    "text": b"nonsense",
    "half": AUTHORITY[:200],
    "key": KEY,
    "hollow": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
}
NO_KEYS = {"empty": b"", "text": b"nonsense", "half": KEY[:100], "public": public_half(KEY), "P-384": _pem(ec.generate_private_key(ec.SECP384R1()))}
"""With names, for keys differ in every process that collects the tests."""


@pytest.mark.parametrize("pem", NO_CERTIFICATES.values(), ids=NO_CERTIFICATES)
def test_what_is_no_certificate_is_refused(pem):
    with pytest.raises(PreconditionError, match="no certificate in PEM form"):
        parse(pem)


@pytest.mark.parametrize("key", NO_KEYS.values(), ids=NO_KEYS)
def test_unusable_keys_are_refused(key):
    with pytest.raises(PreconditionError):
        _issue(key=key)
    with pytest.raises(PreconditionError):
        authority_for(key, platform="kiva", now=NOW)


def test_an_authority_with_another_key_signs_nothing():
    with pytest.raises(PreconditionError, match="does not belong"):
        _issue(authority_key=KEY)


@pytest.mark.parametrize("names", [(), ("localhost",), ("DNS:",), ("email:a@b",), ("IP:localhost",)])
def test_careless_callers_are_refused(names):
    with pytest.raises(ValueError):
        _issue(names=names)


def test_the_public_half_belongs_to_the_private_one():
    public = serialization.load_pem_public_key(public_half(KEY))
    assert public == serialization.load_pem_private_key(KEY, None).public_key()
    assert b"PRIVATE" not in public_half(KEY)


dns = st.from_regex(r"(\*\.)?[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{2,6}){0,2}", fullmatch=True).map("DNS:{}".format)
addresses = st.ip_addresses().map("IP:{}".format)


@examples(0.3)
@given(names=st.lists(dns | addresses, min_size=1, max_size=8), days=st.integers(1, 3650))
def test_any_names_survive_in_their_order(names, days):
    (said,) = parse(_issue(names=names, days=days))
    assert list(said.names) == names
    assert said.not_after <= NOW + timedelta(days=3650)


def test_keys_are_never_the_same():
    assert len({certificates.new_key() for _ in range(20)}) == 20
