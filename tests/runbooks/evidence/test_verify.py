"""Whatever happens to a run's folder after it was signed is found, without the platform."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from generated import examples
from hypothesis import given
from hypothesis import strategies as st

from kivactl.runbooks import evidence
from kivactl.runbooks.evidence import Kind, verify
from kivactl.runbooks.evidence.manifest import hash_of, manifest_from, sums_text
from kivactl.stack.certificates import authority_for, new_key, server_certificate_for
from kivactl.stack.signature import certificate_for, sign


def kinds(folder, trust, **options):
    found = verify(folder, trust, **options)
    assert all(finding.message and not finding.message.endswith(".") and "\n" not in finding.message for finding in found)
    return [finding.kind for finding in found]


def resigned(folder, key, made_at=None):
    """What a forger can do who has a key: list everything as it is, and sign it."""
    text = json.loads((folder / "manifest.json").read_text())
    (folder / "SHA256SUMS").write_text(sums_text(folder))
    for name in text["files"]:
        text["files"][name]["sha256"] = hash_of(folder / name)
    if made_at:
        text["made_at"] = made_at.isoformat()
    document = json.dumps(text).encode()
    (folder / "manifest.json").write_bytes(document)
    (folder / "manifest.sig").write_bytes(sign(key, document))


def test_a_copy_is_good_without_the_platform(signed):
    assert verify(*signed) == []


def test_the_run_may_be_asked_for_by_name(signed):
    folder, trust = signed
    run = evidence.manifest_of(folder).run
    assert verify(folder, trust, run=run) == []
    assert kinds(folder, trust, run="another") == [Kind.OTHER_RUN]


def test_without_anybody_to_believe_it_is_not_good(signed):
    assert kinds(signed[0], None) == [Kind.UNTRUSTED]
    assert kinds(signed[0], signed[0] / "nothing.pem") == [Kind.UNTRUSTED]


@examples(3)
@given(data=st.data())
def test_any_changed_byte_is_found(signed, data):
    folder, trust = signed
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    path = data.draw(st.sampled_from(files))
    original = path.read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    other = data.draw(st.integers(1, 255))
    try:
        path.write_bytes(original[:at] + bytes([original[at] ^ other]) + original[at + 1 :])
        assert verify(folder, trust) != []
    finally:
        path.write_bytes(original)


@given(data=st.data())
def test_any_cut_or_longer_file_is_found(signed, data):
    folder, trust = signed
    path = data.draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
    original = path.read_bytes()
    more = data.draw(st.binary(min_size=1, max_size=8)) if not original or data.draw(st.booleans()) else None
    try:
        path.write_bytes(original + more if more else original[: data.draw(st.integers(0, len(original) - 1))])
        assert verify(folder, trust) != []
    finally:
        path.write_bytes(original)


def test_each_missing_file_is_found(signed):
    folder, trust = signed
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock"):
        content = path.read_bytes()
        path.unlink()
        assert verify(folder, trust), path
        path.write_bytes(content)
    assert verify(folder, trust) == []


@pytest.mark.parametrize("name", ["note.txt", ".hidden", "measurements/load/more.jsonl", "new/deep", "manifest.json.bak", "reserve"])
def test_an_added_file_is_found(signed, name):
    folder, trust = signed
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("more")
    assert kinds(folder, trust) == [Kind.ADDED]


def test_links_are_found_and_not_followed(signed, tmp_path):
    folder, trust = signed
    (folder / "away").symlink_to(tmp_path)
    moved = tmp_path / "plan.json"
    (folder / "plan.json").rename(moved)
    (folder / "plan.json").symlink_to(moved)
    assert kinds(folder, trust) == [Kind.ADDED, Kind.ADDED, Kind.MISSING]


def test_lock_and_reserve_may_say_what_kivactl_writes_and_nothing_else(signed):
    folder, trust = signed
    holder = {"user": "ada", "host": "ops1", "pid": 1, "verb": "runbook", "since": "2026-01-01T12:00:00+00:00"}
    (folder / "lock").write_text(json.dumps(holder))
    (folder / "reserve").write_bytes(bytes(100))
    assert verify(folder, trust) == []
    (folder / "lock").write_text(json.dumps(holder | {"note": "x"}))
    assert kinds(folder, trust) == [Kind.ADDED]


def test_a_cut_off_journal_is_found_although_its_chain_holds(signed):
    folder, trust = signed
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:-2]))
    (finding,) = verify(folder, trust)
    assert (finding.kind, finding.message) == (Kind.CUT_OFF, "the end of the journal was cut off: 2 entries are missing")


def test_a_broken_chain_is_found_even_when_the_forger_has_the_key(drill, authority):
    folder = drill.write()
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join([*lines[:3], *lines[4:]]))
    resigned(folder, (drill.deployment.layout.state / "evidence" / "signing.key").read_bytes())
    assert Kind.CHAIN in kinds(folder, authority)


def test_a_run_that_was_taken_up_again_says_so(drill, authority):
    folder = drill.write()
    drill.says("resumed", operator={"name": "ada"})
    (finding,) = verify(folder, authority)
    assert finding.message == "the journal has 1 more entries than were signed: the run was taken up again"
    drill.says("closed", verdict="passed", reason="")
    drill.write()
    assert verify(folder, authority) == []


def test_a_run_that_has_not_ended_has_no_signature(drill, authority):
    assert kinds(drill.folder, authority) == [Kind.UNSIGNED]


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig"])
def test_a_signature_taken_away_is_found(signed, name):
    folder, trust = signed
    (folder / name).unlink()
    assert kinds(folder, trust)[0] is Kind.UNSIGNED


@pytest.mark.parametrize("content", [b"", b"\0" * 70, b"no signature", b"0" * 5000])
def test_what_is_no_signature_is_a_wrong_one(signed, content):
    folder, trust = signed
    (folder / "manifest.sig").write_bytes(content)
    assert kinds(folder, trust) == [Kind.SIGNATURE]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b'{"files": 3}', b"[" * 50_000, b"\xff\xfe", b'{"files": {"../../etc/passwd": {"sha256": ""}}}']
)
def test_a_hostile_manifest_is_a_finding(signed, content):
    folder, trust = signed
    (folder / "manifest.json").write_bytes(content)
    assert Kind.SIGNATURE in kinds(folder, trust)


def test_who_signs_with_a_key_of_his_own_is_not_believed(signed):
    folder, trust = signed
    key = new_key()
    (folder / "certificate.pem").write_bytes(certificate_for(key, platform="city", now=datetime.now(UTC)))
    resigned(folder, key)
    assert kinds(folder, trust) == [Kind.UNTRUSTED]


def test_an_authority_of_the_same_name_is_not_believed(signed):
    folder, trust = signed
    key, other = new_key(), new_key()
    issuer = authority_for(other, platform="city", now=datetime.now(UTC)), other
    (folder / "certificate.pem").write_bytes(certificate_for(key, platform="city", now=datetime.now(UTC), issuer=issuer))
    resigned(folder, key)
    assert kinds(folder, trust) == [Kind.UNTRUSTED]


def test_the_gateways_key_cannot_sign_evidence(drill, authority):
    layout, now, key = drill.deployment.layout, datetime.now(UTC), new_key()
    folder = drill.write()
    gateway = server_certificate_for(
        key, platform="city", names=["DNS:localhost"], authority=authority.read_bytes(), authority_key=layout.ca_key.read_bytes(), now=now
    )
    (folder / "certificate.pem").write_bytes(gateway)
    resigned(folder, key)
    (finding,) = verify(folder, authority)
    assert (finding.kind, finding.message) == (Kind.UNTRUSTED, "the certificate is not for signing documents")


def test_a_certificate_cannot_issue_others(drill, authority):
    """Who has the evidence key of one platform cannot make further signers."""
    folder, now = drill.write(), datetime.now(UTC)
    layout, key = drill.deployment.layout, new_key()
    own = (layout.state / "evidence" / "certificate.pem").read_bytes(), (layout.state / "evidence" / "signing.key").read_bytes()
    (folder / "certificate.pem").write_bytes(certificate_for(key, platform="city", now=now, issuer=own))
    resigned(folder, key)
    assert kinds(folder, layout.state / "evidence" / "certificate.pem") == [Kind.UNTRUSTED]


@pytest.mark.parametrize("away", [timedelta(days=-1), timedelta(days=3700)])
def test_signed_outside_of_the_certificates_time(drill, authority, away):
    folder = drill.write()
    made_at = datetime.now(UTC) + away
    resigned(folder, (drill.deployment.layout.state / "evidence" / "signing.key").read_bytes(), made_at)
    assert kinds(folder, authority, now=made_at) == [Kind.EXPIRED]


def test_signed_in_the_future(drill, authority):
    folder = drill.write()
    assert kinds(folder, authority, now=datetime.now(UTC) - timedelta(days=2)) == [Kind.EXPIRED]


def test_old_evidence_stays_good_after_its_certificate_has_ended(signed):
    assert verify(*signed, now=datetime.now(UTC) + timedelta(days=5000)) == []


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_what_is_no_run_is_a_finding(tmp_path, make):
    make(tmp_path / "run")
    assert kinds(tmp_path / "run", None) == [Kind.MISSING]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_none(text):
    assert manifest_from(text) is None
