"""How far a workload is with exchanging its pods, and what its pods do meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from kivactl.targets.kubernetes.manifests import replicas_of

Json = Mapping[str, Any]

_Pod = TypeVar("_Pod", bound=Json)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a workload is.

    Attributes:
        ready: Replicas as they should be that answer.
        wanted: Replicas that there should be.
        old: Replicas of before that are still there.
        done: Whether it is as it should be.
    """

    ready: int
    wanted: int
    old: int = 0
    done: bool = False

    def __str__(self) -> str:
        rest = f", {self.old} of before" if self.old else ""
        return f"{self.ready} of {self.wanted} ready{rest}"


def progress_of(workload: Json) -> Progress:
    """How far a Deployment, StatefulSet or LeaderWorkerSet is; what its controller has not seen yet is not done."""
    spec, status, meta = workload.get("spec") or {}, workload.get("status") or {}, workload.get("metadata") or {}
    wanted = replicas_of(workload)
    # Older LeaderWorkerSets do not say what they have seen.
    told = "observedGeneration" in status or not spec.get("leaderWorkerTemplate")
    current = int(status.get("observedGeneration") or 0) >= int(meta.get("generation") or 0) if told else bool(status)
    updated = int(status.get("updatedReplicas") or 0)
    total = int(status.get("replicas") or 0)
    counted = "readyReplicas" if spec.get("leaderWorkerTemplate") or "availableReplicas" not in status else "availableReplicas"
    available = int(status.get(counted) or 0)
    if not current:
        return Progress(0, wanted, total)
    old = max(0, total - updated)
    return Progress(min(updated, max(0, available - old)), wanted, old, updated >= wanted and old == 0 and available >= wanted and total <= wanted)


def is_ready(pod: Json) -> bool:
    """Whether a pod gets requests."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions) and not ending(pod)


def ending(pod: Json) -> bool:
    """Whether a pod is being ended."""
    return bool((pod.get("metadata") or {}).get("deletionTimestamp"))


def newest_first(pods: Sequence[_Pod]) -> list[_Pod]:
    """Pods by their age."""
    return sorted(pods, key=lambda pod: str((pod.get("metadata") or {}).get("creationTimestamp") or ""), reverse=True)


def ready_within_s(pod: Json) -> float | None:
    """Seconds that a pod took from its start until it was ready; None when it is not, or was started anew in between."""
    status = pod.get("status") or {}
    if any(int(one.get("restartCount") or 0) for one in status.get("containerStatuses") or ()):
        return None
    ready = next((one.get("lastTransitionTime") for one in status.get("conditions") or () if one.get("type") == "Ready" and one.get("status") == "True"), None)
    try:
        return max(0.0, (_moment(str(ready)) - _moment(str(status.get("startTime")))).total_seconds())
    except ValueError:
        return None


def spoken(pod: Json) -> list[str]:
    """Names of the containers whose log has something to say."""
    status = pod.get("status") or {}
    found = []
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = one.get("state") or {}
        if state.get("running") or state.get("terminated") or one.get("restartCount"):
            found.append(str(one.get("name")))
    return found


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
