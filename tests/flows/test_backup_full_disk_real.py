"""A disk that is full in the middle of a backup: it is named, nothing that was there is lost, and it goes on once there is room."""

from __future__ import annotations

import random

import pytest
from backed_up import fill, small_disk
from backup_site import SPEC, site, written

from kivactl.errors import PreconditionError
from kivactl.flows.backup import backups, check, make
from kivactl.flows.backup.stage import stage_of

pytestmark = pytest.mark.real


def platform(folder, monkeypatch, repository):
    monkeypatch.setenv("KIVA_BACKUP_PASSWORD", "a passphrase of the tests")
    monkeypatch.setenv("KIVA_BACKUP_REPOSITORY", str(repository))
    return site(folder, SPEC)


def grown(deployment, size, seed):
    """More state that cannot be compressed."""
    written(deployment.layout.gateway / f"more-{seed}.json", random.Random(seed).randbytes(size))


def test_of_the_repository(tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", "12m") as disk:
        deployment = platform(tmp_path / "platform", monkeypatch, disk / "repository")
        list(make(deployment))
        grown(deployment, 4 * 2**20, seed=1)
        ballast = fill(disk, but=2**20)
        with pytest.raises(PreconditionError, match=f"no space left on the disk that holds {disk / 'repository'}") as caught:
            list(make(deployment))
        assert caught.value.hint.startswith("free some space")
        ballast.unlink()
        list(check(deployment, read_data=True))
        assert len(backups(deployment)) == 1, "half a backup is none"
        list(make(deployment))
        assert len(backups(deployment)) == 2


def test_a_first_backup_is_not_even_begun_where_it_has_no_room(tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", "2m") as disk:
        deployment = platform(tmp_path / "platform", monkeypatch, disk / "repository")
        grown(deployment, 4 * 2**20, seed=1)
        with pytest.raises(PreconditionError, match="no room for a first backup of"):
            list(make(deployment))
        assert list(disk.iterdir()) == []


def test_of_the_state(tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", "12m") as disk:
        deployment = platform(disk / "platform", monkeypatch, tmp_path / "repository")
        list(make(deployment))
        grown(deployment, 4 * 2**20, seed=1)
        key = deployment.layout.signing_key.read_bytes()
        ballast = fill(disk, but=2**20)
        with pytest.raises(PreconditionError, match=f"no space left on the disk that holds {disk}"):
            list(make(deployment))
        assert len(backups(deployment)) == 1
        assert deployment.layout.signing_key.read_bytes() == key
        ballast.unlink()
        list(make(deployment))
        assert len(backups(deployment)) == 2
        assert (stage_of(deployment.layout) / "state" / "gateway" / "more-1.json").stat().st_size == 4 * 2**20
