"""Follows releases until their pods are as they should be, or until it is clear that they will not be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kivactl.errors import KivaError, NotReadyError
from kivactl.plan import Outcome, Status
from kivactl.stack.engine import parse_phase
from kivactl.targets.kubernetes.capacity import INSTANCE
from kivactl.targets.kubernetes.creation import trouble_of_workload
from kivactl.targets.kubernetes.manifests import Key, key_of, kind_of
from kivactl.targets.kubernetes.seen import at_once
from kivactl.targets.kubernetes.trouble import Logs, Trouble, Where
from kivactl.targets.kubernetes.troubles import trouble_of
from kivactl.targets.kubernetes.waiting import ending, is_ready, newest_first, progress_of, ready_within_s, spoken
from kivactl.tools.clock import Clock
from kivactl.tools.kube import Cluster
from kivactl.tools.kube_errors import Missing, Unreachable
from kivactl.tools.kube_objects import Event

Json = dict[str, Any]

EVERY_S = 2.0
_LOGS_EVERY = 2
"""Looks between two readings of logs and events."""

_HOPELESS_S = 10.0
"""Seconds that a trouble must stand which waiting will not mend: an image that was pushed a moment ago may be there at the next try."""

_PATIENCE_S = 300.0
"""Seconds for a trouble that others may mend: an autoscaler that adds a node, a volume that is being made."""

_PULLING_S = 900.0
"""Seconds for fetching an image and mounting a volume, on top of the time that the engine itself has."""

_TAIL = 200
_READ = 8
"""Pods whose logs are read in one look."""

_SILENCE_S = 300.0
"""Seconds that the API server may be gone meanwhile: what it was told to do goes on without us."""


@dataclass(slots=True)
class Followed:
    """A release that is being followed.

    Attributes:
        name: Of the release.
        step: Of the rollout.
        keys: Its workloads.
        budget_s: Seconds in which something must have come further.
        began_s: When it began, by the clock.
        moved_s: When it came further last.
        words: How far it is, in words.
        told: What was told last.
        trouble: What stands in its way.
        since_s: Since when.
    """

    name: str
    step: str
    keys: Sequence[Key]
    budget_s: float
    began_s: float
    moved_s: float = 0.0
    words: str = ""
    told: str = ""
    trouble: Trouble | None = None
    since_s: float = 0.0

    def __post_init__(self) -> None:
        self.moved_s = self.began_s


class Follower:
    """Looks at all followed releases together: a few questions each time, however many there are.

    Args:
        cluster: The cluster.
        clock: Time.
    """

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self.cluster = cluster
        self.clock = clock
        self.where = Where(cluster.context, cluster.namespace, cluster.flags)
        self.ready_s: dict[str, float] = {}
        self._looks = 0
        self._answered_s = clock.now_s()

    def look(self, followed: Iterable[Followed]) -> Iterator[tuple[Followed, Outcome | KivaError | None]]:
        """One look.

        Yields:
            A release with the outcome that it is done, with the error that it will not be, or with its progress; None when nothing is new.

        Raises:
            Unreachable: The API server has been gone for too long.
            KivaError: We may not look.
        """
        followed = list(followed)
        try:
            objects, pods = self._asked(followed)
        except Unreachable as error:
            if self.clock.now_s() - self._answered_s > _SILENCE_S:
                raise
            for one in followed:
                one.moved_s = max(one.moved_s, self._answered_s)
                yield one, Outcome(one.step, Status.PROGRESS, f"{error.message}; what was begun goes on meanwhile", self.clock.now_s() - one.began_s)
            return
        self._answered_s = self.clock.now_s()
        self._looks += 1
        late = self._looks % _LOGS_EVERY == 0
        events = self._events() if late and any(not all(progress_of(objects[key]).done for key in one.keys if key in objects) for one in followed) else None
        for one in followed:
            yield one, self._judged(one, objects, pods.get(one.name, []), events)

    def _judged(self, one: Followed, objects: Mapping[Key, Json], pods: list[Json], events: Sequence[Event] | None) -> Outcome | KivaError | None:
        now_s = self.clock.now_s()
        elapsed_s = now_s - one.began_s
        states = [progress_of(objects[key]) for key in one.keys if key in objects]
        if len(states) == len(one.keys) and all(state.done for state in states):
            self._measure(one.name, pods)
            return Outcome(one.step, Status.DONE, ", ".join(map(str, states)) or "in place", elapsed_s)
        words = ", ".join(map(str, states)) or "its pods are being made"
        if words != one.words:
            one.words, one.moved_s = words, now_s
        if events is not None:
            self._diagnose(one, objects, pods, events, now_s)
        doing = one.trouble.sentence if one.trouble else self._phase(pods) if events is not None else ""
        fault = self._given_up(one, now_s)
        if fault is not None:
            return fault
        told = f"{words}: {doing}" if doing else words
        if told == one.told or (not doing and one.told.startswith(words)):
            return None
        one.told = told
        return Outcome(one.step, Status.PROGRESS, told, elapsed_s)

    def _given_up(self, one: Followed, now_s: float) -> KivaError | None:
        trouble = one.trouble
        if trouble is not None and now_s - one.since_s >= (_HOPELESS_S if trouble.hopeless else _PATIENCE_S):
            return error_for(one, trouble)
        if now_s - one.moved_s < one.budget_s + _PULLING_S:
            return None
        if trouble is not None:
            return error_for(one, trouble)
        sentence = f"{one.step} did not become ready within {round(now_s - one.began_s)} s: {one.told or 'nothing moved'}"
        return NotReadyError(sentence, self.where.command(f"get pods -l {INSTANCE}={one.name}"))

    def _diagnose(self, one: Followed, objects: Mapping[Key, Json], pods: list[Json], events: Sequence[Event], now_s: float) -> None:
        found = self._trouble(one, objects, pods, events)
        same = found is not None and one.trouble is not None and found.cause is one.trouble.cause
        one.trouble = found
        if not same:
            one.since_s = now_s

    def _trouble(self, one: Followed, objects: Mapping[Key, Json], pods: list[Json], events: Sequence[Event]) -> Trouble | None:
        for pod in newest_first([pod for pod in pods if not is_ready(pod) and not ending(pod)])[:_READ]:
            name = str(pod["metadata"]["name"])
            found = trouble_of(pod, [event for event in events if event.kind == "Pod" and event.name == name], self.where, logs_of(self.cluster, pod))
            if found is not None:
                return found
        for key in one.keys:
            if key in objects:
                about = [event for event in events if event.name == key[1] or (event.kind == "ReplicaSet" and event.name.startswith(f"{key[1]}-"))]
                if found := trouble_of_workload(objects[key], about, self.where):
                    return found
        return None

    def _phase(self, pods: list[Json]) -> str:
        starting = newest_first([pod for pod in pods if not is_ready(pod) and not ending(pod)])
        if not starting:
            return ""
        lines = [line for logs in logs_of(self.cluster, starting[0]).values() for line in logs.now]
        if lines:
            return parse_phase("\n".join(lines))
        return "fetching its image or mounting its volume" if (starting[0].get("spec") or {}).get("nodeName") else "waiting for a node"

    def _asked(self, followed: Sequence[Followed]) -> tuple[dict[Key, Json], dict[str, list[Json]]]:
        kinds = sorted({key[0] for one in followed for key in one.keys} | {"Pod"})
        found = at_once(self._listed, kinds)
        objects = {key_of(one): one for group in found for one in group if one.get("kind") != "Pod"}
        pods: dict[str, list[Json]] = {}
        for group in found:
            for one in group:
                # The pod of a Job that is through stays there, and has nothing to do with those that serve.
                if kind_of(key_of(one)) == "Pod" and (one.get("status") or {}).get("phase") != "Succeeded":
                    pods.setdefault(str((one["metadata"].get("labels") or {}).get(INSTANCE, "")), []).append(one)
        return objects, pods

    def _listed(self, kind: str) -> list[Json]:
        try:
            return list(self.cluster.list(kind).items)
        except Missing:
            return []

    def _events(self) -> Sequence[Event]:
        try:
            return self.cluster.events()
        except KivaError:
            return ()

    def _measure(self, name: str, pods: Sequence[Json]) -> None:
        for _ in range(2):
            times = [time for pod in newest_first(pods)[:1] if (time := ready_within_s(pod)) is not None]
            if times:
                self.ready_s[name] = times[0]
                return
            pods = self._of(name)  # they were listed a moment before the workload that says they are ready

    def _of(self, name: str) -> Sequence[Json]:
        try:
            return self.cluster.list("Pod", f"{INSTANCE}={name}").items
        except KivaError:
            return ()


def logs_of(cluster: Cluster, pod: Json) -> dict[str, Logs]:
    """The last lines of each container of a pod that has begun; those that cannot be read are as good as none."""

    def lines(container: str, *, previous: bool) -> tuple[str, ...]:
        try:
            return cluster.logs(name, container, tail=_TAIL, previous=previous)
        except KivaError:
            return ()

    name = str(pod["metadata"]["name"])
    restarted = {str(one.get("name")) for one in (pod.get("status") or {}).get("containerStatuses") or () if one.get("restartCount")}
    return {one: Logs(lines(one, previous=False), lines(one, previous=True) if one in restarted else ()) for one in spoken(pod)}


def error_for(one: Followed, trouble: Trouble) -> KivaError:
    """The error that ends a rollout: its sentence, its hint, the lines that say so."""
    return NotReadyError(f"{one.step}: {trouble.sentence}", trouble.hint, trouble.details)


def until_ready(follower: Follower, followed: Sequence[Followed], check: Callable[[], None] = lambda: None) -> Iterator[Outcome]:
    """Follow some releases to their end; the first that will not be ready ends it.

    Raises:
        KivaError: One will not be ready.
    """
    left = list(followed)
    while left:
        check()
        for one, found in list(follower.look(left)):
            if isinstance(found, KivaError):
                raise found
            if found is not None:
                yield found
                if found.status is Status.DONE:
                    left.remove(one)
        if left:
            follower.clock.sleep(EVERY_S)
