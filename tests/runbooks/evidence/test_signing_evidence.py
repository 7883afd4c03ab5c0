"""Key, certificate and trust: made once, renewed in time, and never a reason for a run to lose its evidence."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta

import pytest

from kivactl.errors import PreconditionError
from kivactl.runbooks import evidence
from kivactl.runbooks.evidence.signing import evidence_folder, signer_for, trusted
from kivactl.stack.certificates import authority_for, new_key, parse
from kivactl.stack.signature import is_issued

NOW = datetime.now(UTC)


def signer(deployment, now=NOW):
    return signer_for(deployment.layout, "city", now)


def test_the_key_is_its_own_and_private(deployment, authority):
    key, certificate = signer(deployment)
    path = evidence_folder(deployment.layout) / "signing.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path != deployment.layout.signing_key
    assert is_issued(certificate, authority.read_bytes())
    assert parse(certificate)[0].matches(key)
    assert trusted(deployment.layout).read_bytes() == authority.read_bytes()


def test_it_stays_the_same(deployment, authority):
    assert signer(deployment) == signer(deployment, NOW + timedelta(days=300))


def test_without_an_authority_it_signs_itself(deployment):
    assert trusted(deployment.layout) is None
    _, certificate = signer(deployment)
    assert trusted(deployment.layout).read_bytes() == certificate


@pytest.mark.parametrize("broken", ["missing key", "damaged key", "damaged certificate", "other key", "over"])
def test_an_authority_that_cannot_sign_is_no_reason_to_fail(deployment, authority, broken, drill):
    layout = deployment.layout
    match broken:
        case "missing key":
            layout.ca_key.unlink()
        case "damaged key":
            layout.ca_key.write_text("x")
        case "damaged certificate":
            authority.write_text("x")
        case "other key":
            layout.ca_key.write_bytes(new_key())
        case "over":
            key = layout.ca_key.read_bytes()
            authority.write_bytes(authority_for(key, platform="city", now=NOW - timedelta(days=20), days=10))
    folder = drill.write()
    assert evidence.verify(folder, trusted(layout)) == []


def test_a_new_authority_signs_anew_and_the_old_evidence_stays_good(deployment, authority, new_run):
    runs = []
    for name in ("start", "stop"):
        run = new_run(name)
        run.opens()
        run.says("closed", verdict="passed", reason="")
        runs.append(run.write())
        key = new_key()
        deployment.layout.ca_key.write_bytes(key)
        authority.write_bytes(authority_for(key, platform="city", now=NOW))
    assert (runs[0] / "certificate.pem").read_bytes() != (runs[1] / "certificate.pem").read_bytes()
    assert [evidence.verify(folder, trusted(deployment.layout)) for folder in runs] == [[], []]
    assert len(parse(trusted(deployment.layout).read_bytes())) == 2


def test_a_certificate_that_ends_is_renewed(deployment, authority):
    deployment.layout.ca_certificate.write_bytes(authority_for(deployment.layout.ca_key.read_bytes(), platform="city", now=NOW, days=20000))
    key, old = signer(deployment)
    again, new = signer(deployment, NOW + timedelta(days=3640))
    assert (key, old != new) == (again, True)


def test_an_authority_whose_key_is_kept_elsewhere_goes_on_to_count(deployment, authority):
    _, certificate = signer(deployment)
    deployment.layout.ca_key.unlink()
    assert signer(deployment)[1] == certificate


def test_a_damaged_key_is_told(deployment, authority):
    signer(deployment)
    (evidence_folder(deployment.layout) / "signing.key").write_text("x")
    with pytest.raises(PreconditionError, match="private key"):
        signer(deployment)
