"""The spec comes out of a backup into a folder that has none: whole, without touching what is there, and without leaving keys behind."""

from __future__ import annotations

import json
import re

import pytest
from backed_up import Folders, contents, fill, full, killed, know, platform_in, provision, rewrite, small_disk, snapshot, tree_of, watching

from kivactl.errors import CheckError, PreconditionError, UsageError
from kivactl.flows.restore.recovery import recover_spec
from kivactl.spec.load import load
from kivactl.targets.lock import held


@pytest.fixture
def backed_up(tmp_path):
    """A platform with an overlay, a runbook of its own and a key set beside the spec."""
    folder = tmp_path / "platform"
    (folder / "runbooks").mkdir(parents=True)
    (folder / "kiva.prod.yaml").write_text("gateway: {port: 5000}\n")
    (folder / "runbooks" / "clear.yaml").write_text("title: {en: Clear}\n")
    (folder / "sso.json").write_text('{"keys": []}')
    issuer = ", issuers: [{issuer: 'https://sso.example.com', audience: kiva, jwks: sso.json}]"
    deployment = provision(platform_in(folder, gateway=issuer, environment="prod"))
    return deployment, tree_of(deployment, tmp_path / "tree")


@pytest.fixture
def tree(backed_up):
    return backed_up[1]


@pytest.fixture
def empty(tmp_path):
    folder = tmp_path / "new" / "machine"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def recover(tree, empty):
    """Recover from that backup; what the repository was opened with is in `asked`."""
    repository = Folders()
    repository.put(snapshot("aa"), tree)

    def opened(*arguments):
        recover.asked = arguments
        return repository

    def recover(**parameters):
        return recover_spec(empty, {"repository": "there", **parameters}, opened)

    recover.repository = repository
    return recover


def test_an_empty_folder_has_the_spec_its_overlay_and_what_belongs_to_them(backed_up, recover, empty):
    was, tree = backed_up
    assert recover() == empty / "kiva.yaml"
    assert contents(empty) == contents(tree / "spec")
    loaded = load(empty / "kiva.yaml", "prod")
    assert loaded.digest == was.loaded.digest
    assert loaded.platform.gateway.port == 5000


def test_where_and_by_what_right_is_what_was_said(recover, empty):
    recover(password_file="word", credentials="keys", platform="kiva", snapshot="aa")
    repository, folder, cache, password, credentials = recover.asked
    assert (repository, folder, password, credentials) == ("there", empty, "word", "keys")
    assert cache.is_relative_to(empty)


def test_the_repository_of_the_environment(recover, empty, monkeypatch):
    monkeypatch.setenv("KIVA_BACKUP_REPOSITORY", "elsewhere")
    recover(repository=None)
    assert recover.asked[0] == "elsewhere"


def test_without_a_repository_or_a_folder(recover, empty, monkeypatch):
    monkeypatch.delenv("KIVA_BACKUP_REPOSITORY", raising=False)
    with pytest.raises(UsageError, match="no repository to take it from"):
        recover(repository=None)
    empty.rmdir()
    with pytest.raises(PreconditionError, match="there is no folder"):
        recover()


def test_what_is_there_stays(recover, empty):
    (empty / "runbooks").mkdir()
    (empty / "runbooks" / "clear.yaml").write_text("mine")
    (empty / "kiva.prod.yaml").symlink_to("nowhere")
    recover()
    assert (empty / "runbooks" / "clear.yaml").read_text() == "mine"
    assert (empty / "kiva.prod.yaml").is_symlink()
    assert (empty / "kiva.yaml").exists()
    (empty / "kiva.yaml").write_text("mine too")
    recover()
    assert (empty / "kiva.yaml").read_text() == "mine too"


def test_nothing_of_the_state_stays_behind_when_it_is_cut_off_anywhere(recover, empty, tree):
    for at in range(10_000):
        if not killed(at, recover):
            break
        here = contents(empty)
        assert "kiva.yaml" not in here or all(name in here for name in contents(tree / "spec")), "the spec is the last"
        recover()
        assert contents(empty) == contents(tree / "spec"), at
        for path in empty.iterdir():
            if path.is_file():
                path.unlink()
    assert at > 25


def test_another_one_that_still_works_is_left_alone(recover, empty):
    other = empty / ".kiva-recover-other"
    other.mkdir()
    with held(other / "lock", "recovery"):
        recover()
        assert (other / "lock").exists()


def test_a_full_disk_at_any_moment_is_named(recover, empty, tree):
    said = []
    for at in range(10_000):
        with watching(at, full, room=True) as calls:
            try:
                recover()
            except PreconditionError as error:
                said.append(error.message)
        if at >= calls.count:
            break
        assert not list(empty.glob(".kiva*")), at
    assert contents(empty) == contents(tree / "spec")
    assert len(said) > 4
    assert all(one.startswith(f"no space left on the disk that holds {empty}") for one in said)


def test_a_truly_full_disk(tree, tmp_path):
    repository = Folders()
    repository.put(snapshot("aa"), tree)
    (tree / "spec" / "runbooks" / "long.yaml").write_bytes(bytes(2**17))
    know(tree, "spec/runbooks/long.yaml")
    said = []
    with small_disk(tmp_path / "disk", "2m") as disk:
        for left in range(0, 2**20, 2**15):  # from not even a folder to all but the last file
            ballast = fill(disk, but=left)
            try:
                recover_spec(disk, {"repository": "there"}, lambda *_: repository)
            except PreconditionError as error:
                said.append(error.message)
                assert not (disk / "kiva.yaml").exists(), left
                assert not list(disk.glob(".kiva*")), left
            ballast.unlink()
            if (disk / "kiva.yaml").exists():
                break
        assert contents(disk) == contents(tree / "spec")
    assert len(said) > 5
    assert all(one.startswith(f"no space left on the disk that holds {disk}") for one in said)


def test_a_spec_of_another_name(recover, empty, tree):
    for name in ("kiva.yaml", "kiva.prod.yaml"):
        (tree / "spec" / name).rename(tree / "spec" / name.replace("kiva", "platform"))
    text = (tree / "manifest.json").read_text().replace("spec/kiva.", "spec/platform.")
    (tree / "manifest.json").write_text(text)
    rewrite(tree, spec_files=["platform.yaml", "platform.prod.yaml"])
    assert recover() == empty / "platform.yaml"
    assert load(empty / "platform.yaml", "prod").platform.name == "kiva"


def test_a_backup_without_a_spec(recover, empty, tree):
    (tree / "spec" / "kiva.yaml").unlink()
    files = json.loads((tree / "manifest.json").read_text())["files"]
    del files["spec/kiva.yaml"]
    rewrite(tree, files=files)
    with pytest.raises(PreconditionError, match=re.escape("the backup holds no kiva.yaml")):
        recover()
    assert contents(empty) == {}


def test_a_damaged_backup_a_foreign_one_and_a_link_that_leads_out_write_nothing(recover, empty, tree):
    (tree / "spec" / "runbooks" / "link.yaml").symlink_to("../../state/tokens/signing.key")
    know(tree, "spec/runbooks/link.yaml")
    with pytest.raises(CheckError, match="is damaged"):
        recover()
    (tree / "spec" / "runbooks" / "link.yaml").unlink()
    with pytest.raises(CheckError, match="is damaged"):
        recover()
    with pytest.raises(PreconditionError, match="no backup of 'other', but of: kiva"):
        recover(platform="other")
    assert contents(empty) == {}


def test_backups_of_several_platforms(recover, tree):
    recover.repository.put(snapshot("bb", platform="other"), tree)
    with pytest.raises(UsageError, match="backups of 2 platforms: kiva, other"):
        recover()
    recover(platform="kiva")


def test_only_the_spec_is_fetched_for_the_runbook_itself_reads_everything(recover):
    recover()
    assert recover.repository.done == ["snapshots", "restore aa manifest.json spec"]
