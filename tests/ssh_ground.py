"""An SSH server of its own on this machine, for tests: two ports, as two machines, the second with a clock of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

from free_ports import free_ports

AHEAD_S = 100_000
"""So far is the clock of the second machine ahead."""


@dataclass
class Ground:
    """The server's files, and what ssh needs to reach it.

    Attributes:
        config: For ssh: the machines `one` and `other`, and some that cannot be used.
        bin: The first folder of PATH there.
        temporary: Where temporary files lie there.
        ports: Of `one` and `other`.
    """

    folder: Path
    config: Path
    bin: Path
    temporary: Path
    ports: tuple[int, int]
    server: subprocess.Popen[bytes]

    def sessions(self) -> list[int]:
        """The processes of sessions under way."""
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text().split()
        return [int(child) for child in children]


@contextmanager
def ssh_ground(folder: Path) -> Iterator[Ground]:
    """Serve until the context ends."""
    folder.chmod(0o755)
    keys = {name: folder / name for name in ("host", "own", "foreign", "other_host")}
    for path in keys.values():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    bin_ = folder / "bin"
    bin_.mkdir()
    temporary = folder / "tmp"
    temporary.mkdir()
    program = bin_ / "kivactl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m kivactl "$@"\n')
    program.chmod(0o755)
    (folder / "authorized_keys").write_text(keys["own"].with_suffix(".pub").read_text())
    one, other, narrow, wide, closed = free_ports(5)
    package = Path(__file__).parent.parent
    (folder / "sshd_config").write_text(
        f"""
        HostKey {keys["host"]}
        ListenAddress 127.0.0.1
        Port {one}
        Port {other}
        Port {narrow}
        Port {wide}
        PidFile none
        UsePAM no
        StrictModes no
        AuthorizedKeysFile {folder / "authorized_keys"}
        PasswordAuthentication no
        KbdInteractiveAuthentication no
        PrintMotd no
        SetEnv PATH={bin_}:/usr/bin:/bin PYTHONPATH={package} TMPDIR={temporary}
        Match LocalPort {other}
          ForceCommand exec unshare --time --monotonic {AHEAD_S} sh -c "$SSH_ORIGINAL_COMMAND"
        Match LocalPort {narrow}
          AllowTcpForwarding local
        Match LocalPort {wide}
          GatewayPorts yes
        """
    )
    known, unknown = folder / "known_hosts", folder / "nobody_known"
    public = keys["host"].with_suffix(".pub").read_text()
    known.write_text("".join(f"[127.0.0.1]:{port} {public}" for port in (one, other, narrow, wide)))
    unknown.write_text("")
    (folder / "changed_hosts").write_text(f"[127.0.0.1]:{one} {keys['other_host'].with_suffix('.pub').read_text()}")
    machines = {
        "one": (one, known, keys["own"]),
        "other": (other, known, keys["own"]),
        "narrow": (narrow, known, keys["own"]),
        "wide": (wide, known, keys["own"]),
        "closed": (closed, known, keys["own"]),
        "stranger": (one, known, keys["foreign"]),
        "unknown": (one, unknown, keys["own"]),
        "changed": (one, folder / "changed_hosts", keys["own"]),
    }
    config = folder / "ssh_config"
    config.write_text(
        "".join(
            f"Host {name}\n  HostName 127.0.0.1\n  Port {port}\n  User {getuser()}\n  UserKnownHostsFile {hosts}\n  GlobalKnownHostsFile none\n"
            f"  IdentityFile {key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            for name, (port, hosts, key) in machines.items()
        )
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # Debian's makes it when the machine starts
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    assert sshd, "apt-get install openssh-server"
    log = folder / "sshd.log"
    server = subprocess.Popen([sshd, "-D", "-f", folder / "sshd_config", "-E", log], start_new_session=True)
    try:
        for port in (one, other, narrow, wide):
            until_open(server, port, log)
        yield Ground(folder, config, bin_, temporary, (one, other), server)
    finally:
        server.terminate()
        server.wait(10)


def until_open(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.02)
        else:
            return
