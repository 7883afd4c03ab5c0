"""The processes of a platform on this machine, to be broken and mended."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from kivactl.errors import PreconditionError
from kivactl.stack.engine import replica_name
from kivactl.stack.layout import Layout
from kivactl.targets.breaking import Part, no_replica
from kivactl.targets.release import read_release
from kivactl.targets.status import GATEWAY, status_of
from kivactl.tools import leftovers
from kivactl.tools.clock import Clock
from kivactl.tools.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Processes:
    """What the supervisor runs.

    Attributes:
        layout: Where its files lie.
        clock: Time.
    """

    layout: Layout
    clock: Clock = field(default_factory=Clock)

    def parts(self) -> Sequence[Part]:
        """As `Breaking.parts`."""
        components = status_of(self.layout, "").components
        return [Part(one.name, one.model, one.health, str(one.pid or ""), one.uptime_s) for one in components]

    def victim(self, replica: str | None, model: str) -> str:
        """As `Breaking.victim`."""
        name = replica or replica_name(model, 0)
        known_replica(self.layout, name)
        return name

    def meant(self, replica: str | None, model: str) -> str:
        """As `Breaking.meant`."""
        return replica or replica_name(model, 0)

    def model(self, replica: str) -> str:
        """As `Breaking.model`; the name says it."""
        return replica.rpartition("-")[0]

    def gateway(self) -> str:
        """As `Breaking.gateway`."""
        return GATEWAY

    def mates(self, name: str) -> Sequence[Part]:
        """The process itself."""
        return [one for one in self.parts() if one.name == name]

    def kill(self, part: Part) -> str:
        """SIGKILL."""
        pid = int(part.process)
        _signal(part.name, pid, [pid], signal.SIGKILL)
        return f"process {pid} was killed"

    def hang(self, part: Part) -> str:
        """SIGSTOP to all of its processes: they live and hold their connections."""
        pid = int(part.process)
        _signal(part.name, pid, [pid, *(one for one in leftovers.in_group(pid) if one != pid)], signal.SIGSTOP)
        return f"process {pid} hangs"

    def wake(self, name: str) -> None:
        """SIGCONT to all of its processes."""
        pid = next((int(one.process or 0) for one in self.mates(name)), 0)
        # Processes of one group that run already do not mind.
        for one in leftovers.in_group(pid) if pid > 1 else ():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(one, signal.SIGCONT)

    def revive(self, part: Part) -> None:
        """The supervisor gives up on what ends again and again."""
        Supervisor(self.layout.supervisor_socket, self.clock).start(part.name)

    def outage(self, part: Part) -> str:
        """There is one gateway on a machine."""
        return "nobody is answered until it has started again" if part.name == GATEWAY else ""


def known_replica(layout: Layout, name: str) -> None:
    """Check that a replica is deployed on this machine.

    Raises:
        UsageError: None of that name is; the hint has the nearest.
        PreconditionError: Nothing is deployed.
    """
    names = [replica for replicas in read_release(layout.release).replicas.values() for replica in replicas]
    if not names:
        raise PreconditionError("nothing is deployed here", "kivactl deploy")
    if name not in names:
        raise no_replica(name, names)


def _signal(name: str, leader: int, pids: list[int], number: signal.Signals) -> None:
    """Send a signal to all of them, the leader first."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            if pid == leader:
                raise PreconditionError(f"'{name}' ended by itself in this very moment", f"kivactl logs {name}") from None
