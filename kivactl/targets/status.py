"""How a local platform is: read from the record, the supervisor and the gateway in a few milliseconds, without a lock."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from kivactl.stack.layout import Layout
from kivactl.targets.release import Release, read_release
from kivactl.targets.stalled import GATEWAY_IS_LATE_S
from kivactl.tools import vllm
from kivactl.tools.envoy import Admin, Upstream
from kivactl.tools.supervisor import ProcessState, Supervisor

GATEWAY, METER = "gateway", "meter"
"""The processes of a platform that are no engines."""

_PROVED_WITHIN_S = 0.5
"""For all questions to replicas together: much more than it takes, for the machine may be busy. One that generates has its proof at hand, since
the gateway asks for it every two seconds."""


class Health(StrEnum):
    """A component's or the platform's health, best first."""

    SERVING = "serving"
    DRAINING = "draining"
    STARTING = "starting"
    MAINTENANCE = "maintenance"
    DEGRADED = "degraded"
    RESTARTING = "restarting"
    STOPPED = "stopped"
    ABSENT = "not deployed"


@dataclass(frozen=True, slots=True)
class Component:
    """A supervised process.

    Attributes:
        name: Its name; also the name of its log.
        model: The model it serves; empty for the gateway.
        health: How it is.
        pid: 0 when it does not run, or not on this machine.
        uptime_s: Seconds since its last start.
        active: Requests it works on now; None where nobody says so.
        reason: Why it does not run; empty when it does.
    """

    name: str
    model: str
    health: Health
    pid: int
    uptime_s: float
    active: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Status:
    """A platform.

    Attributes:
        platform: Its name.
        health: Serving when everything serves; degraded when something does and something does not.
        endpoint: Base URL for clients; empty when nothing is deployed.
        deployed_at: When the last deploy finished; empty when one is unfinished or none was made.
        components: The gateway first, then the meter, then the replicas.
    """

    platform: str
    health: Health
    endpoint: str
    deployed_at: str
    components: tuple[Component, ...]

    def as_dict(self) -> dict[str, Any]:
        """The status as JSON-ready data."""
        return asdict(self)


def status_of(layout: Layout, platform: str) -> Status:
    """The platform's status now."""
    release = read_release(layout.release)
    processes = Supervisor(layout.supervisor_socket).states()
    upstreams = Admin(layout.gateway_admin_socket, timeout_s=2).upstreams() if GATEWAY in processes else []
    proved = proved_by(doubtful(release, processes, upstreams, layout), layout, vllm.generates)
    return status_from(release, processes, upstreams, proved, layout, platform)


def doubtful(release: Release, processes: dict[str, ProcessState], upstreams: list[Upstream], layout: Layout) -> list[str]:
    """The replicas that are so young that the gateway's good word may be about the process before them. Pure."""
    praised = {upstream.address for upstream in upstreams if upstream.healthy}
    names = [name for group in release.replicas.values() for name in group if str(layout.engine_socket(name)) in praised]
    return [name for name in names if name in processes and processes[name].alive and processes[name].uptime_s <= GATEWAY_IS_LATE_S]


def proved_by(names: Iterable[str], layout: Layout, generates: Callable[[Path, float], bool], now_s: Callable[[], float] = time.monotonic) -> frozenset[str]:
    """Those of some replicas that say themselves that they generate; who is not listening yet is refused at once.

    Args:
        names: Whom to ask.
        layout: Where their sockets are.
        generates: Asks a socket, within so many seconds.
        now_s: Time.
    """
    until_s = now_s() + _PROVED_WITHIN_S
    return frozenset(name for name in names if (left_s := until_s - now_s()) > 0 and generates(layout.engine_socket(name), left_s))


def status_from(
    release: Release, processes: dict[str, ProcessState], upstreams: list[Upstream], proved: Collection[str], layout: Layout, platform: str
) -> Status:
    """Put together what the record, the supervisor and the gateway say. Pure.

    Args:
        release: The record.
        processes: What the supervisor says.
        upstreams: What the gateway says.
        proved: Which of the doubtful replicas generate.
        layout: Where the sockets are.
        platform: Its name, when the record has none.
    """
    in_doubt = set(doubtful(release, processes, upstreams, layout)).difference(proved)
    by_address = {upstream.address: upstream for upstream in upstreams}
    components = []
    if GATEWAY in release.processes:
        components.append(
            _component(
                GATEWAY, "", processes.get(GATEWAY), None, sum(upstream.active for upstream in upstreams if not upstream.waiting), serves=bool(upstreams)
            )
        )
    if METER in release.processes:
        components.append(_component(METER, "", processes.get(METER), None, 0, serves=True))
    for model, replicas in release.replicas.items():
        for replica in replicas:
            upstream = by_address.get(str(layout.engine_socket(replica)))
            serves = upstream is not None and upstream.healthy and replica not in in_doubt
            component = _component(replica, model, processes.get(replica), upstream, upstream.active if upstream else 0, serves=serves)
            since = release.maintenance.get(replica)
            # While it still finishes requests it is draining.
            if since and component.health is Health.STOPPED:
                component = replace(component, health=Health.MAINTENANCE, reason=f"taken out {since}")
            components.append(component)
    return Status(
        platform=release.platform or platform,
        health=overall(components),
        endpoint=release.endpoint,
        deployed_at=release.deployed_at,
        components=tuple(components),
    )


def _component(name: str, model: str, process: ProcessState | None, upstream: Upstream | None, active: int, *, serves: bool) -> Component:
    if process is None or process.state in {"STOPPED", "STOPPING", "EXITED", "FATAL"}:
        health = Health.STOPPED
    elif process.state == "BACKOFF":
        health = Health.RESTARTING
    elif upstream is not None and upstream.draining:
        health = Health.DRAINING
    else:
        health = Health.SERVING if serves else Health.STARTING
    return Component(
        name=name,
        model=model,
        health=health,
        pid=process.pid if process else 0,
        uptime_s=process.uptime_s if process else 0.0,
        active=active,
        reason=process.reason if process and health in {Health.STOPPED, Health.RESTARTING} else "",
    )


def overall(components: list[Component], is_gateway: Callable[[Component], bool] = lambda component: component.name == GATEWAY) -> Health:
    """The health of a platform from that of its parts. Pure.

    Args:
        components: All of them.
        is_gateway: Tells the gateway, or one of several.
    """
    if not components:
        return Health.ABSENT
    healths = [component.health for component in components]
    led_in = any(component.health is Health.SERVING for component in components if is_gateway(component))
    if led_in and any(component.health is Health.SERVING for component in components if component.model):
        return Health.SERVING if all(health is Health.SERVING for health in healths) else Health.DEGRADED
    if all(health in {Health.STOPPED, Health.MAINTENANCE} for health in healths):
        return Health.STOPPED
    return Health.STARTING if any(health is Health.STARTING for health in healths) else Health.DEGRADED
