"""The adapter with a real Ansible."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kivactl.errors import PreconditionError, ToolError
from kivactl.plan import Status
from kivactl.tools.ansible import RUN_VARIABLE, local_inventory, run_playbook
from kivactl.tools.ansible_output import Counts

pytestmark = pytest.mark.real


@pytest.fixture
def private(tmp_path):
    folder = tmp_path / "private"
    folder.mkdir()
    return folder


def _playbook(tmp_path: Path, *tasks: dict) -> Path:
    path = tmp_path / "play.yml"
    path.write_text(json.dumps([{"name": "Play", "hosts": "all", "gather_facts": False, "tasks": list(tasks)}]))
    return path


def _run(playbook, private, variables=None, **options):
    outcomes = []
    run = run_playbook(playbook, local_inventory(), variables or {}, private_data=private, timeout_s=options.pop("timeout_s", 60), **options)
    while True:
        try:
            outcomes.append(next(run))
        except StopIteration as end:
            return outcomes, end.value


def _processes_of_runs(owner: int | None = None) -> list[int]:
    mark = f"{RUN_VARIABLE}=kiva-ansible-{owner or os.getpid()}-".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_a_run_changes_and_check_mode_does_not(tmp_path, private):
    target = tmp_path / "made"
    playbook = _playbook(
        tmp_path,
        {"name": "Folder", "ansible.builtin.file": {"path": "{{ target }}", "state": "directory", "mode": "0700"}},
        {"name": "Loud", "ansible.builtin.debug": {"msg": "hello {{ target }}"}},
    )
    outcomes, summary = _run(playbook, private, {"target": str(target)}, check=True)
    assert not target.exists()
    assert summary.hosts == {"localhost": Counts(ok=2, changed=1)}
    outcomes, summary = _run(playbook, private, {"target": str(target)})
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert [(outcome.step, outcome.status, outcome.message) for outcome in outcomes] == [
        ("localhost: Folder", Status.STARTED, ""),
        ("localhost: Folder", Status.DONE, "changed"),
        ("localhost: Loud", Status.STARTED, ""),
        ("localhost: Loud", Status.DONE, f"hello {target}"),
    ]
    assert list(private.iterdir()) == []
    assert not _processes_of_runs()


def test_the_callers_ansible_settings_take_no_part(tmp_path, private, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    (home / ".ansible.cfg").write_text("[defaults]\nstdout_callback = no_such_callback\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("ANSIBLE_CONFIG", str(home / ".ansible.cfg"))
    monkeypatch.setenv("ANSIBLE_CALLBACK_PLUGINS", "/nowhere")
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    before = set(home.iterdir())
    playbook = _playbook(tmp_path, {"name": "Environment", "ansible.builtin.shell": "env > {{ out }}", "changed_when": False})
    _, summary = _run(playbook, private, {"out": str(tmp_path / "env")})
    assert summary.succeeded
    seen = (tmp_path / "env").read_text()
    assert "hunter2" not in seen
    assert "/nowhere" not in seen
    assert set(home.iterdir()) == before


def test_secrets_are_not_in_the_command_line(tmp_path, private):
    playbook = _playbook(
        tmp_path,
        {"name": "Look", "ansible.builtin.shell": "cat /proc/*/cmdline 2>/dev/null | tr '\\0' ' ' > {{ out }}; true", "changed_when": False},
        {"name": "Use", "ansible.builtin.shell": "echo $SECRET", "environment": {"SECRET": "{{ secret }}"}, "no_log": True, "changed_when": False},
    )
    outcomes, summary = _run(playbook, private, {"out": str(tmp_path / "out"), "secret": "hunter2"})
    assert summary.succeeded
    assert "ansible-playbook" in (tmp_path / "out").read_text()
    assert "hunter2" not in (tmp_path / "out").read_text()
    assert "hunter2" not in json.dumps([outcome.as_dict() for outcome in outcomes])


def test_what_ansible_printed_is_kept_without_what_is_hidden(tmp_path, private):
    playbook = _playbook(
        tmp_path,
        {"name": "Told", "ansible.builtin.debug": {"msg": "said aloud"}},
        {"name": "Hidden", "ansible.builtin.command": "echo {{ secret }}", "no_log": True},
        {"name": "Fails", "ansible.builtin.command": "false"},
    )
    record = tmp_path / "record"
    _run(playbook, private, {"secret": "hunter2"}, record=record)
    text = record.read_text()
    assert "said aloud" in text
    assert "hunter2" not in text
    assert "TASK [Fails]" in text
    assert record.stat().st_mode & 0o777 == 0o600


def test_a_failed_task_is_in_the_summary(tmp_path, private):
    playbook = _playbook(tmp_path, {"name": "Break", "ansible.builtin.shell": "echo why >&2; exit 3"}, {"name": "After", "ansible.builtin.debug": {"msg": "x"}})
    outcomes, summary = _run(playbook, private)
    assert outcomes[-1].status is Status.FAILED
    assert [(failure.task, failure.message) for failure in summary.failures] == [("Break", "why")]
    assert not summary.succeeded


def test_a_playbook_that_ansible_cannot_read(tmp_path, private):
    (tmp_path / "play.yml").write_text("- hosts: [all\n")
    with pytest.raises(ToolError, match=r"could not run the playbook 'play.yml'") as caught:
        _run(tmp_path / "play.yml", private)
    assert any("ERROR" in line for line in caught.value.details)
    assert list(private.iterdir()) == []


def test_without_ansible(tmp_path, private, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(PreconditionError, match="'ansible-playbook' is not on PATH"):
        _run(_playbook(tmp_path), private)


def _long(tmp_path: Path) -> Path:
    return _playbook(tmp_path, {"name": "Long", "ansible.builtin.shell": "touch {{ out }}; sleep 987", "changed_when": False})


def _until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_closing_the_generator_leaves_nothing(tmp_path, private, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    out = tmp_path / "out"
    run = run_playbook(_long(tmp_path), local_inventory(), {"out": str(out)}, private_data=private, timeout_s=60)
    assert next(run).status is Status.STARTED
    _until(out.exists)
    assert _processes_of_runs()
    run.close()
    assert list(scratch.iterdir()) == []
    assert not _processes_of_runs()
    assert list(private.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "ansible"]


def test_a_run_that_takes_too_long_is_ended(tmp_path, private):
    with pytest.raises(ToolError, match="did not end within 15 s"):
        _run(_long(tmp_path), private, {"out": str(tmp_path / "out")}, timeout_s=15)
    assert (tmp_path / "out").exists()
    assert not _processes_of_runs()
    assert list(private.iterdir()) == []


def test_what_a_killed_run_left_is_cleared_by_the_next(tmp_path, private):
    out = tmp_path / "out"
    script = (
        "from pathlib import Path; from kivactl.tools.ansible import *; "
        f"list(run_playbook(Path({str(_long(tmp_path))!r}), local_inventory(), {{'out': {str(out)!r}}}, private_data=Path({str(private)!r}), timeout_s=60))"
    )
    child = subprocess.Popen([sys.executable, "-c", script])
    try:
        _until(out.exists)
    finally:
        child.kill()
        child.wait()
    assert list(private.iterdir())
    assert _processes_of_runs(child.pid)
    playbook = tmp_path / "short.yml"
    playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [{"name": "Short", "ansible.builtin.debug": {"msg": "x"}}]}]))
    _, summary = _run(playbook, private)
    assert summary.succeeded
    assert list(private.iterdir()) == []
    assert not _processes_of_runs(child.pid)
