"""The evidence of a procedure on a whole platform: taken away, checked without it, and without any of its secrets."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
from light_platform import Light, interpreter

from kivactl.runbooks.evidence import Kind, manifest_of, verify

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evidence")
    (folder / "platform").mkdir()
    light = Light(folder / "platform", interpreter(folder / "python"), folder / "cache")
    light.write(gateway=", tenants: [{name: police}]", extra="runbooks: {contacts: {operator: IT-Betrieb}}\n")
    light.run("provision", "--yes")
    light.run("deploy", "--yes")
    yield light
    light.run("down", "--yes", code=None)
    for pid in light.pids():
        os.kill(pid, signal.SIGKILL)


def test_a_rotation_of_the_key_leaves_evidence_and_no_secret(light, tmp_path):
    token = json.loads(light.run("token", "issue", "police", "--output", "json")[0])["token"]
    old_key = light.layout.signing_key.read_text()
    light.run("runbook", "key-rotation", "--yes", "--lang", "de", "--as", "ada", "--set", "overlap=7d", "--answer", "told=yes", "--answer", "saved=yes")
    (folder,) = (light.layout.state / "runs").iterdir()

    copy, trust = tmp_path / "copy", tmp_path / "authority.pem"
    shutil.copytree(folder, copy)
    shutil.copy(light.layout.ca_certificate, trust)
    assert verify(copy, trust) == []
    assert manifest_of(copy).verdict == "passed"
    light.run("runbook", "verify", folder.name)
    light.run("runbook", "verify", str(copy), "--trust", str(trust))

    environment = json.loads((copy / "environment.json").read_text())
    assert environment["deployed"]["replicas"] == {"tiny": ["tiny-0", "tiny-1"]}
    assert environment["models"][0]["identity"]
    assert environment["parts"]["restic"][0].isdigit()
    report, _ = light.run("runbook", "report", folder.name)
    assert report.startswith("# Bestanden: Signaturschlüssel wechseln")
    assert "| Betrieb | IT-Betrieb | R |" in report

    written = b"\0".join(path.read_bytes() for path in copy.rglob("*") if path.is_file()).decode(errors="replace")
    keys = [*light.layout.state.rglob("*.key"), *light.layout.state.rglob("*.pem")]
    private = [line for text in (old_key, *(path.read_text() for path in keys)) if "PRIVATE KEY" in text for line in text.splitlines()[1:-1]]
    assert len(private) > 6
    for secret in (token, token.rpartition(".")[2], light.password.read_text().strip(), *private):
        assert secret not in written

    (copy / "journal.jsonl").write_bytes(b"".join((copy / "journal.jsonl").read_bytes().splitlines(keepends=True)[:-1]))
    assert [finding.kind for finding in verify(copy, trust)] == [Kind.CUT_OFF]
    light.run("runbook", "verify", str(copy), "--trust", str(trust), code=6)
