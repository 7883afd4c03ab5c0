"""`loadtest worker`: what runs on a machine that generates load for another one, which started it by SSH.

It says who it is, reads one line of JSON that says what to do, and runs Locust in a folder of its own. Standard input is the rein: the line
`end` ends the load and has the records sent, its end, whatever the reason, ends the load at once.
"""

from __future__ import annotations

import base64
import json
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from kivactl import __version__
from kivactl.loadtest.assignment import FOLDER_VARIABLE, MACHINE_VARIABLE, TOKENS_VARIABLE, Assignment, Folder, parse_assignment
from kivactl.loadtest.frames import Frame
from kivactl.loadtest.server import open_server
from kivactl.loadtest.spool import packed
from kivactl.root import PACKAGE
from kivactl.tools import locust, machine, process
from kivactl.tools.version import package_version

USER_FILE = PACKAGE / "loadtest" / "user.py"
_CONNECT_S = 10.0
_LOOK_S = 0.1
_QUITS_WITHIN_S = 5.0
"""Locust's processes end by their master's word; those that do not hear it are ended."""
_AT_ONCE = ((signal.SIGKILL, 5.0),)

Say = Callable[[Frame], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What a machine is told.

    Attributes:
        machine: How the conductor calls it.
        processes: How many Locust starts here.
        port: Of the loopback interface; it leads to Locust's master.
        assignment: What all processes do.
        tokens: Bearer token by tenant.
        files: What the assignment names, by the paths it has for them.
    """

    machine: str
    processes: int
    port: int
    assignment: Assignment
    tokens: Mapping[str, str]
    files: Mapping[str, bytes]

    def encoded(self) -> bytes:
        """As one line of JSON."""
        files = {path: base64.b64encode(body).decode() for path, body in self.files.items()}
        told = {"machine": self.machine, "processes": self.processes, "port": self.port, "tokens": dict(self.tokens), "files": files}
        return json.dumps({**told, "assignment": self.assignment.to_json()}).encode() + b"\n"


def parse_order(line: bytes) -> Order:
    """Read what `Order.encoded` wrote.

    Raises:
        ValueError: It is no such line.
    """
    try:
        told: dict[str, Any] = json.loads(line)
        files = {path: base64.b64decode(body) for path, body in told["files"].items()}
        return Order(told["machine"], told["processes"], told["port"], parse_assignment(told["assignment"]), told["tokens"], files)
    except (KeyError, TypeError, AttributeError) as error:
        msg = f"no order: {error}"
        raise ValueError(msg) from error


def work(source: BinaryIO, sink: BinaryIO) -> None:
    """Generate load as another machine says, and send it the records.

    Args:
        source: Standard input: an order, then the rein.
        sink: Standard output: frames.

    Raises:
        ValueError: The order is none.
        OSError: Nobody listens, or the folder cannot be written.
    """

    def say(frame: Frame) -> None:
        sink.write(frame.encoded())
        sink.flush()

    facts = {"version": __version__, "host": socket.gethostname(), "processors": machine.usable_processors(), "locust": package_version("locust")}
    say(Frame("hello", facts))
    line = source.readline()
    if not line.endswith(b"\n"):
        return  # whoever started this has changed their mind
    order = parse_order(line)
    if machine.is_exposed(order.port):  # the server's configuration outdoes what was asked for
        say(Frame("exposed"))
        return
    with tempfile.TemporaryDirectory(prefix="kivactl-loadtest-") as name:  # mode 0700
        rein = _Rein(source)
        assignment = _settled(order, Path(name))
        try:
            _reach(assignment)
        except OSError as error:
            say(Frame("unreachable", {"reason": error.strerror or str(error)}))
            return
        say(Frame("ready"))
        code, talk = _generate(order, Folder(Path(name)), rein)
        if not rein.is_gone:
            _send(Folder(Path(name)), say)
            say(Frame("done", {"code": code, "talk": list(talk)}))


class _Rein:
    """What standard input says, heard by a thread."""

    def __init__(self, source: BinaryIO) -> None:
        self.is_gone = self.is_pulled = False
        self._source = source
        threading.Thread(target=self._listen, name="rein", daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError, ValueError):
            while line := self._source.readline():
                self.is_pulled = self.is_pulled or line == b"end\n"
        self.is_gone = True


def _settled(order: Order, folder: Path) -> Assignment:
    """The assignment with its files as they lie here; it is written down for Locust's processes."""
    here: dict[str, str] = {}
    for number, (path, body) in enumerate(order.files.items()):
        file = folder / f"file-{number}"
        file.write_bytes(body)
        here[path] = str(file)
    work_ = order.assignment
    kinds = tuple(replace(kind, chats=here[kind.chats] if kind.chats else None) for kind in work_.kinds)
    settled = replace(work_, kinds=kinds, ca=here[work_.ca] if work_.ca else None)
    Folder(folder).scenario.write_text(settled.to_json() + "\n")
    return settled


def _reach(assignment: Assignment) -> None:
    """Connect to the server once: what this machine cannot reach would be a thousand failures.

    Raises:
        OSError: It cannot be reached, or its certificate is not trusted.
    """
    server = open_server(assignment.url, assignment.ca)
    with socket.create_connection((server.host, server.port), _CONNECT_S) as connection:
        if server.context is not None:
            with server.context.wrap_socket(connection, server_hostname=server.host):
                return


def _generate(order: Order, files: Folder, rein: _Rein) -> tuple[int, tuple[str, ...]]:
    """Run Locust until its master or the rein ends it; returns its exit code and its last words."""
    env = {FOLDER_VARIABLE: str(files.path), TOKENS_VARIABLE: json.dumps(dict(order.tokens)), MACHINE_VARIABLE: order.machine}
    command = locust.worker_command_for(USER_FILE, processes=order.processes, master_port=order.port)
    child = process.Dialogue(command, cwd=files.path, env=env, only_talks=True)
    try:
        while (code := child.wait(_LOOK_S)) is None:
            if rein.is_gone:
                child.end(_AT_ONCE)
            elif rein.is_pulled:
                code = child.wait(_QUITS_WITHIN_S)
                break
    finally:
        ended = child.end()
    return ended if code is None else code, child.talk


def _send(files: Folder, say: Say) -> None:
    for spool in files.spools:
        for piece in packed(spool):
            say(Frame("records", {"name": spool.name}, piece))
