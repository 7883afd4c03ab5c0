"""A true disaster with real engines: everything but the backup is gone, one command brings the platform back.

The figures that are printed (`pytest -s`) are measurements of this machine; asserted is that nothing of what was backed up is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal

import openai
import pytest

pytestmark = pytest.mark.drills

QUESTION = [{"role": "user", "content": "What is the capital of Germany?"}]


@pytest.fixture(scope="module")
def stored(lone_operator, tmp_path_factory):
    """Repository and passphrase, in a place that the disaster does not reach."""
    folder = tmp_path_factory.mktemp("elsewhere")
    password = folder / "password"
    password.write_text("a passphrase of the tests\n")
    password.chmod(0o600)
    lone_operator.write(replicas=1, extra=f"backup: {{repository: {folder / 'repository'}, password_file: {password}}}\n")
    return folder / "repository", password


def ask(operator, bearer):
    with openai.OpenAI(base_url=f"https://127.0.0.1:{operator.port}/v1", api_key=bearer, max_retries=0) as client:
        return client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=8).usage


def billed(operator):
    rows = json.loads(operator.run("usage", "report", "--by", "tenant", "-o", "json")[0])["rows"]
    return {row["name"]: (row["requests"], row["prompt_tokens"], row["completion_tokens"]) for row in rows if row["name"] == "default"}


def test_what_is_left_of_a_platform_is_rebuilt_from_its_backup(lone_operator, stored, monkeypatch, capsys):
    operator, (repository, password) = lone_operator, stored
    operator.run("deploy", "--yes")
    bearer = operator.token()
    monkeypatch.setenv("SSL_CERT_FILE", str(operator.layout.ca_certificate))
    used = [ask(operator, bearer) for _ in range(12)]
    wanted = {"default": (12, sum(one.prompt_tokens for one in used), sum(one.completion_tokens for one in used))}
    operator.until(lambda: billed(operator) == wanted)
    operator.run("runbook", "backup", "--yes")
    spec, state = (operator.folder / "kiva.yaml").read_text(), operator.layout.state

    pids = operator.pids()
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    operator.until(lambda: not operator.pids())
    shutil.rmtree(operator.layout.run, ignore_errors=True)
    for path in operator.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    words = ("--set", f"repository={repository}", "--set", f"password_file={password}", "--set", "rto=30m", "--set", "rpo=1h")
    facts = json.loads(operator.run("runbook", "restore", "--yes", "-o", "json", *words)[0])
    with capsys.disabled():
        print(f"\nrestored after a disaster: {facts['measured']}", end="")
    assert facts["verdict"] == "passed"
    assert 0 < facts["measured"]["rto"] <= 1800
    assert (operator.folder / "kiva.yaml").read_text() == spec
    assert operator.layout.state == state
    assert billed(operator) == wanted
    more = ask(operator, bearer)
    assert more.completion_tokens > 0, "a token that was issued before the disaster"
    total = (13, wanted["default"][1] + more.prompt_tokens, wanted["default"][2] + more.completion_tokens)
    operator.until(lambda: billed(operator) == {"default": total})
    assert "genuine" in operator.run("runbook", "verify", "latest")[0]
    assert operator.status["health"] == "serving"
