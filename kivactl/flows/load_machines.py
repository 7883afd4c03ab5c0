"""The machines that generate the load of a load test: reached by SSH, started, watched, and asked for their records at the end.

Locust's master, which conducts them, runs here and listens on the loopback interface alone; each machine reaches it through its SSH session.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kivactl import __version__
from kivactl.errors import KivaError, PreconditionError
from kivactl.flows.load_worker import Order
from kivactl.loadtest.assignment import Assignment, Folder
from kivactl.loadtest.clocks import Offset
from kivactl.loadtest.frames import Frame, FrameReader
from kivactl.loadtest.spool import Arriving
from kivactl.stack.secret import Secret
from kivactl.tools import process
from kivactl.tools.ports import free_port
from kivactl.tools.ssh_session import NOT_FOUND, Remote, port_lent, refusal_for, session_argv

COMMAND = ("kivactl", "loadtest", "worker")
_GREETS_WITHIN_S = 60.0
"""Jump hosts, slow disks: kivactl takes a second to start on a good day."""
_SILENT_S = 30.0
"""A machine that sends its records says something more often."""
_LADDER = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that generated load, for the results.

    Attributes:
        name: As it was called on the command line.
        host: What it calls itself.
        processes: Of the load generator there.
        processors: It has for them.
        locust: Version of Locust.
        clock_error_ms: How well its clock is known here: moments of its requests may be shifted by as much; None when it was not compared.
    """

    name: str
    host: str
    processes: int
    processors: int
    locust: str
    clock_error_ms: float | None = None


class LoadMachines:
    """The machines of one run; a context that ends with their records here and nothing of it there.

    Args:
        remotes: Where they are.
        assignment: What they do together.
        tokens: Bearer token by tenant.
        files: Of the run.
    """

    def __init__(self, remotes: Sequence[Remote], assignment: Assignment, tokens: Mapping[str, Secret], files: Folder) -> None:
        self.port = free_port() if remotes else None
        self._assignment, self._tokens, self._files = assignment, tokens, files
        self._offsets: dict[int, Offset] = {}
        self._clocks: dict[str, float] = {}
        self._processes = assignment.processes // len(remotes) if remotes else 0
        self._sessions = [_Session(remote, self) for remote in remotes]
        self.fault = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._sessions and all(session.is_ready for session in self._sessions):
                for session in self._sessions:
                    session.pull()
                for session in self._sessions:
                    session.fetch()
        except BaseException:  # a further Ctrl-C
            self.fault = self.fault or "the records of the machines were not waited for"
            raise
        finally:
            for session in self._sessions:
                session.close()
            self._files.broken.unlink(missing_ok=True)

    @property
    def machines(self) -> tuple[Machine, ...]:
        """What is known of those that have said who they are."""
        return tuple(self._machine(session) for session in self._sessions if session.hello)

    def connect(self) -> None:
        """Log in to all of them, and have them ready to generate.

        Raises:
            PreconditionError: One cannot; the sentence says which, why, and what to do.
        """
        assert self.port is not None
        for session in self._sessions:
            session.open(self.port)
        for session in self._sessions:
            session.greet()
        files = {path: Path(path).read_bytes() for path in _named(self._assignment)}
        tokens = {tenant: token.reveal() for tenant, token in self._tokens.items()}
        for session in self._sessions:
            session.order(Order(session.remote.name, self._processes, session.port, self._assignment, tokens, files))
        for session in self._sessions:
            session.prepare(self._assignment.url)

    def note_clocks(self, workers: Sequence[Mapping[str, Any]]) -> None:
        """Keep how the clocks of their processes differ from ours, as the conductor found."""
        for told in workers:
            offset = Offset(told["offset_ns"], told["error_ns"])
            self._offsets[told["worker"]] = offset
            self._clocks[told["machine"]] = max(self._clocks.get(told["machine"], 0.0), offset.error_ns / 1e6)

    def lose(self, reason: str) -> None:
        """The measurement is lost: the conductor is told by a file, for it hears nothing else from here."""
        if not self.fault:
            self.fault = reason
            beside = self._files.broken.with_suffix(".new")
            beside.write_text(reason)
            beside.replace(self._files.broken)

    def spool(self, name: str) -> Arriving:
        """Where the records of a process go.

        Raises:
            ValueError: Nothing was said of such a process.
        """
        for worker, offset in self._offsets.items():
            path = self._files.records_of(worker)
            if path.name == name:
                return Arriving(path, offset.offset_ns)
        msg = f"nobody knows '{name}'"
        raise ValueError(msg)

    def _machine(self, session: _Session) -> Machine:
        hello, name = session.hello, session.remote.name
        return Machine(name, str(hello.get("host", "")), self._processes, int(hello.get("processors", 0)), str(hello.get("locust", "")), self._clocks.get(name))


class _Session:
    """One machine: its SSH session, and a thread that hears what it says."""

    def __init__(self, remote: Remote, machines: LoadMachines) -> None:
        self.remote, self.port, self.is_ready = remote, 0, False
        self.hello: dict[str, Any] = {}
        self._machines = machines
        self._frames: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._spools: dict[str, Arriving] = {}
        self._is_pulled = self._is_done = self._is_over = False
        self._heard_at_s = time.monotonic()
        self._dialogue: process.Dialogue | None = None
        self._local_port = 0
        self._thread = threading.Thread(target=self._listen, name=f"load of {remote.name}", daemon=True)

    def open(self, local_port: int) -> None:
        self._local_port = local_port
        self._dialogue = process.Dialogue(session_argv(self.remote, COMMAND, local_port))
        self._thread.start()

    def greet(self) -> None:
        """Hear who it is, and whether it can do what is asked."""
        name = self.remote.name
        self.hello = self._next("hello").facts
        if self.hello.get("version") != __version__:
            there = f"'{name}' has kivactl {self.hello.get('version')}, this machine has {__version__}"
            raise PreconditionError(f"{there}; both must be the same", f"install kivactl {__version__} on '{name}'")
        if not self.hello.get("locust"):
            raise PreconditionError(f"Locust, which generates the load, is not installed on '{name}'", f"on '{name}': pip install 'kivactl[local]'")
        assert self._dialogue is not None
        until_s = time.monotonic() + _GREETS_WITHIN_S
        while (port := port_lent(self._dialogue.talk, self._local_port)) is None:
            if time.monotonic() > until_s or not self._thread.is_alive():
                raise PreconditionError(f"'{name}' lends no port: ssh does not tell which", self.remote.command("true"))
            time.sleep(_LOOK_S)
        self.port = port

    def order(self, order: Order) -> None:
        assert self._dialogue is not None
        self._dialogue.say(order.encoded())  # whether it was heard, the answer says

    def prepare(self, url: str) -> None:
        """Hear that it is ready."""
        answer = self._next("ready", "unreachable", "exposed")
        if answer.kind == "exposed":
            hint = "in its sshd_config: GatewayPorts no"
            raise PreconditionError(f"'{self.remote.name}' lends its port to its whole network, and Locust's protocol protects nothing", hint)
        if answer.kind == "unreachable":
            hint = "name an address that all machines reach: --url https://HOST:PORT/v1, with --token-file and --ca"
            raise PreconditionError(f"'{self.remote.name}' does not reach {url}: {answer.facts.get('reason')}", hint)
        self.is_ready = True
        if self._is_over:  # in between
            self._machines.lose(self._lost())

    def pull(self) -> None:
        """Have the load ended and the records sent."""
        assert self._dialogue is not None
        self._heard_at_s, self._is_pulled = time.monotonic(), True
        self._dialogue.say(b"end\n")

    def fetch(self) -> None:
        """Wait for the records."""
        while self._thread.is_alive():
            self._thread.join(_LOOK_S)
            if time.monotonic() - self._heard_at_s > _SILENT_S:
                self._machines.lose(f"'{self.remote.name}' did not send its records")
                return

    def close(self) -> None:
        """Leave nothing."""
        if self._dialogue is None:
            return
        self._dialogue.hush()
        self._dialogue.wait(2.0)
        self._dialogue.end(_LADDER)
        if self._thread.is_alive():
            self._thread.join(1.0)
        for spool in self._spools.values():
            spool.close()

    def _next(self, *kinds: str) -> Frame:
        until_s = time.monotonic() + _GREETS_WITHIN_S
        try:
            while (frame := self._frames.get(timeout=max(0.0, until_s - time.monotonic()))) is not None:
                if frame.kind in kinds:
                    return frame
        except queue.Empty:
            look = self.remote.command("kivactl", "--version")
            raise PreconditionError(f"'{self.remote.name}' did not answer within {_GREETS_WITHIN_S:.0f} s", look) from None
        raise self._refusal()

    def _refusal(self) -> KivaError:
        """Why the session ended before it had begun."""
        assert self._dialogue is not None
        code, name = self._dialogue.wait(5.0), self.remote.name
        talk = self._dialogue.talk
        known = refusal_for(self.remote, 255 if code is None else code, talk)
        if known is not None:
            return known
        look = self.remote.command("kivactl", "--version")
        if code == NOT_FOUND:
            hint = f"install kivactl {__version__} there, so that this finds it: {look}"
            return PreconditionError(f"kivactl is not found on '{name}'", hint)
        return PreconditionError(f"kivactl on '{name}' cannot generate load for another machine (exit code {code})", look, talk[-5:])

    def _listen(self) -> None:
        """Hear it to its end; runs in the thread."""
        assert self._dialogue is not None
        reader = FrameReader()
        while piece := self._dialogue.hear():
            self._heard_at_s = time.monotonic()
            for frame in reader.feed(piece):
                self._take(frame)
        self._is_over = True
        self._frames.put(None)
        if self.is_ready and not self._is_done:
            self._machines.lose(self._lost())

    def _take(self, frame: Frame) -> None:
        name = self.remote.name
        match frame.kind:
            case "records":
                self._keep(str(frame.facts.get("name")), frame.body)
            case "done":
                self._is_done = True
                whole = [spool.close() for spool in self._spools.values()]
                self._spools.clear()
                if not all(whole):
                    self._machines.lose(f"the records of '{name}' did not come whole")
                if frame.facts.get("code") and not self._is_pulled:
                    last = next((f": {line}" for line in reversed(frame.facts.get("talk") or ())), "")
                    self._machines.lose(f"the load generator on '{name}' ended by itself (exit code {frame.facts['code']}){last}")
            case _:
                self._frames.put(frame)

    def _keep(self, name: str, piece: bytes) -> None:
        try:
            if name not in self._spools:
                self._spools[name] = self._machines.spool(name)
            self._spools[name].take(piece)
        except (ValueError, OSError) as error:
            self._machines.lose(f"the records of '{self.remote.name}' cannot be kept: {error}")

    def _lost(self) -> str:
        assert self._dialogue is not None
        code = self._dialogue.wait(1.0)
        refusal = refusal_for(self.remote, code, self._dialogue.talk) if code is not None else None
        cause = f": {refusal.message.partition(': ')[2]}" if refusal and ": " in refusal.message else ""
        return f"the connection to '{self.remote.name}' was lost in the middle of the load test{cause}"


def _named(assignment: Assignment) -> list[str]:
    """The files that an assignment names."""
    files = [kind.chats for kind in assignment.kinds if kind.chats]
    return list(dict.fromkeys([*files, *([assignment.ca] if assignment.ca else [])]))
