"""When something is wrong: a full disk, an engine without memory, a GPU that fails, the emergency stop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from pydantic import Field

from kivactl.errors import PreconditionError
from kivactl.flows import cluster, health, reclaim, troubles
from kivactl.plan import Outcome
from kivactl.runbooks.actions.action import ANYWHERE, CLUSTER, Action, Kind, NoParams, Params, Probe, Site
from kivactl.spec.fields import PositiveBytes, PositiveDuration
from kivactl.targets.processes import known_replica


class DiskParams(Params):
    """Which disk: of the state folder, of the models' cache, of the backups when they lie on this machine; or the fullest of them."""

    of: Literal["state", "cache", "backup", "all"] = "all"


class ReclaimParams(Params):
    """On which disk how much has to be free, and whether prepared models may go that this platform does not use."""

    of: Literal["state", "cache", "backup"] = "state"
    wanted: PositiveBytes
    models: bool = False


class ReserveParams(Params):
    """How much to put aside."""

    size: PositiveBytes


class ReplicaParams(Params):
    """Which replica."""

    replica: str = Field(min_length=1)


class StartsParams(ReplicaParams):
    """Which replica, and since when to count."""

    within: PositiveDuration = 3600.0


class GpuParams(Params):
    """Whose GPUs; all of the machine when absent."""

    replica: str | None = None


def _handed_on(outcomes: Iterator[Outcome], *names: str) -> Iterator[Outcome]:
    """Outcomes; the facts of the last one become the step's results."""
    for outcome in outcomes:
        told = {name: outcome.data[name] for name in names if name in outcome.data}
        yield replace(outcome, data={**outcome.data, "result": told}) if len(told) == len(names) else outcome


def _reclaim(site: Site, params: ReclaimParams) -> Iterator[Outcome]:
    disk = health.disk_of(site.deployment, params.of)
    if disk is None:
        raise PreconditionError("the backups do not lie on this machine", "remove old ones: kivactl backup list")
    return _handed_on(reclaim.reclaim(site.deployment, disk, params.wanted, models=params.models), "freed_bytes", "free_bytes")


def _removable(site: Site, _: NoParams) -> int:
    return sum(one.size_bytes for one in reclaim.removable(site.deployment))


def _starts(site: Site, params: StartsParams) -> int:
    layout = site.deployment.layout
    known_replica(layout, params.replica)
    since_s = time.time() - params.within
    return sum(start.at_s >= since_s for start in troubles.starts_of(layout, params.replica))


ACTIONS: Mapping[str, Action] = {
    "disk.reclaim": Action(
        ReclaimParams,
        _reclaim,
        "Removes old logs, old load tests, remains and caches, the oldest first, until enough is free.",
        destructive=True,
        results={"freed_bytes": 1, "free_bytes": 1},
    ),
    "disk.reserve": Action(
        ReserveParams, lambda site, params: reclaim.keep_reserve(site.deployment.layout, params.size), "Puts room aside for the next full disk."
    ),
    "volumes.diagnose": Action(
        NoParams,
        lambda site, _: cluster.volumes_told(site.deployment),
        "Tells how full the volumes of a platform in a cluster are.",
        results={"fullest": "kiva-gateway-ledger: 12MiB of 10GiB free", "claim": "kiva-gateway-ledger"},
        targets=CLUSTER,
    ),
    "engine.diagnose": Action(
        ReplicaParams,
        lambda site, params: _handed_on(troubles.diagnose(site.deployment, params.replica), "cause", "advice"),
        "Finds out what ended a replica last, from its log, the supervisor and the kernel, in a cluster from the kubelet.",
        results={"cause": "killed by the kernel for want of memory", "advice": "a smaller `kv_cache` in kiva.yaml"},
        targets=ANYWHERE,
    ),
    "gpu.diagnose": Action(
        ReplicaParams,
        lambda site, params: _handed_on(troubles.diagnose_gpus(site.deployment, params.replica), "gpus", "faults", "remedy", "node"),
        "Tells what is wrong with the GPUs of a replica, and what helps.",
        results={"gpus": "0", "faults": "GPU 0: Xid 79", "remedy": "reboot", "node": "gpu-1"},
        targets=ANYWHERE,
    ),
    "platform.kill": Action(
        NoParams,
        lambda site, _: troubles.kill(site.deployment),
        "Ends every process of the platform at once; requests are cut off.",
        destructive=True,
        targets=ANYWHERE,
    ),
}
PROBES: Mapping[str, Probe] = {
    "disk.free": Probe(
        DiskParams,
        lambda site, params: health.disk_free_bytes(site.deployment, params.of),
        Kind.BYTES,
        "What is free on a disk of the platform.",
        targets=ANYWHERE,
    ),
    "disk.removable": Probe(NoParams, _removable, Kind.BYTES, "What `disk.reclaim` could remove, without models."),
    "volumes.free": Probe(
        NoParams,
        lambda site, _: min((one.free_bytes for one in cluster.volumes(site.deployment)), default=None),
        Kind.BYTES,
        "What is free on the fullest volume of a platform in a cluster.",
        targets=CLUSTER,
    ),
    "gpu.faults": Probe(
        GpuParams, lambda site, params: troubles.faults_now(site.deployment, params.replica), Kind.LIST, "What is wrong with GPUs; empty where there are none."
    ),
    "replica.gpus": Probe(
        ReplicaParams,
        lambda site, params: troubles.gpu_count(site.deployment, params.replica),
        Kind.NUMBER,
        "How many GPUs a replica computes on.",
        targets=ANYWHERE,
    ),
    "replica.starts": Probe(StartsParams, _starts, Kind.NUMBER, "How often a replica was started lately, as far as the supervisor's log reaches."),
    "replica.uptime": Probe(
        ReplicaParams,
        lambda site, params: troubles.uptime_s(site.deployment, params.replica),
        Kind.SECONDS,
        "Time since a replica's last start; 0 when it does not run. In a cluster since it serves: the pod, or what took its place.",
        targets=ANYWHERE,
    ),
}
