"""How a platform in a cluster is: its pods, as the API server knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kivactl.targets.kubernetes.capacity import INSTANCE
from kivactl.targets.kubernetes.creation import trouble_of_workload
from kivactl.targets.kubernetes.following import logs_of
from kivactl.targets.kubernetes.record import Record, read_record
from kivactl.targets.kubernetes.seen import at_once
from kivactl.targets.kubernetes.trouble import Logs, Where
from kivactl.targets.kubernetes.troubles import trouble_of
from kivactl.targets.kubernetes.waiting import ending, is_ready
from kivactl.targets.status import Component, Health, Status, overall
from kivactl.tools.kube import Cluster
from kivactl.tools.kube_objects import Event

Json = Mapping[str, Any]

COMPONENT, PLATFORM, MODEL = "app.kubernetes.io/component", "kiva/platform", "kiva/model"
"""Labels that the charts give every pod."""

_GATEWAY, _ENGINE, _PRELOAD = "gateway", "engine", "preload"


_READ = 8
"""Pods whose logs are read, at most."""


@dataclass(frozen=True, slots=True)
class Pods:
    """What was seen of a platform's pods, in one moment.

    Attributes:
        pods: Of gateway, engines, and the jobs that fetch models.
        events: What was said about them and what makes them, the newest last.
        workloads: Deployments and the like, for models that have no pod.
        logs: The last lines of pods that are not ready, by pod and container.
    """

    pods: Sequence[Json]
    events: Sequence[Event]
    workloads: Sequence[Json]
    logs: Mapping[str, Mapping[str, Logs]] = field(default_factory=dict)


def selector_of(platform: str) -> str:
    """What selects a platform's pods, and what makes them."""
    return f"{PLATFORM}={platform}"


def status_of(cluster: Cluster, platform: str) -> Status:
    """The platform's status now.

    Raises:
        KivaError: The cluster does not answer.
    """
    selector = selector_of(platform)
    kinds = at_once(lambda kind: cluster.list(kind, selector).items, ("Pod", "Deployment"))
    late = [pod for pod in kinds[0] if not is_ready(pod) and not ending(pod)]
    logs = at_once(lambda pod: logs_of(cluster, pod), late[:_READ])
    seen = Pods(kinds[0], cluster.events(), kinds[1], dict(zip(map(_name, late), logs, strict=False)))
    return status_from(seen, read_record(cluster, platform), Where(cluster.context, cluster.namespace, cluster.flags), platform, datetime.now(UTC))


def status_from(seen: Pods, record: Record, where: Where, platform: str, now: datetime) -> Status:
    """Put together what the API server says. Pure.

    Args:
        seen: The pods.
        record: What was deployed.
        where: For the commands that reasons recommend.
        platform: Its name.
        now: For how long pods run.
    """
    by_kind = {kind: sorted((pod for pod in seen.pods if label(pod, COMPONENT) == kind), key=_name) for kind in (_GATEWAY, _ENGINE)}
    fetching = {label(pod, INSTANCE): found for pod in seen.pods if label(pod, COMPONENT) == _PRELOAD and (found := _trouble(pod, seen, where))}
    components = [_component(pod, seen, fetching, where, now) for kind in (_GATEWAY, _ENGINE) for pod in by_kind[kind]]
    components += _without_pods(seen, by_kind, record, where)
    return Status(
        platform=platform,
        health=Health.STOPPED if record.stopped_at and not any(by_kind.values()) else overall(components, is_gateway=lambda one: not one.model),
        endpoint=record.endpoint,
        deployed_at=record.last.at if record.last and record.unfinished is None else "",
        components=tuple(components),
    )


def _component(pod: Json, seen: Pods, fetching: Mapping[str, str], where: Where, now: datetime) -> Component:
    health, reason = health_of(pod), ""
    if health in {Health.RESTARTING, Health.STARTING}:
        reason = _trouble(pod, seen, where) or fetching.get(label(pod, INSTANCE), "")
    model = label(pod, MODEL) if label(pod, COMPONENT) == _ENGINE else ""
    return Component(_name(pod), model, health, pid=0, uptime_s=_age_s(pod, now), active=None, reason=reason)


def health_of(pod: Json) -> Health:
    """How a pod is."""
    if ending(pod):
        return Health.DRAINING
    if is_ready(pod):
        return Health.SERVING
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return Health.RESTARTING if any(one.get("restartCount") for one in statuses) else Health.STARTING


def _trouble(pod: Json, seen: Pods, where: Where) -> str:
    """Why a pod does not come up; empty when nothing shows."""
    about = [event for event in seen.events if event.kind == "Pod" and event.name == _name(pod)]
    found = trouble_of(dict(pod), about, where, seen.logs.get(_name(pod)))
    return found.sentence.removeprefix(f"pod {_name(pod)}: ") if found is not None else ""


def _without_pods(seen: Pods, by_kind: Mapping[str, Sequence[Json]], record: Record, where: Where) -> list[Component]:
    """Deployments that should have pods and have none: stopped, or scaled to zero until somebody asks."""
    components = []
    for workload in sorted(seen.workloads, key=_name):
        kind = label(workload, COMPONENT)
        if kind not in by_kind or any(label(pod, INSTANCE) == label(workload, INSTANCE) for pod in by_kind[kind]):
            continue
        wanted = int((workload.get("spec") or {}).get("replicas", 1) or 0)
        stopped = bool(record.stopped_at) or not wanted
        reason = "" if record.stopped_at else _uncreated(workload, seen.events, where) if wanted else "no replicas are wanted"
        model = label(workload, MODEL) if kind == _ENGINE else ""
        components.append(Component(_name(workload), model, Health.STOPPED if stopped else Health.STARTING, 0, 0.0, None, reason))
    return components


def _uncreated(workload: Json, events: Sequence[Event], where: Where) -> str:
    name = _name(workload)
    about = [event for event in events if event.name == name or (event.kind == "ReplicaSet" and event.name.startswith(f"{name}-"))]
    found = trouble_of_workload(workload, about, where)
    return found.sentence if found is not None else "no pod is there yet"


def _name(thing: Json) -> str:
    return str(thing["metadata"]["name"])


def label(thing: Json, key: str) -> str:
    """A label of an object; empty when it has none."""
    return str((thing["metadata"].get("labels") or {}).get(key, ""))


def _age_s(pod: Json, now: datetime) -> float:
    try:
        started = datetime.fromisoformat(str((pod.get("status") or {}).get("startTime", "")))
    except ValueError:
        return 0.0
    return max(0.0, (now - started).total_seconds())
