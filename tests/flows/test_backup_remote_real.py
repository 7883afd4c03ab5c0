"""Backups on other machines: a real S3 server, and a real SFTP server behind an `ssh` of our own, which needs no login."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from backup_site import SPEC, site, written
from free_ports import free_ports

from kivactl.errors import CheckError, PreconditionError
from kivactl.flows import backup
from kivactl.flows.backup import store as keeping
from kivactl.flows.backup.stage import stage_of
from kivactl.flows.backup.store import open_store

pytestmark = pytest.mark.real

KEY, SECRET = "kiva-key", "kiva-secret-of-the-tests"
READER, READER_SECRET = "reader-key", "reader-secret-of-the-tests"
SFTP_SERVER = "/usr/lib/openssh/sftp-server"


class S3:
    """An S3 server on loopback that lets in one key, and another that may read one other bucket."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "data").mkdir(parents=True)
        identities = [
            {"name": "kiva", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
            {"name": "reader", "credentials": [{"accessKey": READER, "secretKey": READER_SECRET}], "actions": ["Read:other"]},
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        self._ports = dict(zip(("master", "volume", "filer", "s3"), free_ports(8)[::2], strict=True))
        self.address = f"s3:http://127.0.0.1:{self._ports['s3']}"
        self.start()

    def start(self) -> None:
        used: list[int] = list(self._ports.values())
        grpc = dict(zip(self._ports, (port for port in free_ports(12) if port not in used), strict=False))
        words = [f"-{name}.port={port}" for name, port in self._ports.items()] + [f"-{name}.port.grpc={port}" for name, port in grpc.items()]
        words += ["-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={self._folder / 's3.json'}", f"-dir={self._folder / 'data'}"]
        words += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=200", "-master.volumeSizeLimitMB=256"]
        with (self._folder / "log").open("ab") as log:
            program = Path(sys.executable).parent / "weed"
            self._child = subprocess.Popen(
                [program, "server", *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=self._folder
            )
        for _ in range(1200):
            assert self._child.poll() is None, (self._folder / "log").read_text()[-3000:]
            if self._answers():
                return
            time.sleep(0.1)
        raise AssertionError("the S3 server does not answer:\n" + (self._folder / "log").read_text()[-3000:])

    def stop(self) -> None:
        if self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()

    def _answers(self) -> bool:
        """Whether it refuses who shows no key, and can place data."""
        try:
            return self._status("s3", "/") == 403 and self._status("master", "/dir/assign") == 200
        except (OSError, http.client.HTTPException):
            return False

    def _status(self, name: str, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[name], timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    server = S3(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """Nothing of whoever runs the tests opens anything."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "KIVA_BACKUP_", "RESTIC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(keeping.PASSWORD_VARIABLE, "correct horse battery staple")


def ssh(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str = f"exec {SFTP_SERVER}") -> None:
    """An `ssh` that takes the place of the machine's."""
    written(folder / "bin" / "ssh", f"#!/bin/sh\n{script}\n", 0o700)
    if not os.environ["PATH"].startswith(str(folder / "bin")):
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


def platform(folder: Path, repository: str, key: str = KEY, secret: str = SECRET):
    credentials = written(folder / "credentials", f"AWS_ACCESS_KEY_ID={key}\nAWS_SECRET_ACCESS_KEY={secret}\n")
    keep = "{last: 1, daily: 0, weekly: 0, monthly: 0}"
    spec = f"{SPEC}backup: {{repository: '{repository}', credentials: {credentials}, keep: {keep}}}\n"
    if (folder / "platform").exists():
        shutil.rmtree(folder / "platform")
    return site(folder / "platform", spec)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=["s3", "sftp"])
def repository(request, tmp_path, monkeypatch):
    """A place for a repository that there is not yet."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3').address}/{tmp_path.name.replace('_', '-').lower()[-40:].strip('-')}/backups"
    ssh(tmp_path, monkeypatch)
    return f"sftp:backup@elsewhere.example:{tmp_path}/there"


def test_a_backup_elsewhere_is_made_listed_checked_restored_marked_and_forgotten(tmp_path, repository):
    deployment = platform(tmp_path, repository)
    assert backup.backups(deployment) == []
    outcomes = list(backup.make(deployment))
    assert f"made at {repository}" in [one.message for one in outcomes if one.step == "repository"]
    first = outcomes[-1].data["result"]["snapshot"]
    assert len(first) == 64
    assert [one.id for one in backup.backups(deployment)] == [first]
    store = open_store(deployment)
    store.restore(first, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(stage_of(deployment.layout))
    second = list(backup.make(deployment))[-1].data
    assert second["added_bytes"] < outcomes[-1].data["added_bytes"] / 2
    list(backup.check(deployment, read_data=True))
    verified = store.tag(first, "verified")
    assert backup.age_s(deployment, verified=True) is not None
    assert {one.original or one.id for one in backup.backups(deployment)} == {first, second["result"]["snapshot"]}
    assert verified in {one.id for one in backup.backups(deployment)}
    assert list(backup.prune(deployment))[-1].data == {"removed": 1}
    assert [one.id for one in backup.backups(deployment)] == [second["result"]["snapshot"]]
    list(backup.check(deployment, read_data=True))


def test_a_wrong_passphrase_elsewhere_is_said_to_be_wrong(tmp_path, repository, monkeypatch):
    deployment = platform(tmp_path, repository)
    list(backup.make(deployment))
    monkeypatch.setenv(keeping.PASSWORD_VARIABLE, "another")
    for call in (lambda: list(backup.make(deployment)), lambda: backup.backups(deployment)):
        with pytest.raises(PreconditionError, match=r"the passphrase of the repository .* is wrong"):
            call()


@pytest.mark.parametrize(("key", "secret"), [(KEY, "wrong"), ("unknown", SECRET), (READER, READER_SECRET)], ids=["secret", "key", "rights"])
@pytest.mark.parametrize("there", [False, True])
def test_refused_credentials_are_neither_an_empty_storage_nor_a_wrong_passphrase(tmp_path, s3, key, secret, there):
    repository = f"{s3.address}/refused-{len(key)}-{len(secret)}-{there:d}/backups"
    if there:
        list(backup.make(platform(tmp_path, repository)))
    deployment = platform(tmp_path, repository, key, secret)
    calls = (lambda: list(backup.make(deployment)), lambda: backup.backups(deployment), lambda: list(backup.check(deployment)))
    for call in (*calls, lambda: list(backup.prune(deployment))):
        with pytest.raises(PreconditionError, match="refuses the credentials") as caught:
            call()
        assert "`backup.credentials`" in caught.value.hint
        assert secret not in f"{caught.value.message}{caught.value.hint}{caught.value.details}"
    assert open_store(platform(tmp_path, repository)).exists == there, "nothing was made meanwhile"


def test_while_the_server_is_down_that_is_said_and_afterwards_backups_go_on(tmp_path, tmp_path_factory):
    server = S3(tmp_path_factory.mktemp("s3-down"))
    try:
        deployment = platform(tmp_path, f"{server.address}/down/backups")
        first = list(backup.make(deployment))[-1].data["result"]["snapshot"]
        server.stop()
        calls = (lambda: list(backup.make(deployment)), lambda: backup.backups(deployment), lambda: list(backup.check(deployment)))
        for call in (*calls, lambda: list(backup.prune(deployment))):
            with pytest.raises(PreconditionError, match=r"the storage of the repository .* cannot be reached: connection refused"):
                call()
        server.start()
        second = list(backup.make(deployment))[-1].data["result"]["snapshot"]
        assert [one.id for one in backup.backups(deployment)] == [first, second]
        list(backup.check(deployment, read_data=True))
    finally:
        server.stop()


def test_a_host_that_there_is_not_is_not_an_empty_storage(tmp_path):
    with pytest.raises(PreconditionError, match=r"cannot be reached: (no such host|i/o timeout)|cannot be reached: Temporary failure"):
        backup.backups(platform(tmp_path, "s3:http://no-such-host.invalid/kiva"))


def test_an_ssh_server_that_is_down_is_not_an_empty_storage(tmp_path):
    """The machine's own ssh, to a port of loopback that nobody listens on."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        deployment = platform(tmp_path, f"sftp://backup@127.0.0.1:{closed.getsockname()[1]}//srv/backup")
        for call in (lambda: list(backup.make(deployment)), lambda: backup.backups(deployment), lambda: list(backup.check(deployment))):
            with pytest.raises(PreconditionError, match=r"cannot be reached: Connection refused"):
                call()


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("backup@elsewhere.example: Permission denied (publickey,password).", "refuses the key of this user"),
        ("Host key verification failed.", "has a key that is unknown here"),
        ("ssh: Could not resolve hostname elsewhere.example: Name or service not known", "cannot be reached: Could not resolve hostname"),
        ("something nobody has seen before", "does not begin an SFTP session"),
    ],
)
def test_what_ssh_says_reaches_the_operator(tmp_path, monkeypatch, says, message):
    ssh(tmp_path, monkeypatch, f"echo '{says}' >&2; exit 255")
    deployment = platform(tmp_path, f"sftp:backup@elsewhere.example:{tmp_path}/there")
    for call in (lambda: list(backup.make(deployment)), lambda: backup.backups(deployment)):
        with pytest.raises(PreconditionError, match=message) as caught:
            call()
        assert any(says in line for line in caught.value.details)
    assert not (tmp_path / "there").exists()


def test_damage_elsewhere_is_found(tmp_path, monkeypatch):
    ssh(tmp_path, monkeypatch)
    deployment = platform(tmp_path, f"sftp:backup@elsewhere.example:{tmp_path}/there")
    list(backup.make(deployment))
    pack = max((path for path in (tmp_path / "there" / "data").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)
    with pytest.raises(CheckError, match="is damaged"):
        list(backup.check(deployment, read_data=True))
