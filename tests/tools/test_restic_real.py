"""The adapter with the real restic, on a repository in a folder: what goes well, and everything that can be wrong with it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from kivactl.errors import CheckError, PreconditionError, ToolError
from kivactl.plan import Status
from kivactl.stack.secret import Secret
from kivactl.tools.restic import NoRepository, Restic

pytestmark = pytest.mark.real

WORD = "a passphrase of the tests"
KEEP_ONE = {"last": 1, "daily": 0, "weekly": 0, "monthly": 0}


def opened(folder: Path, word: str = WORD) -> Restic:
    return Restic(str(folder / "repository"), Secret(word), folder / "cache")


def tree(folder: Path) -> Path:
    stage = folder / "stage"
    (stage / "state").mkdir(parents=True)
    (stage / "kiva.yaml").write_text("name: kiva\n")
    (stage / "state" / "ledger.db").write_bytes(os.urandom(100_000))
    (stage / "link").symlink_to("kiva.yaml")
    return stage


def backed_up(store: Restic, stage: Path, *tags: str) -> str:
    return list(store.backup(stage, ("kivactl", *tags)))[-1].data["snapshot"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A folder with a stage and a repository that holds it once; only read."""
    folder = tmp_path_factory.mktemp("filled")
    opened(folder).make()
    backed_up(opened(folder), tree(folder))
    return folder


@pytest.fixture
def site(filled, tmp_path):
    """A copy of it."""
    shutil.copytree(filled / "repository", tmp_path / "repository")
    tree(tmp_path)
    return tmp_path


def until(true, what):
    for _ in range(6000):
        if found := true():
            return found
        time.sleep(0.01)
    raise AssertionError(f"never came: {what}")


def contents(folder: Path) -> dict[str, bytes | str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file())
    return {str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes() for path in files}


def test_a_tree_comes_back_as_it_was_and_the_second_time_little_is_new(tmp_path):
    store, stage = opened(tmp_path), tree(tmp_path)
    assert not store.exists
    store.make()
    assert store.exists
    assert store.snapshots() == []
    outcomes = list(store.backup(stage, ("kivactl", "platform=kiva")))
    assert [outcomes[0].status, outcomes[-1].status] == [Status.STARTED, Status.DONE]
    first = outcomes[-1].data
    assert len(first["snapshot"]) == 64
    assert (first["files"], first["added_bytes"] > 100_000) == (2, True)
    second = list(store.backup(stage, ("kivactl", "platform=kiva")))[-1].data
    assert second["added_bytes"] == 0
    assert [one.id for one in store.snapshots()] == [first["snapshot"], second["snapshot"]]
    assert store.snapshots()[0].tags == ("kivactl", "platform=kiva")
    store.check(read_data=True)
    store.restore(first["snapshot"], tmp_path / "back")
    assert contents(tmp_path / "back") == contents(stage)


def test_marking_and_forgetting(site):
    store = opened(site)
    (first,) = (one.id for one in store.snapshots())
    verified = store.tag(first, "verified")
    assert verified != first
    assert store.tag(first, "verified") == verified
    kept = store.tag(verified, "kept")
    assert (store.snapshots()[0].id, store.snapshots()[0].original) == (kept, first)
    second = backed_up(store, site / "stage")
    backed_up(store, site / "stage", "platform=other")
    assert store.forget(dict.fromkeys(KEEP_ONE, 0), ("kivactl",)) == 0, "without a rule nothing goes"
    assert store.forget(KEEP_ONE, ("kivactl", "platform=kiva")) == 0, "others' backups are not ours to remove"
    assert store.forget(KEEP_ONE, ("kivactl",)) == 2
    assert {one.id for one in store.snapshots()}.isdisjoint({kept, second})
    store.check(read_data=True)


@pytest.mark.parametrize("verb", ["snapshots", "tag", "forget", "check", "backup", "restore"])
def test_without_a_repository_everything_says_so(tmp_path, verb):
    store, stage = opened(tmp_path), tree(tmp_path)
    calls = {
        "snapshots": store.snapshots,
        "tag": lambda: store.tag("ab" * 32, "verified"),
        "forget": lambda: store.forget(KEEP_ONE, ("kivactl",)),
        "check": store.check,
        "backup": lambda: list(store.backup(stage, ())),
        "restore": lambda: store.restore("ab" * 32, tmp_path / "back"),
    }
    with pytest.raises(NoRepository, match="there is no backup repository at") as caught:
        calls[verb]()
    assert caught.value.hint.startswith("kivactl runbook backup")
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("verb", ["snapshots", "check", "backup"])
def test_a_wrong_passphrase_is_said_to_be_wrong(site, verb):
    store = opened(site, "another")
    with pytest.raises(PreconditionError, match=r"the passphrase of the repository .* is wrong"):
        {"snapshots": store.snapshots, "check": store.check, "backup": lambda: list(store.backup(site / "stage", ()))}[verb]()


def test_a_backup_that_is_not_there_is_neither_restored_nor_marked(site):
    for call in (lambda: opened(site).restore("ab" * 32, site / "back"), lambda: opened(site).tag("ab" * 32, "verified")):
        with pytest.raises(PreconditionError, match="holds no backup"):
            call()


@pytest.mark.parametrize("kind", ["config", "data", "index", "keys", "snapshots"])
@pytest.mark.parametrize("place", [0.02, 0.5, 0.97])
def test_a_flipped_bit_in_any_file_of_the_repository_is_found(site, kind, place):
    folder = site / "repository" / kind
    file = folder if kind == "config" else max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[int(len(content) * place)] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)
    with pytest.raises(CheckError, match="is damaged") as caught:
        opened(site).check(read_data=True)
    assert caught.value.details
    assert "another copy" in caught.value.hint


def test_who_made_a_key_and_when_is_part_of_what_is_checked(site):
    """Restic reads of a key file only what it needs: it does not miss a changed host name, nor another key that is broken."""
    (key,) = (site / "repository" / "keys").iterdir()
    sound = key.read_bytes()
    key.chmod(0o600)
    key.write_bytes(sound.replace(b'"username":"', b'"username":"x', 1))
    process = subprocess.run(
        ["restic", "check", "--read-data"],
        env={**os.environ, "RESTIC_REPOSITORY": str(site / "repository"), "RESTIC_PASSWORD": WORD, "RESTIC_CACHE_DIR": str(site / "cache")},
        check=False,
    )
    assert process.returncode == 0, "restic itself sees nothing"
    with pytest.raises(CheckError, match="is damaged") as caught:
        opened(site).check()
    assert caught.value.details == (f"{key}: its content is not what its name says",)
    key.write_bytes(sound)
    opened(site).check()
    (key.parent / f"{'ab' * 32}-tmp-4711").write_text("half-written when the disk was full")
    opened(site).check()
    (key.parent / ("ab" * 32)).write_text("{}")
    with pytest.raises(CheckError, match="is damaged"):
        opened(site).check()


def test_a_broken_key_is_not_taken_for_a_wrong_passphrase(site):
    (key,) = (site / "repository" / "keys").iterdir()
    content = key.read_bytes()
    at = content.index(b'"data":"') + 30
    key.chmod(0o600)
    key.write_bytes(content[:at] + (b"A" if content[at : at + 1] != b"A" else b"B") + content[at + 1 :])
    with pytest.raises(CheckError, match="is damaged"):
        opened(site).snapshots()


@pytest.mark.parametrize("kind", ["index", "keys"])
def test_a_file_that_is_gone_is_found(site, kind):
    for file in (site / "repository" / kind).iterdir():
        file.unlink()
    with pytest.raises((CheckError, PreconditionError)):
        opened(site).check(read_data=True)


def test_a_repository_that_lacks_data_is_damaged(site):
    packs = [path for path in (site / "repository" / "data").rglob("*") if path.is_file()]
    max(packs, key=lambda path: path.stat().st_size).unlink()  # the file's, not the folders': for those restic waits a minute
    with pytest.raises(CheckError, match="is damaged"):
        opened(site).check()


def locking(site: Path) -> subprocess.Popen[bytes]:
    """Another restic that works on the repository until its input ends."""
    known = {path.name for path in (site / "repository" / "locks").iterdir()}
    environment = {**os.environ, "RESTIC_REPOSITORY": str(site / "repository"), "RESTIC_PASSWORD": WORD, "RESTIC_CACHE_DIR": str(site / "other-cache")}
    child = subprocess.Popen(
        ["restic", "backup", "--stdin"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    until(lambda: {path.name for path in (site / "repository" / "locks").iterdir() if "tmp" not in path.name} - known, "the other's lock")
    return child


def test_the_lock_of_a_living_restic_is_left_alone_and_that_of_a_dead_one_is_removed(site):
    other = locking(site)
    try:
        for call in (opened(site).check, lambda: opened(site).forget(KEEP_ONE, ("kivactl",))):
            with pytest.raises(PreconditionError, match=rf"is locked by another restic \(PID {other.pid} on "):
                call()
        assert len(list((site / "repository" / "locks").iterdir())) == 1
        backed_up(opened(site), site / "stage")  # two backups at the same time do each other no harm
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.communicate()
    assert len(list((site / "repository" / "locks").iterdir())) == 1, "the dead one's"
    opened(site).check()
    assert list((site / "repository" / "locks").iterdir()) == []


def child_of_this_process(name: str) -> int | None:
    import psutil

    return next((child.pid for child in psutil.Process().children() if child.name() == name), None)


def big(stage: Path) -> None:
    """So much that a backup is still at it when we interrupt."""
    with (stage / "big").open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(2**20) * 4)


def test_a_backup_whose_restic_is_killed_is_none_and_the_next_one_succeeds(site):
    store, stage = opened(site), site / "stage"
    before = store.snapshots()
    big(stage)
    running = store.backup(stage, ("kivactl",))
    next(running)

    def middle():
        for outcome in running:
            if outcome.passing:
                os.kill(child_of_this_process("restic"), signal.SIGKILL)

    with pytest.raises(ToolError):
        middle()
    assert store.snapshots() == before
    assert list((site / "repository" / "locks").iterdir()), "it had no time to remove its lock"
    assert backed_up(store, stage) == store.snapshots()[-1].id
    store.check(read_data=True)
    assert list((site / "repository" / "locks").iterdir()) == []


def test_ctrl_c_ends_a_backup_and_leaves_no_lock(site):
    store, stage = opened(site), site / "stage"
    before = store.snapshots()
    big(stage)
    running = store.backup(stage, ("kivactl",))
    until(lambda: next(running).passing, "progress")
    running.close()  # as the engine does when Ctrl-C reaches it
    assert child_of_this_process("restic") is None
    assert list((site / "repository" / "locks").iterdir()) == []
    assert store.snapshots() == before
    backed_up(store, stage)
    assert len(store.snapshots()) == len(before) + 1


def test_names_in_the_repository_are_hashes_of_contents(site):
    """What the check of the keys rests on."""
    for kind in ("data", "index", "keys", "snapshots"):
        files = [path for path in (site / "repository" / kind).rglob("*") if path.is_file()]
        assert files
        for file in files:
            assert hashlib.sha256(file.read_bytes()).hexdigest() == file.name
