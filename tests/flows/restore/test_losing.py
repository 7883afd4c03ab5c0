"""The disaster of a drill takes everything, once; it is undone wherever it is cut off, and what was forgotten does not come back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest
from backed_up import contents, killed

from kivactl.errors import NotReadyError
from kivactl.flows.restore import losing
from kivactl.flows.restore.losing import STRUCK, forget, lost_of, strike, undo
from kivactl.flows.restore.places import KEPT
from kivactl.targets.rollout import STATE_VARIABLE


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch):
    """What is deployed here is only a record."""
    monkeypatch.setattr("kivactl.targets.local.LocalTarget.start", lambda _: iter(()))


@pytest.fixture
def state(deployment):
    shutil.rmtree(deployment.layout.run)  # gone with the processes, and not to come back
    return deployment.layout.state


def all_of(state):
    return contents(state, *KEPT)


def copies(state, tmp_path):
    """The same state again and again, in the same place."""
    shutil.copytree(state, tmp_path / "first", symlinks=True)
    while True:
        yield
        shutil.rmtree(state)
        shutil.copytree(tmp_path / "first", state, symlinks=True)


def test_everything_is_gone_and_comes_back(deployment, state):
    before, runs = all_of(state), contents(state / "runs")
    (outcome,) = strike(deployment)
    assert outcome.data[STRUCK]
    assert outcome.data["mark"] == "fault"
    assert {path.name for path in state.iterdir()} == {"runs", "backup"}
    assert contents(state / "runs") == runs
    list(undo(deployment))
    assert all_of(state) == before
    assert not lost_of(deployment.layout).exists()


def test_done_again_it_takes_nothing_that_came_after_it(deployment, state):
    list(strike(deployment))
    (state / "tokens").mkdir()
    (state / "tokens" / "signing.key").write_text("restored")
    list(strike(deployment))
    assert (state / "tokens" / "signing.key").read_text() == "restored"


def test_undone_it_replaces_what_came_after_it(deployment, state):
    before = all_of(state)
    list(strike(deployment))
    (state / "tokens").mkdir()
    (state / "tokens" / "signing.key").write_text("restored")
    (state / "journal.jsonl").symlink_to("nowhere")
    list(undo(deployment))
    assert all_of(state) == before


def test_killed_at_any_moment_it_is_done_again_or_undone(nothing_runs, deployment, state, tmp_path):
    before = all_of(state)
    for at, _ in enumerate(copies(state, tmp_path)):
        if not killed(at // 2, lambda: list(strike(deployment))):
            break
        if at % 2:
            list(strike(deployment))
            assert {path.name for path in state.iterdir()} == {"runs", "backup"}, at
        list(undo(deployment))
        assert all_of(state) == before, at
    assert at > 15


def test_killed_while_it_is_undone_it_is_undone_after_all(nothing_runs, deployment, state, tmp_path):
    before = all_of(state)
    list(strike(deployment))
    for at, _ in enumerate(copies(state, tmp_path)):
        if not killed(at, lambda: list(undo(deployment))):
            break
        list(undo(deployment))
        assert all_of(state) == before, at
    assert at > 8


def test_killed_while_it_is_forgotten_half_of_it_does_not_come_back(nothing_runs, deployment, state, tmp_path):
    """A drill whose last step is interrupted is undone: the restored platform must not be replaced by what is left of the old one."""
    old = all_of(state)
    list(strike(deployment))
    (state / "tokens").mkdir()
    (state / "tokens" / "signing.key").write_text("restored")
    restored = all_of(state)
    for at, _ in enumerate(copies(state, tmp_path)):
        if not killed(at, lambda: list(forget(deployment))):
            break
        list(undo(deployment))
        assert all_of(state) in (old, restored), at
        list(forget(deployment))
        assert {path.name for path in (state / "backup").iterdir()} <= {"stage"}, at
    assert at > 20


def test_where_nothing_was_taken_there_is_nothing_to_undo_or_forget(deployment, state):
    before = all_of(state)
    list(undo(deployment))
    list(forget(deployment))
    assert all_of(state) == before


def test_what_cannot_be_removed_is_said(deployment, monkeypatch):
    list(strike(deployment))

    def refused(*_, **__):
        raise PermissionError(1, "Operation not permitted", "immutable")

    monkeypatch.setattr(os, "unlink", refused)
    with pytest.raises(PermissionError):
        list(forget(deployment))


@pytest.fixture
def process(deployment):
    """A process of the platform that does not end when it is asked to."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={STATE_VARIABLE: str(deployment.layout.state)})
    child.stdout.readline()
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def test_every_process_is_killed_without_being_asked(deployment, process):
    list(strike(deployment))
    assert process.wait() == -signal.SIGKILL


def test_a_process_that_cannot_be_killed_keeps_the_state_in_place(deployment, process, state, monkeypatch):
    before = all_of(state)
    monkeypatch.setattr(losing, "_GONE_WITHIN_S", 0.2)
    monkeypatch.setattr(losing.os, "kill", lambda *_: None)
    with pytest.raises(NotReadyError, match=f"cannot be killed: {process.pid}"):
        list(strike(deployment))
    monkeypatch.undo()
    assert all_of(state) == before
