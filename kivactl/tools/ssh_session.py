"""A command on another machine by OpenSSH, with a port of this machine's loopback interface lent to it.

The machines are an operator's own, not the platform's: how they are logged in to is what `~/.ssh` says, keys, agent, names and jump hosts
included. What must not depend on it is given with each call: nothing is asked, and a machine whose host key is not known is refused.

Source: https://man.openbsd.org/ssh_config
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kivactl.errors import KivaError, PreconditionError, UsageError
from kivactl.tools import process
from kivactl.tools.ports import LOOPBACK
from kivactl.tools.ssh import CONNECT_S, Contact, contact_of

NOT_FOUND = 127
"""Exit code of a shell that does not find the command. Source: POSIX.1-2024, "Shell Command Language", 2.8.2."""

_LOGIN = re.compile(r"(?:(?P<user>[\w.\\][\w.\\$-]*)@)?(?P<host>\[[0-9A-Fa-f:.]+(?:%\w+)?\]|\w[\w.-]*)(?::(?P<port>\d{1,5}))?")
_PORT_LENT = re.compile(r"Allocated port (\d+) for remote forward to \S+:(\d+)")
_TALK = re.compile(r"Allocated port |connect_to .* failed|Warning: Permanently added|Connection to .* closed|Killed by signal|client_loop: ")
"""What ssh tells beside the cause of a failure."""


@dataclass(frozen=True, slots=True)
class Remote:
    """Another machine.

    Attributes:
        name: As it was called on the command line.
        host: Name, address, or a name of ssh's configuration.
        user: The user there; None for ssh's own choice.
        port: TCP port; None for ssh's own choice.
        config: Instead of `~/.ssh/config`.
    """

    name: str
    host: str
    user: str | None = None
    port: int | None = None
    config: Path | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """For ssh: whom to log in to."""
        config = ("-F", str(self.config)) if self.config else ()
        port = ("-p", str(self.port)) if self.port else ()
        user = ("-l", self.user) if self.user else ()
        return (*config, *port, *user, "--", self.host)

    def command(self, *words: str) -> str:
        """What a person types to run something there."""
        config = ("-F", str(self.config)) if self.config else ()
        port = ("-p", str(self.port)) if self.port else ()
        return shlex.join(("ssh", *config, *port, f"{self.user}@{self.host}" if self.user else self.host, *words))


def parse_remote(text: str, config: Path | None = None) -> Remote:
    """Read `[USER@]HOST[:PORT]`; an IPv6 address stands in brackets.

    Raises:
        UsageError: It is none.
    """
    found = _LOGIN.fullmatch(text)
    port = int(found["port"]) if found and found["port"] else None
    if found is None or (port is not None and not 0 < port < 65536):
        raise UsageError(f"'{text}' is no machine to log in to", "[USER@]HOST[:PORT]")
    return Remote(text, found["host"].strip("[]"), found["user"], port, config)


def session_argv(remote: Remote, command: Sequence[str], local_port: int) -> tuple[str, ...]:
    """The command line of a session; the machine chooses the port of its loopback interface, and ssh tells it.

    Args:
        remote: Where.
        command: Program and arguments; its shell finds them.
        local_port: Of our loopback interface.

    Raises:
        PreconditionError: There is no ssh.
    """
    options = (
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "ExitOnForwardFailure=yes",
        f"ConnectTimeout={CONNECT_S}",
        # A machine that dies in the middle is noticed within these 15 seconds.
        "ServerAliveInterval=5",
        "ServerAliveCountMax=3",
        # A connection that is shared would keep the port lent after the session.
        "ControlPath=none",
        "ForwardAgent=no",
        "ForwardX11=no",
        "PermitLocalCommand=no",
        "RemoteCommand=none",
        "RequestTTY=no",
        # The least at which ssh tells the port.
        "LogLevel=INFO",
    )
    ssh = str(process.find("ssh", "apt-get install openssh-client"))
    words = tuple(word for option in options for word in ("-o", option))
    return (ssh, *words, "-R", f"{LOOPBACK}:0:{LOOPBACK}:{local_port}", *remote.words, shlex.join(command))


def port_lent(talk: Iterable[str], local_port: int) -> int | None:
    """The port of the machine that leads to one of ours, once ssh has told it."""
    found = (_PORT_LENT.match(line) for line in talk)
    return next((int(match[1]) for match in found if match and int(match[2]) == local_port), None)


def refusal_for(remote: Remote, code: int, talk: Sequence[str]) -> KivaError | None:
    """Why a session did not come about, as one sentence with what to do next; None when ssh did its part.

    Args:
        remote: Where.
        code: ssh's exit code: 255 is its own, others are the command's.
        talk: What ssh said.
    """
    if code != 255:
        return None
    text, name = "\n".join(talk), remote.name
    said = [line.strip() for line in talk if line.strip() and not line.startswith("@") and not _TALK.match(line)]
    last = said[-1].rstrip(".") if said else "the connection broke off"
    if "remote port forwarding failed" in text or "administratively prohibited" in text:
        hint = "in its sshd_config: AllowTcpForwarding yes (or remote), and no PermitListen that forbids 127.0.0.1"
        return PreconditionError(f"'{name}' lends no port: its SSH server refuses to forward one", hint)
    if re.search(r"No \S+ host key is known", text):
        return PreconditionError(f"the host key of '{name}' is not known on this machine", f"{remote.command()}, and compare the fingerprint it shows")
    match contact_of(text):
        case Contact.KEY_CHANGED:
            hint = f"find out why; only then: ssh-keygen -R {_entry(remote)}, and {remote.command()}"
            return PreconditionError(f"'{name}' shows another host key than the one known for it", hint)
        case Contact.REFUSED:
            return PreconditionError(f"'{name}' does not let us log in: {last}", f"{remote.command('true')} has to do without a question: ssh-copy-id, ssh-add")
        case _:
            return PreconditionError(f"'{name}' cannot be reached: {last}", remote.command("true"))


def _entry(remote: Remote) -> str:
    return shlex.quote(f"[{remote.host}]:{remote.port}" if remote.port and remote.port != 22 else remote.host)
