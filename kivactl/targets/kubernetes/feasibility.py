"""Whether releases fit a cluster, in which way each is exchanged, and what its users notice of it. Pure.

A pod that cannot be placed waits for ever and holds up the rollout. So the way is chosen from what is free: with a pod more
than there should be, where there is room for one; else one pod less; else all at once, and then the outage is told beforehand.
Releases that get into each other's way are exchanged one after the other, in waves. The scheduler is not asked and may place
pods less cleverly than this module; a pod that waits in spite of it is noticed by the rollout.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from kivactl.targets.kubernetes import shortage
from kivactl.targets.kubernetes.capacity import PODS, Amounts, Budget, Capacity, Node, Pod, Toleration
from kivactl.targets.kubernetes.exchange import Exchange, Group, exchanged
from kivactl.targets.kubernetes.packing import Item, Room


class Way(StrEnum):
    """How a release's pods are exchanged; the values are what people read."""

    START = "start"
    SCALE = "scale"
    ROLLING = "rolling"
    ROLLING_WITHOUT_SURGE = "rolling without surge"
    RECREATE = "recreate"
    BLUE_GREEN = "blue-green"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A release as it should be.

    Attributes:
        release: Its name.
        label: What people call it: the model's name, or `gateway`.
        replicas: How many there should be.
        requests: Of one pod.
        pods: Of one replica; more than one where a replica spans nodes.
        selector: Labels that its nodes have.
        tolerations: Taints that do not matter.
        strategy: `auto`, `rolling`, `recreate` or `blue-green`, as the spec says.
        changed: Whether something happens to it; what is unchanged keeps its place.
        same_pods: Whether its pods stay as they are and only their number changes.
        one_node: Whether all its pods must be on one node, as a volume demands that one node at a time may mount.
        start_s: Seconds from a pod's start to its first token.
        measured: Whether that was measured, or is the most it may take.
        stop_s: Seconds until a stopped pod has ended.
        limits: Of one pod, where quotas count them.
    """

    release: str
    label: str
    replicas: int
    requests: Amounts
    pods: int = 1
    selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    strategy: str = "auto"
    changed: bool = True
    same_pods: bool = False
    one_node: bool = False
    start_s: float = 60.0
    measured: bool = False
    stop_s: float = 0.0
    limits: Amounts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """How a release is brought to what it should be.

    Attributes:
        release: Its name.
        way: The way.
        wave: Those of one wave go together, the lowest first.
        surge: Pods more than there should be, meanwhile.
        unavailable: Pods less than there should be, meanwhile.
        disruption: What users notice, in one sentence; empty when they notice nothing.
    """

    release: str
    way: Way
    wave: int = 0
    surge: int = 1
    unavailable: int = 0
    disruption: str = ""


@dataclass(frozen=True, slots=True)
class Feasibility:
    """What came out.

    Attributes:
        decisions: In the order of the waves.
        faults: Why it cannot be done; nothing must be started then.
        notes: Sentences worth reading before saying yes.
        removal_first: Whether releases that are to go must go first, for their place is needed.
    """

    decisions: tuple[Decision, ...] = ()
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    removal_first: bool = False

    def decision(self, release: str) -> Decision | None:
        """That of a release; None when nothing happens to it."""
        return next((one for one in self.decisions if one.release == release), None)


def feasibility_of(capacity: Capacity, wanted: Sequence[Wanted], removed: Collection[str] = ()) -> Feasibility:
    """Find out whether and how releases can be brought to what they should be.

    Args:
        capacity: The cluster.
        wanted: All releases that should be, also those that do not change.
        removed: Names of the releases that are to go.
    """
    changed = [one for one in wanted if one.changed]
    if capacity.nodes is None:
        notes = ("the cluster's nodes may not be read: whether everything fits shows when it starts",) if changed else ()
        blind = tuple(_blind(one, capacity) for one in changed)
        return Feasibility(blind, notes=(*notes, *_budget_notes(capacity, wanted, blind)))
    faults = [fault for one in changed if (fault := shortage.never_fits(one, capacity.nodes, capacity.quotas))]
    if faults:
        return Feasibility(faults=tuple(faults))
    result = _Waves(capacity, changed).run()
    if removed and (result.faults or _outages(result)):
        second = _Waves(_without(capacity, removed), changed).run()
        if not second.faults and (result.faults or (_outages(second) < _outages(result) and not _starts(second))):
            gone = ", ".join(f"'{name}'" for name in sorted(removed))
            result = replace(second, removal_first=True, notes=(f"what goes, goes first, for its place is needed: {gone}",))
    return replace(result, notes=(*result.notes, *_budget_notes(capacity, wanted, result.decisions)))


def eligible(wanted: Wanted, nodes: Sequence[Node]) -> list[Node]:
    """The nodes that a release's pods may be started on."""
    return [node for node in nodes if node.ready and not node.cordoned and shortage.chosen(wanted, node) and not shortage.refusing(wanted, node)]


class _Waves:
    """Puts changed releases into waves, each in the best way that there is room for."""

    def __init__(self, capacity: Capacity, changed: Sequence[Wanted]) -> None:
        self.capacity = capacity
        self.nodes = capacity.nodes or ()
        # Updates first: new releases would take the room in which an old one could be exchanged unnoticed.
        self.changed = sorted(changed, key=lambda one: not self._running(one))
        self.room = self._room()

    def run(self) -> Feasibility:
        """All decisions, or the faults."""
        decisions: list[Decision] = []
        left, wave = list(self.changed), 0
        while left:
            held, settled = self.room.copy(), self.room.copy()
            postponed: list[Wanted] = []
            for one in left:
                alone = self._best(one, self.room)
                together = self._best(one, held)
                if together is None or (alone is not None and alone[0].surge > together[0].surge):
                    postponed.append(one)
                    continue
                decision, exchange = together
                decisions.append(replace(decision, wave=wave))
                settled = settled.with_change(held, exchange.after)
                held = exchange.lowest
            if len(postponed) == len(left):
                return Feasibility(faults=tuple(self._fault(one) for one in left))
            self.room, left, wave = settled, postponed, wave + 1
        return Feasibility(tuple(decisions))

    def _best(self, one: Wanted, room: Room) -> tuple[Decision, Exchange] | None:
        for way in _ways(one, len(self._running(one))):
            surge, unavailable = _bounds(way, one)
            exchange = exchanged(self._group(one), room, surge=surge, unavailable=unavailable)
            if exchange is not None:
                return Decision(one.release, way, surge=surge, unavailable=unavailable, disruption=self._disruption(one, way, room)), exchange
        return None

    def _disruption(self, one: Wanted, way: Way, room: Room) -> str:
        if way not in {Way.ROLLING_WITHOUT_SURGE, Way.RECREATE}:
            return ""
        why = shortage.for_one_more(one, self._item(one), room) if one.strategy in {"auto", "rolling"} else "the spec asks for it"
        return _disruption(one, way, why)

    def _fault(self, one: Wanted) -> str:
        if one.strategy == "blue-green" and any(self._fits(replace(one, strategy=other)) for other in ("auto", "recreate")):
            return f"'{one.label}' cannot be exchanged blue-green: {shortage.for_one_more(one, self._item(one), self.room)}"
        if one.strategy == "rolling" and self._fits(replace(one, strategy="recreate")):
            return f"'{one.label}' cannot be exchanged pod by pod: {shortage.for_one_more(one, self._item(one), self.room)}"
        room = self.room.copy()
        for pod in self._running(one):
            room.give(self._old(one, pod), pod.node)
        return shortage.no_room(one, self._item(one), room)

    def _fits(self, one: Wanted) -> bool:
        return self._best(one, self.room) is not None

    def _group(self, one: Wanted) -> Group:
        running = self._running(one)
        old = tuple((self._old(one, pod), pod.node) for pod in running)
        return Group(self._item(one), one.replicas, one.pods, old, one_node=one.one_node, kept=one.same_pods)

    def _item(self, one: Wanted) -> Item:
        return Item({PODS: 1, **one.requests}, frozenset(node.name for node in eligible(one, self.nodes)), shortage.counted(one.requests, one.limits))

    def _old(self, one: Wanted, pod: Pod) -> Item:
        return Item(pod.requests, frozenset({pod.node}), shortage.counted(pod.requests, one.limits))

    def _running(self, one: Wanted) -> list[Pod]:
        return [pod for pod in self.capacity.pods if pod.release == one.release]

    def _room(self) -> Room:
        free = {node.name: {PODS: 110, **node.allocatable} for node in self.nodes}
        for pod in self.capacity.pods:
            if pod.node in free:
                for resource, amount in pod.requests.items():
                    free[pod.node][resource] = free[pod.node].get(resource, 0) - amount
        quotas = {quota.name: {key: hard - quota.used.get(key, 0) for key, hard in quota.hard.items()} for quota in self.capacity.quotas}
        return Room(free, quotas)


def _ways(one: Wanted, running: int) -> tuple[Way, ...]:
    """The ways that the spec allows, the one that users notice least first."""
    if not running:
        return (Way.START,)
    if one.same_pods:
        return (Way.SCALE,)
    several = one.replicas > 1 and running > one.pods
    match one.strategy:
        case "recreate":
            return (Way.RECREATE,)
        case "blue-green":
            return (Way.BLUE_GREEN,)
        case "rolling":
            return (Way.ROLLING, Way.ROLLING_WITHOUT_SURGE) if several else (Way.ROLLING,)
        case _:
            return (Way.ROLLING, Way.ROLLING_WITHOUT_SURGE, Way.RECREATE) if several else (Way.ROLLING, Way.RECREATE)


def _bounds(way: Way, one: Wanted) -> tuple[int, int]:
    """Replicas more and less than there should be, meanwhile."""
    match way:
        case Way.ROLLING_WITHOUT_SURGE:
            return 0, 1
        case Way.RECREATE:
            return 0, one.replicas
        case Way.BLUE_GREEN:
            return one.replicas, 0
        case _:
            return 1, 0


def _blind(one: Wanted, capacity: Capacity) -> Decision:
    """Without a look at the nodes: a pod more than there should be, for if it finds no room, the old ones still answer."""
    running = sum(pod.release == one.release for pod in capacity.pods)
    way = _ways(one, running)[0]
    surge, unavailable = _bounds(way, one)
    return Decision(one.release, way, 0, surge, unavailable, _disruption(one, way, "the spec asks for it") if way is Way.RECREATE else "")


def _disruption(one: Wanted, way: Way, why: str) -> str:
    if way is Way.ROLLING_WITHOUT_SURGE:
        return f"{one.label}: {one.replicas - 1} of {one.replicas} replicas answer while they are exchanged one by one: {why}"
    word = "about" if one.measured else "up to"
    return f"{one.label}: {word} {minutes(one.start_s + one.stop_s)} without answers: {why}"


def minutes(duration_s: float) -> str:
    """A time for people: `4 min 40 s`, `50 s`, `1 h 5 min`."""
    whole = max(1, round(duration_s))
    if whole >= 3600:
        hours, rest = divmod(round(whole / 60), 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    full, rest = divmod(whole, 60)
    return " ".join(part for part in (f"{full} min" if full else "", f"{rest} s" if rest or not full else "") if part)


def _budget_notes(capacity: Capacity, wanted: Sequence[Wanted], decisions: Sequence[Decision]) -> tuple[str, ...]:
    """Disruption budgets do not stop a rollout, so what goes below one is said."""
    by_name = {one.release: one for one in wanted}
    notes = []
    for decision in decisions:
        one = by_name[decision.release]
        pods = [pod for pod in capacity.pods if pod.release == one.release and pod.labels]
        ready = max(0, one.replicas * one.pods - decision.unavailable * one.pods)
        for budget in capacity.budgets:
            least = _least_ready(budget, one.replicas * one.pods)
            if pods and budget.selector and all(_selects(budget, pod) for pod in pods) and ready < least:
                notes.append(f"the PodDisruptionBudget '{budget.name}' wants {least} pods of {one.label} ready; meanwhile there are {ready}")
    return tuple(notes)


def _least_ready(budget: Budget, pods: int) -> int:
    if budget.min_available is not None:
        return budget.min_available
    return pods - budget.max_unavailable if budget.max_unavailable is not None else 0


def _selects(budget: Budget, pod: Pod) -> bool:
    return all(pod.labels.get(key) == value for key, value in budget.selector.items())


def _outages(result: Feasibility) -> int:
    return sum(one.way is Way.RECREATE for one in result.decisions)


def _starts(result: Feasibility) -> bool:
    """Whether something new comes: the gateway would name it before it answers, if what goes went first."""
    return any(one.way is Way.START for one in result.decisions)


def _without(capacity: Capacity, removed: Collection[str]) -> Capacity:
    """The cluster when some releases are gone."""
    gone = [pod for pod in capacity.pods if pod.release in removed]
    freed: dict[str, int] = {}
    for pod in gone:
        for key, amount in shortage.counted(pod.requests, {}).items():
            freed[key] = freed.get(key, 0) + amount
    quotas = tuple(replace(quota, used={key: max(0, used - freed.get(key, 0)) for key, used in quota.used.items()}) for quota in capacity.quotas)
    return replace(capacity, pods=tuple(pod for pod in capacity.pods if pod not in gone), quotas=quotas)
