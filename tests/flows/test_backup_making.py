"""Backups made by the real restic: all or nothing, said as they go, removed by rule."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from backup_site import SPEC, meter, site, written

from kivactl.errors import CheckError, PreconditionError
from kivactl.flows import backup
from kivactl.flows.backup import making
from kivactl.flows.backup import store as keeping
from kivactl.flows.backup.stage import stage_of
from kivactl.flows.backup.store import NoPassphrase, open_store
from kivactl.flows.restore.manifest import FILE
from kivactl.plan import Status
from kivactl.targets.lock import held

WORD = "correct horse battery staple"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in (keeping.REPOSITORY_VARIABLE, keeping.PASSWORD_VARIABLE, keeping.FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def platform(folder: Path, extra: str = "", name: str = "kiva", keep: str = ""):
    spec = SPEC.replace("name: kiva", f"name: {name}") + f"backup: {{repository: {folder / 'repository'}{extra}{keep and f', keep: {{{keep}}}'}}}\n"
    return site(folder / f"platform-{name}", spec)


def made(deployment):
    return {outcome.step: outcome for outcome in backup.make(deployment)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.real
def test_a_first_backup_makes_passphrase_and_repository_and_can_be_restored(tmp_path, home, capfd):
    deployment = platform(tmp_path)
    assert backup.backups(deployment) == []
    assert backup.age_s(deployment) is None
    outcomes = list(backup.make(deployment))
    steps = [(one.step, one.status) for one in outcomes if not one.passing]
    assert steps == [
        ("state", Status.STARTED),
        ("state", Status.DONE),
        ("passphrase", Status.DONE),
        ("repository", Status.DONE),
        ("backup", Status.STARTED),
        ("backup", Status.DONE),
        ("result", Status.DONE),
    ]
    word = (home / ".config" / "kivactl" / "kiva.backup-password").read_text().strip()
    result = outcomes[-1].data["result"]
    (kept,) = backup.backups(deployment)
    assert kept.id == result["snapshot"]
    assert {"kivactl", "platform=kiva", "format=1"} == set(kept.tags)
    assert backup.age_s(deployment) >= 0
    assert backup.age_s(deployment, verified=True) is None
    open_store(deployment).restore(result["snapshot"], tmp_path / "back")
    assert contents(tmp_path / "back") == contents(stage_of(deployment.layout))
    assert (tmp_path / "back" / FILE).stat().st_mode & 0o077 == 0
    assert [outcome.message for outcome in backup.check(deployment, read_data=True)] == ["reading all of it", "sound"]
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""
    assert word not in "".join(map(str, outcomes))

    again = made(deployment)
    assert {"passphrase", "repository"}.isdisjoint(again)
    added = again["result"].data["added_bytes"]
    assert added < outcomes[-1].data["added_bytes"] / 2, "little more than the manifest"
    meter(deployment.layout, "c")
    made(deployment)
    assert len(backup.backups(deployment)) == 3
    store = open_store(deployment)
    marked = store.tag(again["result"].data["result"]["snapshot"], making.VERIFIED)
    newest_s = backup.age_s(deployment)  # first, for asking takes its time and only adds to the other one's age
    assert backup.age_s(deployment, verified=True) > newest_s
    assert marked in {one.id for one in backup.backups(deployment)}


@pytest.mark.real
def test_old_backups_go_by_the_rules_and_only_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv(keeping.PASSWORD_VARIABLE, WORD)
    rules = "last: 2, daily: 0, weekly: 0, monthly: 0"
    ours, theirs = platform(tmp_path, keep=rules), platform(tmp_path, name="other", keep=rules)
    first, second, third = (made(ours)["result"].data["result"]["snapshot"] for _ in range(3))
    other = made(theirs)["result"].data["result"]["snapshot"]
    outcomes = list(backup.prune(ours))
    assert outcomes[-1].data == {"removed": 1}
    assert outcomes[-1].message == "1 removed"
    assert [one.id for one in backup.backups(ours)] == [second, third]
    assert first not in {one.id for one in open_store(ours).snapshots()}
    assert [one.id for one in backup.backups(theirs)] == [other]
    assert list(backup.prune(ours))[-1].data == {"removed": 0}


@pytest.mark.real
def test_a_wrong_passphrase_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(keeping.PASSWORD_VARIABLE, WORD)
    deployment = platform(tmp_path)
    made(deployment)
    before = contents(tmp_path / "repository")
    monkeypatch.setenv(keeping.PASSWORD_VARIABLE, "another")
    for call in (lambda: made(deployment), lambda: list(backup.prune(deployment)), lambda: list(backup.check(deployment)), lambda: backup.backups(deployment)):
        with pytest.raises(PreconditionError, match=r"the passphrase of the repository .* is wrong"):
            call()
    assert contents(tmp_path / "repository") == before


@pytest.mark.real
def test_damage_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv(keeping.PASSWORD_VARIABLE, WORD)
    deployment = platform(tmp_path)
    made(deployment)
    (key,) = (tmp_path / "repository" / "keys").iterdir()
    key.chmod(0o600)
    key.write_bytes(key.read_bytes().replace(b'"username":"', b'"username":"x'))
    with pytest.raises(CheckError, match="is damaged"):
        list(backup.check(deployment))


@pytest.mark.real
def test_a_lost_passphrase_of_a_repository_is_said_and_none_is_made_instead(tmp_path, home):
    deployment = platform(tmp_path)
    made(deployment)
    shutil.rmtree(home)
    for call in (lambda: made(deployment), lambda: backup.backups(deployment), lambda: backup.age_s(deployment)):
        with pytest.raises(NoPassphrase, match="is not there"):
            call()
    assert not home.exists()


class Store:
    """A repository elsewhere that fails in a way."""

    repository = "s3:https://x/y"

    def __init__(self, there=False, error=None):
        self._there, self._error = there, error

    @property
    def exists(self):
        if self._error:
            raise self._error
        return self._there

    def make(self):
        raise AssertionError("nothing may be made")


@pytest.fixture
def other_store(monkeypatch):
    def of(store):
        monkeypatch.setattr(making, "open_store", lambda _: store)

    return of


def test_a_passphrase_that_opens_nothing_does_not_stay(tmp_path, home, other_store):
    other_store(Store(error=PreconditionError("the passphrase of the repository s3:https://x/y is wrong")))
    deployment = site(tmp_path / "platform", SPEC + "backup: {repository: 's3:https://x/y'}\n")
    with pytest.raises(PreconditionError, match="is wrong"):
        list(backup.make(deployment))
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_storage_that_does_not_answer_is_not_an_empty_one(tmp_path, other_store):
    other_store(Store(error=PreconditionError("the storage of the repository s3:https://x/y cannot be reached: connection refused")))
    deployment = site(tmp_path / "platform", SPEC + "backup: {repository: 's3:https://x/y'}\n")
    with pytest.raises(PreconditionError, match="cannot be reached"):
        list(backup.make(deployment))
    with pytest.raises(PreconditionError, match="cannot be reached"):
        backup.backups(deployment)


def test_without_room_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv(keeping.PASSWORD_VARIABLE, WORD)
    deployment = platform(tmp_path)
    monkeypatch.setattr(making.machine, "disk_free", lambda path: 100 if path == tmp_path else 2**40)
    with pytest.raises(PreconditionError, match=r"no room for a first backup of .* on the disk of") as caught:
        list(backup.make(deployment))
    assert "backup.repository" in caught.value.hint
    assert not (tmp_path / "repository").exists()


def test_before_anything_is_provisioned_no_passphrase_is_made(tmp_path, home):
    deployment = platform(tmp_path)
    deployment.layout.signing_key.unlink()
    with pytest.raises(PreconditionError, match="there is nothing to back up"):
        list(backup.make(deployment))
    assert not home.exists()
    assert not (tmp_path / "repository").exists()


def test_while_someone_changes_the_platform_no_backup_is_made(tmp_path):
    deployment = platform(tmp_path)
    pid = os.fork()  # a lock that this process holds would be lent or waited for
    if pid == 0:
        with held(deployment.layout.lock, "deploy"):
            try:
                list(backup.make(deployment))
            except PreconditionError as error:
                os._exit(0 if "'deploy' of" in error.message else 1)
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_credentials_that_are_gone_are_not_taken_for_no_backups(tmp_path, home):
    deployment = platform(tmp_path, f", credentials: {tmp_path / 'credentials'}")
    written(home / ".config" / "kivactl" / "kiva.backup-password", WORD)
    with pytest.raises(PreconditionError, match="the file with the credentials of the backups is not there"):
        backup.backups(deployment)


def test_the_age_is_that_of_the_newest_backup_of_the_platform(tmp_path, monkeypatch):
    now = datetime.now(UTC)

    def one(hours, *tags):
        return SimpleNamespace(made_at=now - timedelta(hours=hours), tags=tags)

    found = [one(9, "kivactl", "platform=kiva", "verified"), one(5, "kivactl", "platform=kiva"), one(1, "kivactl", "platform=other"), one(1, "platform=kiva")]
    monkeypatch.setattr(making, "open_store", lambda _: SimpleNamespace(exists=True, snapshots=lambda: found))
    deployment = platform(tmp_path)
    assert backup.backups(deployment) == found[:2]
    assert 5 * 3600 <= backup.age_s(deployment) < 6 * 3600
    assert 9 * 3600 <= backup.age_s(deployment, verified=True) < 10 * 3600
    found[1].made_at = now + timedelta(hours=1)
    assert backup.age_s(deployment) == 0, "a clock that was set back makes no negative age"
