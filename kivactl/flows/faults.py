"""Faults on purpose, for drills: what a crash and a hang do to a process, done to one of the platform's; and the way back.

A fault is only injected where something serves: a step that was cut off and is done again waits until the platform has healed, and
breaks it anew. None of these takes the platform's lock; the runbook holds it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

from kivactl.errors import NotReadyError, PreconditionError
from kivactl.flows.deployment import Deployment
from kivactl.flows.troubles import known_replica
from kivactl.plan import Outcome, Status
from kivactl.stack.engine import replica_name
from kivactl.targets.status import GATEWAY, Component, Health, status_of
from kivactl.tools import leftovers
from kivactl.tools.supervisor import Supervisor

_HEALED_WITHIN_S = 900.0
_AWAY = {Health.STOPPED, Health.DRAINING, Health.MAINTENANCE}


def victim(deployment: Deployment, replica: str | None) -> str:
    """The replica that a drill is about: the one given, else the first of the spec's first model.

    Raises:
        UsageError: There is no such replica.
        PreconditionError: Nothing is deployed.
    """
    name = replica or replica_name(deployment.platform.models[0].name, 0)
    known_replica(deployment.layout, name)
    return name


def component_of(deployment: Deployment, name: str) -> Component | None:
    """A component as it is now; None when it is not deployed."""
    return next((one for one in status_of(deployment.layout, deployment.platform.name).components if one.name == name), None)


def serving_beside(deployment: Deployment, replica: str | None) -> int:
    """How many other replicas of the same model serve.

    Raises:
        UsageError: There is no such replica.
        PreconditionError: Nothing is deployed.
    """
    name = victim(deployment, replica)
    components = status_of(deployment.layout, deployment.platform.name).components
    model = next((one.model for one in components if one.name == name), "")
    return sum(one.model == model and one.name != name and one.health is Health.SERVING for one in components)


def is_restored(deployment: Deployment, name: str, pid: int) -> bool:
    """Whether a component serves by another process than the one that was broken."""
    component = component_of(deployment, name)
    return component is not None and component.health is Health.SERVING and component.pid != pid


def kill(deployment: Deployment, name: str) -> Iterator[Outcome]:
    """Kill a component's process without warning (SIGKILL), as a crash does.

    Yields:
        At last the moment of the signal, and component and process as results.

    Raises:
        PreconditionError: It is stopped, or not deployed.
        NotReadyError: It does not serve in time.
    """
    pid = _serving(deployment, name)
    yield Outcome(name, Status.STARTED, f"killing process {pid}")
    at_s = deployment.clock.now_s()
    _signal(name, pid, [pid], signal.SIGKILL)
    yield _broken(name, pid, at_s, f"process {pid} was killed")


def hang(deployment: Deployment, name: str) -> Iterator[Outcome]:
    """Stop all processes of a component (SIGSTOP): they live, hold their connections, and do nothing any more.

    Yields:
        At last the moment of the signal, and component and process as results.

    Raises:
        PreconditionError: It is stopped, or not deployed.
        NotReadyError: It does not serve in time.
    """
    pid = _serving(deployment, name)
    yield Outcome(name, Status.STARTED, f"stopping process {pid} and its children")
    at_s = deployment.clock.now_s()
    _signal(name, pid, [pid, *(one for one in leftovers.in_group(pid) if one != pid)], signal.SIGSTOP)
    yield _broken(name, pid, at_s, f"process {pid} hangs")


def repair(deployment: Deployment, name: str, within_s: float) -> Iterator[Outcome]:
    """The way back from either fault: wake what was stopped, start what has ended for good, and wait until it serves.

    A component that serves is left as it is.

    Raises:
        NotReadyError: It does not serve in time.
        PreconditionError: It is not deployed.
    """
    clock, started_s = deployment.clock, deployment.clock.now_s()
    yield Outcome(name, Status.STARTED, "bringing it back")
    component = component_of(deployment, name)
    if component is None:
        raise PreconditionError(f"'{name}' is not deployed", "kivactl status")
    # Processes of one group that run already do not mind.
    for pid in leftovers.in_group(component.pid) if component.pid > 1 else ():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGCONT)
    for elapsed_s in clock.ticks(within_s, every_s=0.2):
        component = component_of(deployment, name)
        if component is not None and component.health is Health.SERVING:
            break
        if component is not None and component.health is Health.STOPPED:
            Supervisor(deployment.layout.supervisor_socket, clock).start(name)
        if elapsed_s >= within_s:
            raise NotReadyError(f"'{name}' does not serve within {within_s:g} s", f"kivactl logs {name}")
    yield Outcome(name, Status.DONE, "serves", clock.now_s() - started_s)


def _serving(deployment: Deployment, name: str) -> int:
    """The process of a component that serves; waits for one that is on its way."""
    hint = "kivactl status" if name == GATEWAY else f"kivactl logs {name}"
    for _ in deployment.clock.ticks(_HEALED_WITHIN_S):
        component = component_of(deployment, name)
        if component is None or component.health in _AWAY:
            raise PreconditionError(f"'{name}' is {component.health if component else 'not deployed'}, so there is nothing to break", hint)
        if component.health is Health.SERVING:
            return component.pid
    raise NotReadyError(f"'{name}' did not serve within {_HEALED_WITHIN_S:g} s, so there was nothing to break", hint)


def _signal(name: str, leader: int, pids: list[int], number: signal.Signals) -> None:
    """Send a signal to all of them, the leader first."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            if pid == leader:
                raise PreconditionError(f"'{name}' ended by itself in this very moment", f"kivactl logs {name}") from None


def _broken(name: str, pid: int, at_s: float, message: str) -> Outcome:
    return Outcome(name, Status.DONE, message, data={"mark": "fault", "at_s": at_s, "result": {"component": name, "pid": pid}})
