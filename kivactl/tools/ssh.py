"""OpenSSH's client: how machines are logged in to, whether one can be, and which host key it shows.

Nothing of the user's own ssh configuration takes part: every call names a configuration that is written here. Host keys are kept in a
file of the platform's; a machine that shows another key than the one kept is refused.

Source: https://man.openbsd.org/ssh_config
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kivactl.errors import SpecError
from kivactl.tools import process

CONNECT_S = 10
"""Seconds a machine has to accept a connection."""

_JUMP = re.compile(r"(?:(?P<user>[^@]+)@)?(?P<host>\[[0-9A-Fa-f:]+\]|[^@:]+)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Login:
    """How the machines are logged in to.

    Attributes:
        user: The user there.
        known_hosts: File of the host keys; the first one a machine shows is added, another one later refused.
        key: File of the private key; those of the SSH agent when None.
        port: TCP port.
        jump: Machine to go through, `USER@HOST:PORT`.
    """

    user: str
    known_hosts: Path
    key: Path | None = None
    port: int = 22
    jump: str | None = None


class Contact(StrEnum):
    """How an attempt to log in ended."""

    READY = "ready"
    UNREACHABLE = "unreachable"
    KEY_CHANGED = "key-changed"
    REFUSED = "refused"
    SUDO_REFUSED = "sudo-refused"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an attempt to log in; `message` is ssh's own last line."""

    contact: Contact
    message: str = ""


def config_for(login: Login) -> str:
    """An ssh configuration, of which the jump host takes the same key and file of host keys.

    Raises:
        SpecError: The jump host is not `USER@HOST:PORT`.
    """
    lines = []
    if login.jump is not None:
        found = _JUMP.fullmatch(login.jump)
        if found is None:
            raise SpecError(f"'{login.jump}' is no machine to go through", "write `access.jump: USER@HOST:PORT` in kiva.yaml")
        host = found["host"].strip("[]")
        lines = [f"Host {host}", "  ProxyJump none", f"  User {found['user'] or login.user}", f"  Port {found['port'] or 22}"]
        lines += ["Host *", f"  ProxyJump {host}"]
    else:
        lines = ["Host *"]
    lines += [
        f"  User {login.user}",
        f"  Port {login.port}",
        f'  UserKnownHostsFile "{login.known_hosts}"',
        "  GlobalKnownHostsFile none",
        "  StrictHostKeyChecking accept-new",
        "  UpdateHostKeys no",
        "  HashKnownHosts no",
        "  BatchMode yes",
        "  PreferredAuthentications publickey",
        f"  ConnectTimeout {CONNECT_S}",
        # A machine that dies in the middle is noticed within these 15 seconds.
        "  ServerAliveInterval 5",
        "  ServerAliveCountMax 3",
        "  ForwardAgent no",
        "  LogLevel ERROR",
    ]
    if login.key is not None:
        lines += [f'  IdentityFile "{login.key}"', "  IdentitiesOnly yes"]
    return "\n".join(lines) + "\n"


def keep_host_keys(known_hosts: Path, keys: Iterable[tuple[str, int, str]]) -> None:
    """Write down host keys that are known beforehand, in place of others kept for the same machines.

    Args:
        known_hosts: The file; made with mode 0600, its folder must exist.
        keys: Address, port and public key of each machine.
    """
    wanted = {host_entry(address, port): key for address, port, key in keys}
    kept = known_hosts.read_text().splitlines() if known_hosts.exists() else []
    lines = [line for line in kept if line.partition(" ")[0] not in wanted] + [f"{entry} {key}" for entry, key in wanted.items()]
    if lines != kept:
        beside = known_hosts.with_name(f"{known_hosts.name}.new")
        beside.touch(mode=0o600)
        beside.write_text("".join(f"{line}\n" for line in lines))
        beside.replace(known_hosts)


def host_entry(address: str, port: int) -> str:
    """How a machine is called in a file of host keys."""
    return address if port == 22 else f"[{address}]:{port}"


def log_in(address: str, login: Login, folder: Path, *, sudo: bool = True) -> Answer:
    """Try to log in, and to become root without a password.

    Args:
        address: The machine's.
        login: How.
        folder: Where the configuration is written meanwhile; only we may read it.
        sudo: Whether to try sudo too.

    Raises:
        PreconditionError: There is no ssh.
        ToolError: It did not end in time.
    """
    config = folder / "ssh_config"
    config.write_text(config_for(login))
    command = "sudo -n true" if sudo else "true"
    done = process.run([process.find("ssh", "apt-get install openssh-client"), "-F", config, address, command], check=False, timeout_s=4 * CONNECT_S)
    return parse_answer(done.code, done.stderr)


def shown_host_key(address: str, port: int = 22) -> str | None:
    """The public host key (Ed25519) a machine shows, None when it shows none. Whether it is the right one nobody can tell from here."""
    scan = process.find("ssh-keyscan", "apt-get install openssh-client")
    done = process.run([scan, "-T", str(CONNECT_S), "-t", "ed25519", "-p", str(port), address], check=False, timeout_s=3 * CONNECT_S)
    lines = [line.split(None, 1)[1] for line in done.stdout.splitlines() if line and not line.startswith("#")]
    return lines[0] if lines else None


def parse_answer(code: int, errors: str) -> Answer:
    """How an attempt ended, from ssh's exit code (255 is its own, others the command's) and what it said."""
    lines = [line.strip() for line in errors.splitlines() if line.strip() and not line.startswith("@")]
    message = lines[-1] if lines else ""
    if code == 0:
        return Answer(Contact.READY)
    if code != 255:
        return Answer(Contact.SUDO_REFUSED, message)
    return Answer(contact_of(errors), message)


def contact_of(errors: str) -> Contact:
    """What kept ssh from logging in, by what it said."""
    if re.search(r"HOST IDENTIFICATION HAS CHANGED|Host key verification failed|host key .* has changed", errors, re.IGNORECASE):
        return Contact.KEY_CHANGED
    if re.search(r"Permission denied|Too many authentication failures", errors):
        return Contact.REFUSED
    return Contact.UNREACHABLE
