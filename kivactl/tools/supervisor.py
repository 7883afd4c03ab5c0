"""supervisor: keeps processes running. Talks XML-RPC over its Unix socket.

Source: http://supervisord.org/api.html
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
import xmlrpc.client
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kivactl.errors import NotReadyError, ToolError
from kivactl.tools import process
from kivactl.tools.clock import Clock

_NO_SUCH_PROCESS = {10, 70}  # BAD_NAME, NOT_RUNNING
_ALREADY = {60, 90}  # ALREADY_STARTED, ALREADY_ADDED
_SHUTTING_DOWN = {6}


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One supervised process as supervisor sees it.

    Attributes:
        name: Its name.
        state: STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL or UNKNOWN.
        pid: 0 when it does not run.
        uptime_s: Seconds since its last start; 0 when it does not run.
        exit_code: Of its last end; negative for a signal is not told by supervisor.
        reason: Why it does not run, in supervisor's words.
    """

    name: str
    state: str
    pid: int
    uptime_s: float
    exit_code: int
    reason: str

    @property
    def alive(self) -> bool:
        """Whether it runs, settled or not."""
        return self.state in {"STARTING", "RUNNING"} and self.pid > 0

    @property
    def gone(self) -> bool:
        """Whether it has ended and stays so."""
        return self.pid == 0 and self.state != "BACKOFF"


class Supervisor:
    """A running supervisor.

    Args:
        path: Its socket.
        clock: Time.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.path = path
        self._clock = clock or Clock()
        self._server = xmlrpc.client.ServerProxy("http://supervisor/RPC2", transport=_Transport(path))

    @classmethod
    def from_environment(cls) -> Self:
        """The supervisor that runs this process."""
        return cls(Path(os.environ["SUPERVISOR_SERVER_URL"].removeprefix("unix://")))

    def alive(self) -> bool:
        """Whether it answers; a socket file without a supervisor behind it counts as no."""
        try:
            self._call("getState", tolerate=_SHUTTING_DOWN)
        except OSError:
            return False
        return True

    def states(self) -> dict[str, ProcessState]:
        """All processes by name; empty when the supervisor does not run."""
        try:
            rows = self._call("getAllProcessInfo", tolerate=_SHUTTING_DOWN)
        except OSError:
            return {}
        return {row["name"]: parse_state(row) for row in rows or []}

    def reload(self) -> None:
        """Read the configuration file again; running processes stay as they are."""
        self._call("reloadConfig")

    def add(self, name: str) -> None:
        """Take a process from the configuration file, without starting it."""
        self._call("addProcessGroup", name, tolerate=_ALREADY)

    def remove(self, name: str) -> None:
        """Forget a stopped process."""
        self._call("removeProcessGroup", name, tolerate=_NO_SUCH_PROCESS)

    def start(self, name: str) -> None:
        """Start a process and return at once."""
        self._call("startProcess", name, False, tolerate=_ALREADY)

    def stop(self, name: str, *, wait: bool = True) -> None:
        """Stop a process; returns when it is gone, or without `wait` when it has been told to go.

        One that is being stopped already (by a command that was killed meanwhile) is waited for as well: supervisor
        itself ends what does not stop in its time.
        """
        self._call("stopProcess", name, wait, tolerate=_NO_SUCH_PROCESS)
        while wait and (state := self.states().get(name)) is not None and not state.gone:
            self._clock.sleep(0.1)

    def shutdown(self) -> None:
        """Stop all processes and the supervisor itself; returns before it is done."""
        self._call("shutdown", tolerate=_SHUTTING_DOWN)

    def _call(self, method: str, *arguments: Any, tolerate: frozenset[int] | set[int] = frozenset()) -> Any:
        try:
            return getattr(self._server.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in tolerate:
                return None
            raise ToolError(f"supervisor refused {method} {' '.join(map(str, arguments))}: {fault.faultString}") from fault


def parse_state(row: Mapping[str, Any]) -> ProcessState:
    """One row of supervisor's getAllProcessInfo."""
    runs = row["pid"] > 0
    return ProcessState(
        name=row["name"],
        state=row["statename"],
        pid=row["pid"],
        uptime_s=float(max(0, row["now"] - row["start"])) if runs else 0.0,
        exit_code=row["exitstatus"],
        reason="" if runs else row["spawnerr"] or row["description"],
    )


def start_supervisor(config: Path, path: Path, environment: Mapping[str, str], clock: Clock, within_s: float = 20) -> Supervisor:
    """Start supervisor as a daemon of its own session; it outlives this process.

    Raises:
        ToolError: It refused its configuration.
        NotReadyError: It does not answer in time.
    """
    process.run([sys.executable, "-m", "supervisor.supervisord", "-c", config], env=environment, inherit=False, timeout_s=within_s)
    supervisor = Supervisor(path)
    for _ in clock.ticks(within_s, every_s=0.05):
        if supervisor.alive():
            return supervisor
    raise NotReadyError(f"supervisor does not answer on {path} within {within_s:g} s")


def until_gone(supervisor: Supervisor, clock: Clock, within_s: float) -> bool:
    """Wait until a supervisor that was told to shut down has ended; False when it has not."""
    return any(not supervisor.alive() for _ in clock.ticks(within_s, every_s=0.1))


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:  # noqa: ARG002  (the signature is the base class's)
        return UnixConnection(self._path, timeout_s=None)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket.

    Args:
        path: The socket.
        timeout_s: Seconds a read may take; None for no end.
    """

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost")
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Open the connection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise
