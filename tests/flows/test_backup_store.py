"""Where backups are and who may read them: passphrase, credentials, and that neither ever shows."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from backup_site import SPEC, site, written

from kivactl.errors import PreconditionError
from kivactl.flows.backup import store as keeping
from kivactl.flows.backup.store import NoPassphrase, folder_of, made_passphrase, open_store, open_store_by_name, repository_of

WORD = "correct horse battery staple"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in (keeping.REPOSITORY_VARIABLE, keeping.PASSWORD_VARIABLE, keeping.FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def platform(folder, **backup):
    lines = "".join(f", {name}: {value}" for name, value in backup.items()).removeprefix(", ")
    return site(folder / "platform", f"{SPEC}backup: {{{lines}}}\n")


def environment(store):
    """What the backup program would get."""
    return store._environment


def default_file(home):
    return home / ".config" / "kivactl" / "kiva.backup-password"


def test_the_repository_of_the_command_counts_before_that_of_the_environment_and_of_the_spec(tmp_path, monkeypatch):
    deployment = platform(tmp_path, repository="of-spec")
    assert repository_of(deployment) == str(tmp_path / "platform" / "of-spec")
    monkeypatch.setenv(keeping.REPOSITORY_VARIABLE, "/of/environment")
    assert repository_of(deployment) == "/of/environment"
    assert repository_of(deployment, "s3:https://of.command/kiva") == "s3:https://of.command/kiva"
    monkeypatch.delenv(keeping.REPOSITORY_VARIABLE)
    assert repository_of(platform(tmp_path / "other")) == str(tmp_path / "other" / "platform" / ".kiva-backup")


@pytest.mark.parametrize(("repository", "folder"), [("/srv/b", Path("/srv/b")), ("s3:https://x/y", None), ("sftp:a@b:/c", None)])
def test_only_a_repository_here_has_a_folder(repository, folder):
    assert folder_of(repository) == folder


def test_a_passphrase_is_made_once_for_this_user_only(tmp_path, home):
    deployment = platform(tmp_path)
    assert made_passphrase(deployment) == default_file(home)
    word = default_file(home).read_text()
    assert len(word.strip()) == 43
    assert default_file(home).stat().st_mode & 0o777 == 0o600
    assert default_file(home).parent.stat().st_mode & 0o077 == 0
    assert made_passphrase(deployment) is None
    assert default_file(home).read_text() == word
    assert environment(open_store(deployment))["RESTIC_PASSWORD_FILE"] == str(default_file(home))


def test_two_passphrases_are_not_the_same(tmp_path, home):
    deployment = platform(tmp_path)
    words = set()
    for _ in range(3):
        words.add(made_passphrase(deployment).read_text())
        default_file(home).unlink()
    assert len(words) == 3


@pytest.mark.parametrize("given", ["password", "file", "spec"])
def test_none_is_made_where_one_is_given(tmp_path, home, monkeypatch, given):
    deployment = platform(tmp_path, **({"password_file": "/nowhere"} if given == "spec" else {}))
    if given == "password":
        monkeypatch.setenv(keeping.PASSWORD_VARIABLE, WORD)
    if given == "file":
        monkeypatch.setenv(keeping.FILE_VARIABLE, "/nowhere")
    assert made_passphrase(deployment) is None
    assert not home.exists()


def test_none_is_made_for_a_repository_that_it_could_not_open(tmp_path, home):
    deployment = platform(tmp_path, repository=tmp_path / "repository")
    written(tmp_path / "repository" / "config")
    with pytest.raises(NoPassphrase, match=r"the passphrase of the repository .* is not there") as caught:
        made_passphrase(deployment)
    assert str(default_file(home)) in caught.value.message
    assert not home.exists()


def test_half_a_passphrase_does_not_stay(tmp_path, home, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeping.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        made_passphrase(platform(tmp_path))
    assert not default_file(home).exists()


def test_the_passphrase_of_the_environment_counts_before_that_of_the_spec(tmp_path, monkeypatch):
    of_spec, of_environment = written(tmp_path / "of-spec", WORD), written(tmp_path / "of-environment", WORD)
    deployment = platform(tmp_path, password_file=of_spec)
    assert environment(open_store(deployment))["RESTIC_PASSWORD_FILE"] == str(of_spec)
    monkeypatch.setenv(keeping.PASSWORD_VARIABLE, WORD)
    assert environment(open_store(deployment))["RESTIC_PASSWORD"] == WORD
    assert not environment(open_store(deployment))["RESTIC_PASSWORD_FILE"]
    monkeypatch.setenv(keeping.FILE_VARIABLE, str(of_environment))
    assert environment(open_store(deployment))["RESTIC_PASSWORD_FILE"] == str(of_environment)


def test_a_file_of_the_command_counts_before_that_of_the_spec_and_paths_count_from_the_spec(tmp_path):
    deployment = platform(tmp_path, password_file="/nowhere")
    named = written(tmp_path / "platform" / "secrets" / "word", WORD)
    assert environment(open_store(deployment, password_file="secrets/word"))["RESTIC_PASSWORD_FILE"] == str(named)
    store = open_store_by_name("backups", tmp_path / "platform", tmp_path / "cache", "secrets/word")
    assert store.repository == str(tmp_path / "platform" / "backups")
    assert environment(store)["RESTIC_PASSWORD_FILE"] == str(named)


def test_without_any_passphrase_it_is_said_how_to_give_one(tmp_path, home):
    with pytest.raises(NoPassphrase, match="no passphrase for the backups is given") as caught:
        open_store_by_name("/b", tmp_path, tmp_path / "cache")
    assert caught.value.hint.startswith("KIVA_BACKUP_PASSWORD_FILE=FILE")
    with pytest.raises(NoPassphrase, match=f"is not there: {default_file(home)}"):
        open_store(platform(tmp_path))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622, 0o610])
@pytest.mark.parametrize("which", ["password_file", "credentials"])
def test_secrets_that_others_can_read_are_refused(tmp_path, which, mode):
    files = {"password_file": written(tmp_path / "password_file", WORD), "credentials": written(tmp_path / "credentials", "A=b")}
    deployment = platform(tmp_path, **files)
    open_store(deployment)
    files[which].chmod(mode)
    with pytest.raises(PreconditionError, match="others than you can read") as caught:
        open_store(deployment)
    assert caught.value.hint == f"chmod 600 {files[which]}"


@pytest.mark.parametrize("which", ["password_file", "credentials"])
def test_files_with_secrets_that_are_none_are_named(tmp_path, which):
    files = {"password_file": written(tmp_path / "password_file", WORD), "credentials": written(tmp_path / "credentials", "A=b")}
    deployment = platform(tmp_path, **files)
    files[which].write_text("")
    with pytest.raises(PreconditionError, match=f"{files[which]} is to hold .* but is empty"):
        open_store(deployment)
    files[which].unlink()
    with pytest.raises(PreconditionError, match=f"is not there: {files[which]}") as caught:
        open_store(deployment)
    assert isinstance(caught.value, NoPassphrase) == (which == "password_file")
    files[which].mkdir()
    with pytest.raises(PreconditionError, match=f"{files[which]} is to hold .* but is no file"):
        open_store(deployment)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=value", "value"),
        ("export NAME=value", "value"),
        ("  NAME = value  ", "value"),
        ("NAME='a value'", "a value"),
        ('NAME="a value"', "a value"),
        ("NAME=with=signs==", "with=signs=="),
        ("NAME=ends-with'", "ends-with'"),
        ("NAME='\"", "'\""),
        ("NAME=", ""),
        ("# a remark\n\nNAME=a#b", "a#b"),
        ("NAME=a\r\n", "a"),
    ],
)
def test_credentials_are_read_as_a_shell_would(tmp_path, line, value):
    file = written(tmp_path / "credentials", line)
    assert environment(open_store(platform(tmp_path, credentials=file, password_file=written(tmp_path / "w", WORD))))["NAME"] == value


@pytest.mark.parametrize("line", ["AWS_SECRET_ACCESS_KEY geheim", "geheim", "=geheim", "A B=geheim", "1A=geheim", '{"key": "geheim"}'])
def test_a_line_that_is_no_variable_is_counted_not_shown(tmp_path, line):
    file = written(tmp_path / "credentials", f"# keys\nOTHER=1\n{line}\n")
    with pytest.raises(PreconditionError) as caught:
        open_store(platform(tmp_path, credentials=file, password_file=written(tmp_path / "w", WORD)))
    assert caught.value.message == f"line 3 of {file} is not NAME=VALUE"
    assert "geheim" not in f"{caught.value.message} {caught.value.hint} {caught.value.details}"


def test_credentials_do_not_lead_to_another_repository_or_passphrase(tmp_path):
    file = written(tmp_path / "credentials", "AWS_ACCESS_KEY_ID=id\nRESTIC_REPOSITORY=/other\nRESTIC_PASSWORD=other\nRESTIC_PASSWORD_COMMAND=cat\n")
    word = written(tmp_path / "w", WORD)
    seen = environment(open_store(platform(tmp_path, credentials=file, password_file=word, repository="s3:https://x/y")))
    assert (seen["AWS_ACCESS_KEY_ID"], seen["RESTIC_REPOSITORY"], seen["RESTIC_PASSWORD_FILE"]) == ("id", "s3:https://x/y", str(word))
    assert not seen["RESTIC_PASSWORD"]
    assert not seen["RESTIC_PASSWORD_COMMAND"]


def test_no_secret_is_a_word_of_a_program_or_is_printed(tmp_path, monkeypatch, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    folder = tmp_path / "bin"
    written(folder / "restic", f'#!/bin/sh\ntr "\\0" " " < /proc/$$/cmdline >> {tmp_path}/seen\nexit 1\n', 0o700)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv(keeping.PASSWORD_VARIABLE, WORD)
    store = open_store(platform(tmp_path, repository="s3:https://x/y", credentials=written(tmp_path / "credentials", "AWS_SECRET_ACCESS_KEY=geheim")))
    calls = (store.make, store.snapshots, store.check, lambda: list(store.backup(tmp_path, ("a",))), lambda: store.forget({"last": 1}, ("a",)))
    for call in (*calls, lambda: store.restore("ab", tmp_path / "into"), lambda: store.tag("ab", "x"), lambda: store.exists):
        with pytest.raises(Exception, match=r".") as caught:
            call()
        assert WORD not in repr(caught.value)
    seen = (tmp_path / "seen").read_text()
    assert "backup . --json" in seen
    printed = capfd.readouterr()
    for secret in (WORD, "geheim"):
        assert secret not in seen + printed.out + printed.err + caplog.text + repr(store)
    assert printed.out + printed.err == ""
