"""Backup, trial, loss and restore of a platform in a cluster on the command line, with the real restic and the real Helm."""

from __future__ import annotations

import json
import os

import pytest
from cluster_desk import desk

pytestmark = [pytest.mark.charts, pytest.mark.real]


def test_from_the_first_backup_to_the_restored_platform(tmp_path, monkeypatch, kivactl):
    repository = tmp_path / "repository"
    monkeypatch.setenv("KIVA_BACKUP_PASSWORD", "a word for tests")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    with desk(tmp_path, monkeypatch, backup={"repository": str(repository)}) as place:
        monkeypatch.chdir(place.folder)
        token, counted = place.issue(), place.counted()
        made = kivactl("runbook", "backup", "--yes")
        assert made.code == 0, made.stderr
        tried = kivactl("backup", "verify", "--yes")
        assert tried.code == 0, tried.stderr
        assert "objects tried out, and they fit; nothing was started" in tried.stderr
        assert "tried" in kivactl("backup", "list").stdout
        assert kivactl("backup", "list").stdout.count("dry run") == 1
        shown = kivactl("backup", "show", "latest")
        assert (shown.code, "requests;" in shown.stdout) == (0, True)

        running = kivactl("runbook", "restore", "--yes")
        assert (running.code, running.stderr.splitlines()[-2:]) != (0, [])
        assert "the platform 'kiva' is running: a restore would replace it" in running.stderr

        place.lose_namespace()
        place.lose_desk()
        os.chdir(place.folder)
        restored = kivactl("runbook", "restore", "--set", f"repository={repository}", "--set", "rto=10m", "--set", "rpo=1h", "--yes")
        assert restored.code == 0, restored.stderr
        assert place.lets_in(token)
        assert place.counted() > counted
        record = json.loads(kivactl("runbook", "history", "-o", "json").stdout)
        assert record, "runs came back, and this one is among them"
        refused = kivactl("runbook", "disaster-drill", "--yes")
        assert (refused.code, "works on one machine only" in refused.stderr) == (2, True)
