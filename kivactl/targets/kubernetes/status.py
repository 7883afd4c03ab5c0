"""How a platform in a cluster is: its pods, as the API server knows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kivactl.targets.kubernetes.record import Record, read_record
from kivactl.targets.kubernetes.seen import at_once
from kivactl.targets.kubernetes.trouble import Where
from kivactl.targets.kubernetes.troubles import trouble_of
from kivactl.targets.kubernetes.waiting import is_ready
from kivactl.targets.status import Component, Health, Status, overall
from kivactl.tools.kube import Cluster
from kivactl.tools.kube_objects import Event

Json = Mapping[str, Any]

COMPONENT, PLATFORM, MODEL = "app.kubernetes.io/component", "kiva/platform", "kiva/model"
"""Labels that the charts give every pod."""

_GATEWAY, _ENGINE = "gateway", "engine"


@dataclass(frozen=True, slots=True)
class Pods:
    """What was seen of a platform's pods, in one moment.

    Attributes:
        pods: Of gateway and engines.
        events: What was said about pods, the newest last.
        workloads: Deployments and the like, for models that have no pod.
    """

    pods: Sequence[Json]
    events: Sequence[Event]
    workloads: Sequence[Json]


def status_of(cluster: Cluster, platform: str) -> Status:
    """The platform's status now.

    Raises:
        KivaError: The cluster does not answer.
    """
    selector = f"{PLATFORM}={platform}"
    kinds = at_once(lambda kind: cluster.list(kind, selector).items, ("Pod", "Deployment"))
    seen = Pods(kinds[0], cluster.events("Pod"), kinds[1])
    return status_from(seen, read_record(cluster, platform), Where(cluster.context, cluster.namespace), platform, datetime.now(UTC))


def status_from(seen: Pods, record: Record, where: Where, platform: str, now: datetime) -> Status:
    """Put together what the API server says. Pure.

    Args:
        seen: The pods.
        record: What was deployed.
        where: For the commands that reasons recommend.
        platform: Its name.
        now: For how long pods run.
    """
    by_kind = {kind: sorted((pod for pod in seen.pods if _label(pod, COMPONENT) == kind), key=_name) for kind in (_GATEWAY, _ENGINE)}
    components = [_component(pod, seen.events, where, now) for kind in (_GATEWAY, _ENGINE) for pod in by_kind[kind]]
    components += _without_pods(seen.workloads, by_kind, record)
    return Status(
        platform=platform,
        health=Health.STOPPED if record.stopped_at and not any(by_kind.values()) else overall(components, is_gateway=lambda one: not one.model),
        endpoint=record.endpoint,
        deployed_at=record.last.at if record.last and record.unfinished is None else "",
        components=tuple(components),
    )


def _component(pod: Json, events: Sequence[Event], where: Where, now: datetime) -> Component:
    trouble = None if is_ready(dict(pod)) else trouble_of(dict(pod), [event for event in events if event.name == _name(pod)], where)
    if pod["metadata"].get("deletionTimestamp"):
        health = Health.DRAINING
    elif is_ready(dict(pod)):
        health = Health.SERVING
    else:
        health = Health.RESTARTING if trouble is not None else Health.STARTING
    return Component(
        name=_name(pod),
        model=_label(pod, MODEL) if _label(pod, COMPONENT) == _ENGINE else "",
        health=health,
        pid=0,
        uptime_s=_age_s(pod, now),
        active=None,
        reason=trouble.sentence if trouble is not None and health is Health.RESTARTING else "",
    )


def _without_pods(workloads: Iterable[Json], by_kind: Mapping[str, Sequence[Json]], record: Record) -> list[Component]:
    """Deployments that should have pods and have none: stopped, or scaled to zero until somebody asks."""
    components = []
    for workload in sorted(workloads, key=_name):
        kind = _label(workload, COMPONENT)
        instance = _label(workload, "app.kubernetes.io/instance")
        if kind not in by_kind or any(_label(pod, "app.kubernetes.io/instance") == instance for pod in by_kind[kind]):
            continue
        wanted = int((workload.get("spec") or {}).get("replicas", 1) or 0)
        reason = "" if record.stopped_at else ("no pod was made: kubectl describe says why" if wanted else "no replicas are wanted")
        model = _label(workload, MODEL) if kind == _ENGINE else ""
        health = Health.STOPPED if record.stopped_at or not wanted else Health.STARTING
        components.append(Component(_name(workload), model, health, 0, 0.0, None, reason))
    return components


def _name(thing: Json) -> str:
    return str(thing["metadata"]["name"])


def _label(thing: Json, key: str) -> str:
    return str((thing["metadata"].get("labels") or {}).get(key, ""))


def _age_s(pod: Json, now: datetime) -> float:
    try:
        started = datetime.fromisoformat(str((pod.get("status") or {}).get("startTime", "")))
    except ValueError:
        return 0.0
    return max(0.0, (now - started).total_seconds())
