"""What restic says, and what the adapter makes of it.

`recorded/restic_failures.json` and `restic_forget.txt` come from real runs of restic 0.14 with paths, hosts and ports replaced. Put together
by hand, not recorded: failures whose `restic` says so, the lines of `restic_backup_0.14.jsonl` (from several runs, the second made up), and
everything of 0.18 and later, by the fields and sentences in the source of 0.19.
"""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kivactl.errors import CheckError, PreconditionError, ToolError
from kivactl.plan import Status
from kivactl.stack.secret import Secret
from kivactl.tools import restic
from kivactl.tools.restic import NoRepository, Restic
from kivactl.tools.restic_output import parse_forgotten, parse_snapshots, parse_summary, said_in, sftp_host

RECORDED = Path(__file__).parent / "recorded"
FAILURES = json.loads((RECORDED / "restic_failures.json").read_text())
ERRORS = {one.__name__: one for one in (PreconditionError, NoRepository, CheckError, ToolError)}
FULL = "37dd97f1855a8da1f04badea1bb58d78e31af0169fd96c3015bda229b4695fd1"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Makes a `restic` that does what a script says; every call is a line of `calls`, its environment lies in `environment`."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def of(script):
        path = folder / "restic"
        path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nenv > {tmp_path}/environment\n{script}\n')
        path.chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return lambda: (tmp_path / "calls").read_text().splitlines()

    return of


@pytest.fixture
def no_ssh(tmp_path, monkeypatch):
    """An `ssh` that reaches nobody, and has nothing to say."""
    folder = tmp_path / "no-ssh"
    folder.mkdir()
    (folder / "ssh").write_text("#!/bin/sh\nexit 255\n")
    (folder / "ssh").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def repository(tmp_path, where="s3:http://127.0.0.1:9000/kiva", **options):
    return Restic(where, Secret("word"), tmp_path / "cache", **options)


@pytest.mark.parametrize("case", FAILURES, ids=lambda case: case["said"][:60].replace("\n", " "))
@pytest.mark.usefixtures("no_ssh")
def test_every_failure_says_what_is_wrong_and_what_to_do(case):
    error = Restic(case["repository"], Secret("word"), Path("/cache"))._failure(case["said"])
    assert type(error) is ERRORS[case["error"]]
    assert error.message == case["message"]
    if "hint" in case:
        assert error.hint == case["hint"]
    assert error.hint
    assert not any(line.startswith(("\t", "main.")) for line in error.details), "where in restic's source it was, helps nobody"


@pytest.mark.parametrize("case", [case for case in FAILURES if case["error"] != "NoRepository"], ids=lambda case: case["said"][:60].replace("\n", " "))
def test_only_what_is_truly_not_there_counts_as_no_repository(program, tmp_path, case, monkeypatch):
    (tmp_path / "said").write_text(case["said"])
    program(f"cat {tmp_path}/said >&2; exit 1")
    monkeypatch.setattr(Restic, "_ssh_says", lambda _: "")
    where = case["repository"] if ":" in case["repository"] else "s3:http://127.0.0.1:9000/kiva"
    with pytest.raises(ERRORS[case["error"]]):
        _ = repository(tmp_path, where).exists


@pytest.mark.parametrize("case", [case for case in FAILURES if case["error"] == "NoRepository"], ids=lambda case: case["said"][:60].replace("\n", " "))
def test_what_is_truly_not_there_is_no_repository(program, tmp_path, case):
    (tmp_path / "said").write_text(case["said"])
    program(f"cat {tmp_path}/said >&2; exit 1")
    assert not repository(tmp_path).exists


def test_why_there_is_no_sftp_session_is_asked_of_ssh_which_restic_does_not_wait_for(program, tmp_path):
    program("echo 'Fatal: unable to open repository: unable to start the sftp session, error: EOF' >&2; exit 1")
    ssh = tmp_path / "bin" / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/ssh-words\necho "me@host: Permission denied (publickey)." >&2; exit 255\n')
    ssh.chmod(stat.S_IRWXU)
    with pytest.raises(PreconditionError, match="refuses the key of this user") as caught:
        _ = repository(tmp_path, "sftp://me@host:2222//srv").exists
    assert caught.value.hint == "see why: ssh -p 2222 me@host"
    assert (tmp_path / "ssh-words").read_text() == "-o BatchMode=yes -p 2222 me@host -s sftp\n"


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("sftp:me@host:/srv/backup", ("me@host", "")),
        ("sftp:host:backup", ("host", "")),
        ("sftp://me@host:2222//srv/backup", ("me@host", "2222")),
        ("sftp://host/backup", ("host", "")),
        ("sftp://me@[::1]:2222/backup", ("me@::1", "2222")),
    ],
)
def test_the_host_of_an_sftp_repository(address, parts):
    assert sftp_host(address) == parts


def test_a_program_that_a_signal_ended_says_nothing_of_the_repository(program, tmp_path):
    program("kill -9 $$")
    with pytest.raises(ToolError, match="'restic' was ended by SIGKILL"):
        repository(tmp_path).check()


def test_whatever_makes_a_check_fail_is_damage_unless_it_is_known(program, tmp_path):
    program("echo 'Fatal: something new' >&2; exit 1")
    with pytest.raises(CheckError, match="is damaged") as caught:
        repository(tmp_path).check()
    assert caught.value.details == ("Fatal: something new",)
    program("echo 'dial tcp: connect: connection refused' >&2; exit 1")
    with pytest.raises(PreconditionError, match="cannot be reached: connection refused"):
        repository(tmp_path).check()


def test_without_restic_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreconditionError, match="'restic' is not on PATH") as caught:
        repository(tmp_path).snapshots()
    assert caught.value.hint == "apt install restic"


def test_secrets_go_by_the_environment_only_and_the_callers_own_restic_is_not_meant(program, tmp_path, monkeypatch):
    calls = program("echo '[]'")
    for name in ("RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD_COMMAND", "RESTIC_REPOSITORY_FILE", "RESTIC_KEY_HINT"):
        monkeypatch.setenv(name, "of another repository")
    given = {"AWS_ACCESS_KEY_ID": "key-id", "AWS_SECRET_ACCESS_KEY": "key-secret"}
    assert repository(tmp_path, credentials=given).snapshots() == []
    seen = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines() if "=" in line)
    assert given.items() <= seen.items()
    assert (seen["RESTIC_PASSWORD"], seen["RESTIC_REPOSITORY"]) == ("word", "s3:http://127.0.0.1:9000/kiva")
    assert not any(seen.get(name) for name in ("RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD_COMMAND", "RESTIC_REPOSITORY_FILE", "RESTIC_KEY_HINT"))
    assert calls() == ["snapshots --json"]


def test_a_file_with_the_passphrase_is_handed_on_unread(program, tmp_path):
    program("echo '[]'")
    Restic("s3:x/y", tmp_path / "password", tmp_path / "cache").snapshots()
    assert f"RESTIC_PASSWORD_FILE={tmp_path}/password" in (tmp_path / "environment").read_text().splitlines()


@pytest.mark.parametrize(("version", "snapshot"), [("0.14", "37dd97f1"), ("0.18", FULL)])
def test_the_summary_of_both_versions(version, snapshot):
    made = parse_summary(json.loads((RECORDED / f"restic_backup_{version}.jsonl").read_text().splitlines()[-1]))
    assert (made.snapshot, made.files, made.total_bytes, made.added_bytes) == (snapshot, 4, 3900000, 3001519)


LISTED = json.dumps([{"time": "2026-11-29T08:56:47.542238556Z", "tags": ["kivactl"], "hostname": "kivactl", "id": FULL}])


@pytest.mark.parametrize(("version", "asked"), [("0.14", 2), ("0.18", 1)])
def test_a_backup_hands_on_the_full_id_and_asks_for_it_only_when_restic_did_not_say(program, tmp_path, version, asked):
    calls = program(f"case $1 in backup) cat {RECORDED / f'restic_backup_{version}.jsonl'};; snapshots) echo '{LISTED}';; esac")
    outcomes = list(repository(tmp_path).backup(tmp_path, ("kivactl", "format=1")))
    assert outcomes[-1].data == {"snapshot": FULL, "files": 4, "total_bytes": 3900000, "added_bytes": 3001519}
    assert outcomes[-1].message == "37dd97f1: 4 files, 3.7MiB, 2.9MiB of it new"
    assert [one.status for one in outcomes][0::2][:1] == [Status.STARTED]
    assert "878.9KiB of 3.7MiB read" in [one.message for one in outcomes if one.passing]
    assert len(calls()) == asked
    assert calls()[0] == "backup . --json --ignore-inode --ignore-ctime --host kivactl --tag kivactl --tag format=1"


def test_a_backup_in_a_folder_is_told_its_full_id_by_the_folder(program, tmp_path):
    (tmp_path / "repository" / "snapshots").mkdir(parents=True)
    for name in (FULL, "37dd97f1-tmp-4711", "ab" * 32):
        (tmp_path / "repository" / "snapshots" / name).touch()
    calls = program(f"cat {RECORDED / 'restic_backup_0.14.jsonl'}")
    assert list(repository(tmp_path, str(tmp_path / "repository")).backup(tmp_path, ()))[-1].data["snapshot"] == FULL
    assert len(calls()) == 1


def test_a_backup_that_misses_a_file_is_none_and_does_not_stay(program, tmp_path):
    fault = '{"message_type":"error","error":{"Op":"open","Path":"/x","Err":5},"during":"archival","item":"/stage/kiva.yaml"}'
    calls = program(f"case $1 in backup) cat {RECORDED / 'restic_backup_0.14.jsonl'}; echo '{fault}'; exit 3;; esac")
    with pytest.raises(ToolError) as caught:
        list(repository(tmp_path).backup(tmp_path, ()))
    assert caught.value.details == ("/stage/kiva.yaml: open",)
    assert calls()[-1] == "forget 37dd97f1"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"message_type":"error","error":{"message":"input/output error"},"during":"archival","item":"/x"}', "/x: input/output error"),
        ('{"message_type":"error","error":{"Op":"read","Path":"/x","Err":5},"during":"archival","item":"/x"}', "/x: read"),
        ('{"message_type":"exit_error","code":12,"message":"Fatal: wrong password or no key found"}', "Fatal: wrong password or no key found"),
        ("Fatal: plain", "Fatal: plain"),
        ("[1, 2]", "[1, 2]"),
        ("", ""),
    ],
)
def test_lines_of_a_backup_are_readable(line, said):
    assert said_in(line) == said


def test_snapshots_are_sorted_by_time_and_know_what_they_were_called():
    one = {"time": "2026-11-29T09:47:12.741856398+01:00", "tags": ["a", "b"], "hostname": "kivactl", "id": "9d" * 32, "original": "90" * 32}
    other = {"time": "2026-11-29T08:47:11Z", "tags": None, "hostname": "vm", "id": "91" * 32}
    first, second = parse_snapshots(json.dumps([one, other]))
    assert (first.id, first.tags, first.original) == ("91" * 32, (), "")
    assert (second.id, second.tags, second.original) == ("9d" * 32, ("a", "b"), "90" * 32)
    assert second.made_at == datetime(2026, 11, 29, 8, 47, 12, 741856, tzinfo=UTC)
    assert parse_snapshots("") == parse_snapshots("null") == []


def test_what_was_forgotten_is_counted():
    assert parse_forgotten((RECORDED / "restic_forget.txt").read_text()) == 1
    assert parse_forgotten((RECORDED / "restic_forget.txt").read_text().splitlines()[0].replace('"remove":[', '"remove":null,"x":[')) == 0
    assert parse_forgotten("") == parse_forgotten("[]\n") == 0


def test_a_lock_that_stays_after_unlocking_is_someone_elses(program, tmp_path):
    calls = program("case $1 in unlock) ;; *) echo 'repository is already locked by PID 7 on vm by root' >&2; exit 1;; esac")
    with pytest.raises(PreconditionError, match=r"is locked by another restic \(PID 7 on vm by root\)"):
        repository(tmp_path).check()
    assert calls() == ["check", "unlock", "check"]
    with pytest.raises(PreconditionError, match="is locked by another restic"):
        list(repository(tmp_path).backup(tmp_path, ()))
    assert [call.split()[0] for call in calls()[3:]] == ["backup", "unlock", "backup"]
    assert "remove-all" not in "".join(calls())


def test_marking_twice_follows_the_backup_from_id_to_id(program, tmp_path):
    first, second, third = "1a" * 32, "2b" * 32, "3c" * 32
    known = {"time": "2026-11-29T08:47:11Z", "hostname": "kivactl"}
    before = json.dumps([{**known, "id": second, "original": first, "tags": ["kivactl", "verified"]}])
    after = json.dumps([{**known, "id": third, "original": first, "tags": ["kivactl", "verified", "kept"]}])
    marked = tmp_path / "marked"
    calls = program(f"case $1 in tag) touch {marked};; *) if [ -e {marked} ]; then echo '{after}'; else echo '{before}'; fi;; esac")
    store = repository(tmp_path)
    assert store.tag(first, "verified") == second, "it is marked so already"
    assert store.tag(first, "kept") == third
    assert [call for call in calls() if call.startswith("tag")] == [f"tag --add kept {second}"]


def test_a_backup_that_is_not_there_cannot_be_marked(program, tmp_path):
    program("echo '[]'")
    with pytest.raises(PreconditionError, match="holds no backup 90909090"):
        repository(tmp_path).tag("90" * 4, "verified")


def test_the_disk_of_the_cache_and_of_the_repository_are_told_apart(tmp_path):
    store = Restic("/srv/backup", Secret("word"), Path("/srv/kiva/cache"))
    for path, place in (("/srv/backup/data/25/x", "/srv/backup"), ("/srv/kiva/cache/0f/x", "/srv/kiva/cache"), ("/mnt/x", "/mnt")):
        assert store._failure(f"Fatal: write {path}: no space left on device").message == f"no space left on the disk that holds {place}"


def test_a_repository_below_a_file_or_a_closed_folder_is_refused_without_starting_restic(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreconditionError, match="cannot be a repository: Not a directory"):
        _ = repository(tmp_path, str(tmp_path / "file")).exists

    def closed(self, **_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(restic.Path, "stat", closed)
    with pytest.raises(PreconditionError, match="cannot be a repository: Permission denied"):
        _ = repository(tmp_path, str(tmp_path)).exists
