"""What people hand to a restore by mistake, with a real repository: another passphrase, another's repository, another platform's or version's backup."""

from __future__ import annotations

import hashlib
import random
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from backed_up import contents, fill, platform_in, provision, rewrite, small_disk

from kivactl.errors import CheckError, KivaError, PreconditionError, UsageError
from kivactl.flows.backup.stage import build_stage, stage_of
from kivactl.flows.restore.examination import examined
from kivactl.flows.restore.fetching import OURS, VERIFIED, fetch, mark, remember
from kivactl.flows.restore.manifest import read_manifest
from kivactl.flows.restore.places import places_for
from kivactl.flows.restore.putting import put_back, take_back
from kivactl.stack.secret import Secret
from kivactl.tools.restic import Restic

pytestmark = pytest.mark.real

TAGS = (OURS, "platform=kiva", "format=1")


class World:
    """A platform with an empty repository."""

    def __init__(self, folder):
        self.deployment = provision(platform_in(folder / "platform"))
        self.folder = folder
        self.restic = self.opened("right")
        self.restic.make()
        self.places = places_for(self.deployment.layout)

    def opened(self, word):
        return Restic(str(self.folder / "repository"), Secret(word), self.folder / "cache")

    def backup(self, *tags, **changes):
        """Make a backup; its manifest may be changed before."""
        build_stage(self.deployment)
        stage = stage_of(self.deployment.layout)
        rewrite(stage, **changes)
        return list(self.restic.backup(stage, tags or TAGS))[-1].data["snapshot"]

    def fetch(self, restic=None, platform="kiva", named=None):
        return list(fetch(restic or self.restic, self.deployment.layout, self.places.fetched, platform=platform, named=named))

    def refused(self, error, sentence, **words):
        before = contents(self.deployment.layout.state, "backup")
        with pytest.raises(error, match=sentence) as caught:
            self.fetch(**words)
        assert caught.value.hint
        assert contents(self.deployment.layout.state, "backup") == before
        assert not self.places.fetched.exists()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("bad"))


@pytest.fixture
def fresh(tmp_path):
    return World(tmp_path)


def test_a_wrong_passphrase(world):
    world.backup()
    world.refused(PreconditionError, "the passphrase of the repository .* is wrong", restic=world.opened("wrong"))


def test_a_repository_that_is_not_there(world, tmp_path):
    world.refused(PreconditionError, "there is no backup repository at", restic=Restic(str(tmp_path / "nothing"), Secret("right"), tmp_path / "cache"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    world.refused(PreconditionError, "there is no backup repository at", restic=Restic(str(tmp_path / "folder"), Secret("right"), tmp_path / "cache"))


def test_a_repository_that_somebody_else_made_with_the_same_program(fresh, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("Dear Ada")
    list(fresh.restic.backup(tmp_path / "home", ("letters",)))
    fresh.refused(PreconditionError, "the repository holds no backup of kivactl")
    fresh.backup()
    fresh.refused(UsageError, "no backups begin with 'ffffffff'", named="ffffffff")
    (one,) = [one for one in fresh.restic.snapshots() if "letters" in one.tags]
    fresh.refused(UsageError, "no backups begin with", named=one.id)


def test_somebody_elses_backup_that_only_bears_our_mark(fresh, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("Dear Ada")
    list(fresh.restic.backup(tmp_path / "home", TAGS))
    fresh.refused(CheckError, "kivactl did not make it, or it is damaged")


def test_a_backup_of_another_version(fresh):
    older = fresh.backup(OURS, "platform=kiva", "format=0", format=0)
    fresh.refused(PreconditionError, r"written by an older kivactl \(format 0; this one reads 1\)")
    unmarked = fresh.backup(OURS, "platform=kiva", format=2)
    fresh.refused(PreconditionError, r"written by a newer kivactl \(format 2; this one reads 1\)", named=unmarked)
    good = fresh.backup()
    assert fresh.fetch()[-1].data["result"]["snapshot"].startswith(good)
    fresh.places.fetched.rename(fresh.folder / "away")
    fresh.refused(PreconditionError, "older kivactl", named=older[:8])


def test_a_backup_of_another_platform(fresh):
    theirs = fresh.backup(OURS, "platform=other", "format=1", platform="other")
    fresh.refused(PreconditionError, "no backup of 'kiva', but of: other")
    fresh.refused(PreconditionError, "is of the platform 'other', not of 'kiva'", named=theirs)
    falsely = fresh.backup(*TAGS, platform="other")
    fresh.refused(PreconditionError, "is of the platform 'other', not of 'kiva'", named=falsely)


def test_restored_onto_a_platform_that_was_renamed(fresh):
    fresh.backup()
    renamed = replace(fresh.deployment, loaded=replace(fresh.deployment.loaded, platform=fresh.deployment.platform.model_copy(update={"name": "renamed"})))
    fresh.refused(PreconditionError, "no backup of 'renamed', but of: kiva", platform="renamed")
    fresh.fetch()
    with pytest.raises(PreconditionError, match="not of 'renamed'"):
        examined(renamed, fresh.places.fetched)
    with pytest.raises(PreconditionError, match="not of 'renamed'"):
        list(put_back(renamed, "restore-1", "x"))


def test_a_clock_that_was_set_back_between_backup_and_restore(fresh):
    ahead = datetime.now(UTC) + timedelta(days=30)
    fresh.backup(made_at=ahead.isoformat())
    fresh.fetch()
    found = examined(fresh.deployment, fresh.places.fetched)
    assert "a clock was wrong" in found.notes[0]
    assert found.manifest.age_s(datetime.now(UTC)) == 0
    outcomes = list(put_back(fresh.deployment, "restore-1", "x"))
    assert f"as of {ahead:%Y-%m-%d}" in outcomes[-1].message


def test_a_backup_that_was_tried_and_is_gone_is_told(fresh):
    fresh.backup()
    newest = fresh.backup()
    marked = mark(fresh.restic, newest)
    assert not marked.startswith(newest)
    assert VERIFIED in next(one.tags for one in fresh.restic.snapshots() if one.id == marked)
    made_at = read_manifest(stage_of(fresh.deployment.layout)).made_at
    remember(fresh.deployment.layout, marked, {"made_at": made_at.isoformat()})
    assert not any("are gone since" in one.message for one in fresh.fetch())
    (fresh.folder / "repository" / "snapshots" / marked).unlink()
    assert f"backups that were tried are gone since: {marked[:8]}" in [one.message for one in fresh.fetch()]


def test_a_full_disk_while_it_is_fetched_is_named_and_it_goes_on_once_there_is_room(tmp_path):
    world = World(tmp_path)
    (world.deployment.layout.gateway / "big.json").write_bytes(random.Random(1).randbytes(2**21))
    world.backup()
    with small_disk(tmp_path / "disk", "3m") as disk:
        into, ballast = disk / "fetched", fill(disk, but=2**20)
        get = lambda: list(fetch(world.restic, world.deployment.layout, into, platform="kiva", named=None))  # noqa: E731
        with pytest.raises(KivaError, match=f"no space left on the disk that holds {into}"):
            get()
        assert not into.exists()
        ballast.unlink()
        get()
        assert (into / "state" / "gateway" / "big.json").stat().st_size == 2**21


def test_put_back_and_taken_back_with_a_real_repository(fresh):
    snapshot, state = fresh.backup(), fresh.deployment.layout.state
    key = fresh.deployment.layout.signing_key.read_bytes()
    fresh.deployment.layout.signing_key.write_bytes(b"lost")
    old = contents(state, "backup")
    fresh.fetch(named=snapshot[:10])
    list(put_back(fresh.deployment, "restore-1", snapshot))
    assert fresh.deployment.layout.signing_key.read_bytes() == key
    list(take_back(fresh.deployment, "restore-1"))
    assert contents(state, "backup", "run") == {name: one for name, one in old.items() if name != "run"}


def test_what_a_crash_left_in_the_folder_of_locks(fresh):
    """A lock is no part of any backup: what is fetched is the same with and without it, or nothing is fetched."""
    fresh.backup()
    locks = fresh.folder / "repository" / "locks"
    content = bytes(300)
    for name in ("left", hashlib.sha256(content).hexdigest()):
        (locks / name).write_bytes(content)
        fresh.fetch()
        assert contents(fresh.places.fetched) == contents(stage_of(fresh.deployment.layout))
        (locks / name).unlink(missing_ok=True)
    shutil.rmtree(fresh.places.fetched)
    for content in (b"", b"garbage"):
        cut_short = locks / hashlib.sha256(content).hexdigest()
        cut_short.write_bytes(content)
        fresh.refused(CheckError, "is damaged")
        cut_short.unlink()
    locks.rmdir()
    fresh.fetch()
    assert contents(fresh.places.fetched) == contents(stage_of(fresh.deployment.layout))
