"""The journal: on disk before the next step, and readable after any crash."""

import json
from pathlib import Path

import pytest

from kivactl import journal
from kivactl.journal import Journal
from kivactl.plan import Outcome, Status


def test_what_happened_is_on_disk_before_it_is_passed_on(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path, "deploy-1", {"plan": "p"}) as entries:
        for outcome in entries.record(iter([Outcome("a", Status.STARTED), Outcome("a", Status.PROGRESS, "50 %"), Outcome("a", Status.DONE)])):
            if not outcome.passing:
                assert journal.read(path)[-1]["status"] == outcome.status.value
    assert [entry.get("status") or entry["event"] for entry in journal.read(path)] == ["opened", "started", "done", "closed"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("error", "verdict"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_how_a_run_ended_is_recorded(tmp_path, error, verdict):
    with pytest.raises(error), Journal(tmp_path / "j", "r"):
        raise error
    assert journal.read(tmp_path / "j")[-1]["verdict"] == verdict


def test_a_line_half_written_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "j"
    with Journal(path, "r"):
        pass
    path.write_text(path.read_text() + '{"run": "r", "st')
    assert [entry["event"] for entry in journal.read(path)] == ["opened", "closed"]


def test_a_run_after_a_crash_begins_a_line_of_its_own(tmp_path):
    path = tmp_path / "j"
    path.write_text('{"run": "old", "st')
    with Journal(path, "new"):
        pass
    assert [entry["run"] for entry in journal.read(path)] == ["new", "new"]


def test_no_journal_is_an_empty_one(tmp_path):
    assert journal.read(tmp_path / "none") == []


def test_a_full_disk_leaves_no_open_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        Journal(tmp_path / "j", "r")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_runs_share_a_file(tmp_path):
    for name in ("one", "two"):
        with Journal(tmp_path / "j", name):
            pass
    assert [json.loads(line)["run"] for line in (tmp_path / "j").read_text().splitlines()] == ["one", "one", "two", "two"]
