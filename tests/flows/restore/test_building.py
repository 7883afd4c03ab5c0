"""A state is built out of a backup whole, checked on the way, or not at all."""

from __future__ import annotations

import errno

import pytest
from backed_up import change, contents, fill, full, know, platform_in, provision, rewrite, small_disk, tree_of, watching

from kivactl.errors import CheckError, PreconditionError
from kivactl.flows.restore.building import build_state, copy_file, keep_logs
from kivactl.flows.restore.manifest import File, read_manifest
from kivactl.stack.layout import Layout
from kivactl.targets.release import read_release

NOT_BUILT = ("logs", "runs", "run", "backup", "lock")


@pytest.fixture
def state(deployment):
    return deployment.layout.state


@pytest.fixture
def new(tmp_path):
    return tmp_path / "new"


def build(tree, into, state):
    build_state(tree, read_manifest(tree), into, state)


def test_it_is_what_was_backed_up(tree, new, state):
    build(tree, new, state)
    built, was = contents(new, *NOT_BUILT), contents(state, *NOT_BUILT)
    for name in ("tiny-0.jsonl", "ledger.db-shm", "ledger.db-wal"):
        was.pop(f"usage/{name}", None)
    ledger = built.pop("usage/ledger.db"), was.pop("usage/ledger.db")
    assert ledger[0][1] == ledger[1][1]
    assert built == was
    assert {path.name for path in new.iterdir()} >= {"gateway", "tls", "tokens", "logs", "usage"}
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in (new, *new.rglob("*")) if path.is_dir())


def test_what_stays_in_place_is_not_built(tree, new, state):
    for name in ("state/lock", "state/reserve", "state/backup/verified.json", "state/runs/x/journal.jsonl"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("of another time")
        know(tree, name)
    build(tree, new, state)
    assert not {path.name for path in new.iterdir()} & {"lock", "reserve", "backup", "runs"}


def test_what_was_there_before_is_gone(tree, new, state):
    (new / "tokens").mkdir(parents=True)
    (new / "tokens" / "stranger").touch()
    build(tree, new, state)
    assert not (new / "tokens" / "stranger").exists()


def test_in_another_place_the_processes_of_the_old_one_are_forgotten(tree, new, tmp_path, state):
    build(tree, new, state)
    assert read_release(Layout(new, new).release).processes
    build(tree, new, tmp_path / "elsewhere")
    release = read_release(Layout(new, new).release)
    assert (release.processes, release.spec_digest) == ({}, "")
    assert release.replicas == {"tiny": ["tiny-0"]}


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.write_bytes(b"x" + path.read_bytes()[1:])])
def test_a_file_that_changed_since_it_was_examined(tree, new, state, damage):
    damage(tree / "state" / "tls" / "ca.key")
    with pytest.raises(CheckError, match=r"ca\.key of the backup was changed"):
        build(tree, new, state)
    assert not new.exists()


def test_a_file_that_is_gone_since_it_was_examined(tree, new, state):
    (tree / "state" / "tls" / "ca.key").unlink()
    with pytest.raises(CheckError, match=r"ca\.key of the backup is missing"):
        build(tree, new, state)
    assert not new.exists()


def test_a_full_disk_at_any_moment_leaves_nothing_and_is_named(tree, new, state):
    manifest = read_manifest(tree)
    with watching(room=True) as calls:
        build_state(tree, manifest, new, state)
    said = []
    for at in range(calls.count):
        with watching(at, full, room=True):
            try:
                build_state(tree, manifest, new, state)
            except PreconditionError as error:
                said.append(error.message)
                assert not list(new.parent.glob("new*")), at
    assert len(said) > 40
    assert all(one.startswith(f"no space left on the disk that holds {new}") for one in said)
    build(tree, new, state)


def test_another_failure_of_the_disk_stays_what_it_is(tree, new, state):
    with watching(5, lambda: full(errno.EIO)), pytest.raises(OSError, match="Input/output error"):
        build(tree, new, state)
    assert not new.exists()


def test_a_truly_full_disk(tmp_path):
    deployment = provision(platform_in(tmp_path / "platform"))
    big = deployment.layout.gateway / "big.json"
    big.write_bytes(bytes(2**20))
    tree = tree_of(deployment, tmp_path / "tree")
    with small_disk(tmp_path / "disk", "4m") as disk:
        ballast = fill(disk, but=2**19)
        with pytest.raises(PreconditionError, match=f"no space left on the disk that holds {disk}/new"):
            build(tree, disk / "new", deployment.layout.state)
        assert [path.name for path in disk.iterdir()] == ["ballast"]
        ballast.unlink()
        build(tree, disk / "new", deployment.layout.state)
        assert (disk / "new" / "gateway" / "big.json").stat().st_size == 2**20


def test_a_copy_replaces_in_one_step_and_leaves_nothing_beside_it(tmp_path):
    source, to = tmp_path / "source", tmp_path / "deep" / "er" / "to"
    source.write_bytes(b"new")
    to.parent.mkdir(parents=True)
    to.write_bytes(b"old")
    with pytest.raises(CheckError):
        copy_file(source, to, File(sha256="0" * 64, bytes=3))
    assert to.read_bytes() == b"old"
    assert [path.name for path in to.parent.iterdir()] == ["to"]


def test_the_mode_is_the_one_that_was_backed_up_from_the_first_moment_it_has_its_name(tree, new, state):
    path = tree / "state" / "evidence" / "evidence.key"
    path.chmod(0o755)  # what the backup program made of it does not count
    build(tree, new, state)
    assert (new / "evidence" / "evidence.key").stat().st_mode & 0o777 == 0o600


def test_an_empty_platform_has_what_a_start_needs(tree, new, state):
    rewrite(tree, files={})
    build(tree, new, state)
    assert sorted(path.name for path in new.iterdir()) == ["gateway", "logs", "tls", "tokens", "usage"]


def test_logs_of_requests_come_along_and_nothing_is_replaced(deployment, tree, new, state):
    change(deployment)
    (deployment.layout.usage / "tiny-0.jsonl.1").write_text("rotated\n")
    (deployment.layout.logs / "link.log").symlink_to("access.log")
    (deployment.layout.logs / "folder").mkdir()
    build(tree, new, state)
    (new / "logs" / "tiny-0.log").write_text("of the backup\n")
    assert keep_logs(state, new) == 3
    layout = Layout(new, new)
    assert layout.access_log.samefile(deployment.layout.access_log)
    assert sorted(path.name for path in layout.usage.iterdir()) == ["ledger.db", "tiny-0.jsonl", "tiny-0.jsonl.1"]
    assert (new / "logs" / "tiny-0.log").read_text() == "of the backup\n"
    assert not (new / "logs" / "link.log").exists()
    assert keep_logs(state, new) == 0


def test_where_there_were_no_logs(tmp_path, new, tree, state):
    build(tree, new, state)
    assert keep_logs(tmp_path / "nothing", new) == 0
