"""Faults on purpose, for drills: what a crash and a hang do to a part of the platform, and the way back.

A fault is only injected where something serves: a step that was cut off and is done again waits until the platform has healed, and
breaks it anew. None of these takes the platform's lock; the runbook holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kivactl.errors import NotReadyError, PreconditionError
from kivactl.flows.deployment import Deployment
from kivactl.plan import Outcome, Status
from kivactl.targets.breaking import Breaking, Part
from kivactl.targets.status import Health

_HEALED_WITHIN_S = 900.0
_AWAY = {Health.STOPPED, Health.DRAINING, Health.MAINTENANCE}


def victim(deployment: Deployment, replica: str | None) -> str:
    """The replica that a drill is about: the one given, else the first of the spec's first model.

    Raises:
        UsageError: There is no such replica.
        PreconditionError: Nothing is deployed.
    """
    return deployment.target.breaking.victim(replica, deployment.platform.models[0].name)


def meant(deployment: Deployment, replica: str | None) -> str:
    """What is to be repaired after a drill, whatever is left of its victim."""
    return deployment.target.breaking.meant(replica, deployment.platform.models[0].name)


def gateway(deployment: Deployment) -> str:
    """The part that a drill with the gateway is about.

    Raises:
        PreconditionError: Nothing is deployed.
    """
    return deployment.target.breaking.gateway()


def part_of(deployment: Deployment, name: str) -> Part | None:
    """A part as it is now; None when there is none of that name."""
    return _named(deployment.target.breaking, name)


def model_of(deployment: Deployment, replica: str) -> str:
    """The model of a replica; the first one where nobody knows it any more."""
    return deployment.target.breaking.model(replica) or deployment.platform.models[0].name


def serving_beside(deployment: Deployment, replica: str | None) -> int:
    """How many other replicas of the same model serve.

    Raises:
        UsageError: There is no such replica.
        PreconditionError: Nothing is deployed.
    """
    name = victim(deployment, replica)
    parts = deployment.target.breaking.parts()
    model = next((one.model for one in parts if one.name == name), "")
    return sum(one.model == model and one.name != name and one.health is Health.SERVING for one in parts)


def is_restored(deployment: Deployment, name: str, process: str) -> bool:
    """Whether a part, or what took its place, serves by another process than the one that was broken."""
    mates = deployment.target.breaking.mates(name)
    return _all_serve(mates) and all(one.process != process for one in mates)


def uptime_s(deployment: Deployment, name: str) -> float:
    """Seconds since the last start of a part, or of what took its place; 0 when it does not serve."""
    mates = deployment.target.breaking.mates(name)
    return min(one.uptime_s for one in mates) if _all_serve(mates) else 0.0


def kill(deployment: Deployment, name: str) -> Iterator[Outcome]:
    """Kill a part without warning, as a crash does.

    Yields:
        At last the moment, and component and process as results.

    Raises:
        PreconditionError: It is stopped, or not deployed.
        NotReadyError: It does not serve in time.
        KivaError: It cannot be reached.
    """
    breaking = deployment.target.breaking
    yield from _broken(deployment, breaking, name, breaking.kill, "killing")


def hang(deployment: Deployment, name: str) -> Iterator[Outcome]:
    """Stop a part: it lives, holds its connections, and does nothing any more. As `kill` otherwise."""
    breaking = deployment.target.breaking
    yield from _broken(deployment, breaking, name, breaking.hang, "stopping")


def repair(deployment: Deployment, name: str, within_s: float) -> Iterator[Outcome]:
    """The way back from either fault: wake what was stopped, start what has ended for good, and wait until it serves.

    What serves is left as it is.

    Raises:
        NotReadyError: It does not serve in time.
        PreconditionError: It is not deployed.
    """
    clock, breaking, started_s = deployment.clock, deployment.target.breaking, deployment.clock.now_s()
    yield Outcome(name, Status.STARTED, "bringing it back")
    if not breaking.mates(name):
        raise PreconditionError(f"'{name}' is not deployed", "kivactl status")
    breaking.wake(name)
    for elapsed_s in clock.ticks(within_s, every_s=0.2):
        mates = breaking.mates(name)
        if _all_serve(mates):
            break
        for one in mates:
            if one.health is Health.STOPPED:
                breaking.revive(one)
        if elapsed_s >= within_s:
            raise NotReadyError(f"'{name}' does not serve within {within_s:g} s", f"kivactl logs {name}")
    yield Outcome(name, Status.DONE, "serves", clock.now_s() - started_s)


def _broken(deployment: Deployment, breaking: Breaking, name: str, act: Callable[[Part], str], doing: str) -> Iterator[Outcome]:
    part = _serving(deployment, breaking, name)
    outage = breaking.outage(part)
    yield Outcome(name, Status.STARTED, f"{doing} it{f': {outage}' if outage else ''}")
    at_s = deployment.clock.now_s()
    told = act(part)
    yield Outcome(name, Status.DONE, told, data={"mark": "fault", "at_s": at_s, "result": {"component": name, "process": part.process}})


def _serving(deployment: Deployment, breaking: Breaking, name: str) -> Part:
    """A part that serves; waits for one that is on its way."""
    hint = f"kivactl status, kivactl logs {name}"
    for _ in deployment.clock.ticks(_HEALED_WITHIN_S):
        part = _named(breaking, name)
        if part is None or part.health in _AWAY:
            raise PreconditionError(f"'{name}' is {part.health if part else 'not deployed'}, so there is nothing to break", hint)
        if part.health is Health.SERVING:
            return part
    raise NotReadyError(f"'{name}' did not serve within {_HEALED_WITHIN_S:g} s, so there was nothing to break", hint)


def _named(breaking: Breaking, name: str) -> Part | None:
    return next((one for one in breaking.parts() if one.name == name), None)


def _all_serve(parts: Sequence[Part]) -> bool:
    return bool(parts) and all(one.health is Health.SERVING for one in parts)
