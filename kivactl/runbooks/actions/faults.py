"""Faults on purpose: a replica or the gateway killed, a replica that hangs; the way back; and whether others hold meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import Field

from kivactl.flows import faults
from kivactl.plan import Outcome
from kivactl.runbooks.actions.action import ANYWHERE, Action, Kind, NoParams, Params, Probe, Site
from kivactl.spec.fields import PositiveDuration
from kivactl.targets.status import GATEWAY


class VictimParams(Params):
    """Which replica."""

    replica: str | None = Field(default=None, description="The first of the spec's first model when absent.", json_schema_extra={"names": "replica"})


class RepairParams(Params):
    """How long to wait."""

    within: PositiveDuration = Field(default=900.0, description="Until it serves.")


class ReplicaRepairParams(RepairParams, VictimParams):
    """Which replica, and how long to wait."""


class ComponentParams(Params):
    """Which component: `gateway`, `meter`, or a replica; in a cluster a pod."""

    component: str


class RestoredParams(ComponentParams):
    """Which component, and what it was before."""

    process: str = Field(description="The process that was broken, as the step that broke it tells.")


def _kill(site: Site, params: VictimParams) -> Iterator[Outcome]:
    return faults.kill(site.deployment, faults.victim(site.deployment, params.replica))


def _hang(site: Site, params: VictimParams) -> Iterator[Outcome]:
    return faults.hang(site.deployment, faults.victim(site.deployment, params.replica))


def _repair(site: Site, params: ReplicaRepairParams) -> Iterator[Outcome]:
    return faults.repair(site.deployment, faults.meant(site.deployment, params.replica), params.within)


def _health(site: Site, params: ComponentParams) -> str | None:
    part = faults.part_of(site.deployment, params.component)
    return part.health.value if part else None


_RESULTS = {"component": "tiny-0", "process": "4711"}

ACTIONS: Mapping[str, Action] = {
    "replica.kill": Action(
        VictimParams,
        _kill,
        "Kills a replica without warning, as a crash does; the platform starts it anew.",
        destructive=True,
        results=_RESULTS,
        targets=ANYWHERE,
    ),
    "replica.hang": Action(
        VictimParams,
        _hang,
        "Lets a replica hang: it lives and does nothing any more, until the platform ends it.",
        destructive=True,
        results=_RESULTS,
        targets=ANYWHERE,
    ),
    "replica.repair": Action(ReplicaRepairParams, _repair, "Brings a replica back that was killed or hangs, and waits until it serves.", targets=ANYWHERE),
    "gateway.kill": Action(
        NoParams,
        lambda site, _: faults.kill(site.deployment, faults.gateway(site.deployment)),
        "Kills the gateway without warning; the platform starts it anew.",
        destructive=True,
        results=_RESULTS,
        targets=ANYWHERE,
    ),
    "gateway.repair": Action(
        RepairParams,
        lambda site, params: faults.repair(site.deployment, GATEWAY, params.within),
        "Brings the gateway back, and waits until it serves.",
        targets=ANYWHERE,
    ),
}
PROBES: Mapping[str, Probe] = {
    "component.health": Probe(
        ComponentParams, _health, Kind.TEXT, "A component's health: serving, draining, starting, maintenance, restarting, stopped.", targets=ANYWHERE
    ),
    "component.restored": Probe(
        RestoredParams,
        lambda site, params: faults.is_restored(site.deployment, params.component, params.process),
        Kind.FLAG,
        "Whether a component serves again, by another process than the one that was broken.",
        targets=ANYWHERE,
    ),
    "replicas.serving-beside": Probe(
        VictimParams,
        lambda site, params: faults.serving_beside(site.deployment, params.replica),
        Kind.NUMBER,
        "How many other replicas of the same model serve.",
        targets=ANYWHERE,
    ),
}
