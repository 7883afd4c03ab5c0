"""What is missing where pods find no room, in one sentence that names the culprit. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from kivactl.targets.kubernetes.capacity import PODS, Amounts, Node, Quota, Taint, Toleration, show
from kivactl.targets.kubernetes.packing import Item, Room

_HINDERING = frozenset({"NoSchedule", "NoExecute"})


class Asking(Protocol):
    """What is asked for."""

    @property
    def label(self) -> str:
        """What people call it."""

    @property
    def replicas(self) -> int:
        """How many."""

    @property
    def pods(self) -> int:
        """Of each."""

    @property
    def requests(self) -> Amounts:
        """Of one pod."""

    @property
    def limits(self) -> Amounts:
        """Of one pod."""

    @property
    def selector(self) -> Mapping[str, str]:
        """Labels of its nodes."""

    @property
    def tolerations(self) -> tuple[Toleration, ...]:
        """Taints that do not matter."""


def chosen(wanted: Asking, node: Node) -> bool:
    """Whether a node has the labels that are asked for."""
    return all(node.labels.get(key) == value for key, value in wanted.selector.items())


def refusing(wanted: Asking, node: Node) -> Taint | None:
    """The first taint that keeps it off a node."""
    return next((taint for taint in node.taints if taint.effect in _HINDERING and not any(one.covers(taint) for one in wanted.tolerations)), None)


def counted(requests: Amounts, limits: Amounts) -> dict[str, int]:
    """What a pod takes of a quota, by the quota's keys."""
    found = {PODS: 1, "count/pods": 1}
    for resource, amount in requests.items():
        if resource == PODS:
            continue
        found[f"requests.{resource}"] = amount
        if resource in {"cpu", "memory", "ephemeral-storage"}:
            found[resource] = amount
    return found | {f"limits.{resource}": amount for resource, amount in limits.items()}


def never_fits(wanted: Asking, nodes: Sequence[Node], quotas: Sequence[Quota]) -> str:
    """Why it could not even run on an empty cluster; empty when it could."""
    selected = [node for node in nodes if chosen(wanted, node)]
    if not selected:
        labels = ", ".join(f"{key}={value}" for key, value in wanted.selector.items())
        return f"'{wanted.label}' finds no node: none has the label{'s' if len(wanted.selector) > 1 else ''} {labels}" if labels else "the cluster has no nodes"
    open_ = [node for node in selected if not refusing(wanted, node)]
    if not open_:
        taints = sorted({str(refusing(wanted, node)) for node in selected})
        return f"'{wanted.label}' finds no node: it does not tolerate {', '.join(taints)} of {_names(selected)}"
    up = [node for node in open_ if node.ready and not node.cordoned]
    if not up:
        states = sorted({"cordoned" if node.cordoned else "not ready" for node in open_})
        return f"'{wanted.label}' finds no node: {_names(open_)} {'is' if len(open_) == 1 else 'are'} {' or '.join(states)}"
    for resource, amount in _important(wanted.requests):
        most = max(up, key=lambda node: node.allocatable.get(resource, 110 if resource == PODS else 0))
        if amount > most.allocatable.get(resource, 110 if resource == PODS else 0):
            has = most.allocatable.get(resource, 0)
            what = f"'{wanted.label}' needs {show(resource, amount)} on one node"
            return f"{what}; no node has any" if has <= 0 else f"{what}; the largest node has {_plain(resource, has)}"
    if not any(_holds(node, wanted.requests) for node in up):
        asked = ", ".join(show(resource, amount) for resource, amount in _important(wanted.requests))
        return f"'{wanted.label}' needs {asked} on one node; no node has all of it"
    return _beyond_quota(wanted, quotas)


def no_room(wanted: Asking, item: Item, room: Room) -> str:
    """Why it does not fit beside what runs."""
    count = wanted.replicas * wanted.pods
    for name, free in room.quotas.items():
        for key, amount in item.quota.items():
            if amount * count > free.get(key, amount * count):
                left = show(_resource(key), max(free[key], 0))
                return f"the quota '{name}' does not suffice for '{wanted.label}': {count} x {show(_resource(key), amount)} is needed ({key}), {left} is left"
    resource, amount = _scarcest(item, room)
    free_on = {name: max(0, room.nodes[name].get(resource, 0)) for name in item.nodes if name in room.nodes}
    if not free_on:
        return f"'{wanted.label}' finds no node"
    best = max(sorted(free_on), key=lambda name: free_on[name])
    most = free_on[best]
    found = sum(value // amount for value in free_on.values()) if amount else count
    what = f"'{wanted.label}' needs {show(resource, amount)} on one node"
    if most < amount:
        return f"{what}; {_plain(resource, most)} is free on {best}, the node with the most"
    if found < count:
        return f"'{wanted.label}' needs {count} pods with {show(resource, amount)} each; there is room for {found}"
    return f"'{wanted.label}' finds no room for {count} pods with {', '.join(show(*one) for one in _important(item.requests))} each"


def for_one_more(wanted: Asking, item: Item, room: Room) -> str:
    """Why there is no room for a further pod beside those that run."""
    further = "a second pod" if wanted.replicas * wanted.pods == 1 else "a further pod"
    for name, free in room.quotas.items():
        for key, amount in item.quota.items():
            if amount > free.get(key, amount):
                return f"the quota '{name}' has no {_resource(key)} left for {further}"
    places = sum(_times(item, room.nodes[node]) for node in item.nodes if node in room.nodes)
    if places:
        return f"there is room for {places} of {wanted.replicas * wanted.pods} further pods"
    resource, _ = _scarcest(item, room)
    return f"no free {_word(resource)} for {further}"


def _beyond_quota(wanted: Asking, quotas: Sequence[Quota]) -> str:
    count = wanted.replicas * wanted.pods
    for quota in quotas:
        for key, amount in counted(wanted.requests, wanted.limits).items():
            if key in quota.hard and amount * count > quota.hard[key]:
                needs = show(_resource(key), amount * count)
                return f"'{wanted.label}' needs {needs} in all; the quota '{quota.name}' allows {show(_resource(key), quota.hard[key])} ({key})"
    return ""


def _scarcest(item: Item, room: Room) -> tuple[str, int]:
    """The resource that the fewest nodes have enough of, devices before memory before processors."""
    free = [room.nodes[name] for name in item.nodes if name in room.nodes]
    ranked = _important(item.requests)
    return min(ranked, key=lambda one: sum(node.get(one[0], 0) >= one[1] for node in free)) if ranked else (PODS, 1)


def _times(item: Item, free: Amounts) -> int:
    """How often a pod finds room on a node."""
    return max(0, min(free.get(name, 0) // amount for name, amount in _important(item.requests))) if _important(item.requests) else 0


def _important(requests: Amounts) -> list[tuple[str, int]]:
    """What is asked for, devices first; nothing of which nothing is asked."""
    rank = {"memory": 1, "cpu": 2, "ephemeral-storage": 3, PODS: 4}
    return sorted(((name, amount) for name, amount in requests.items() if amount > 0), key=lambda one: (rank.get(one[0], 0), one[0]))


def _holds(node: Node, requests: Amounts) -> bool:
    return all(amount <= node.allocatable.get(name, 110 if name == PODS else 0) for name, amount in requests.items() if amount > 0)


def _plain(resource: str, amount: int) -> str:
    """An amount where the resource was just named."""
    return str(amount) if resource not in {"cpu", "memory", "ephemeral-storage"} else show(resource, amount)


def _resource(key: str) -> str:
    """The resource that a quota's key limits."""
    return key.removeprefix("requests.").removeprefix("limits.").removeprefix("count/")


def _word(resource: str) -> str:
    name = resource.rpartition("/")[2].lower()
    if name in {"gpu", "gpu.shared"} or resource.endswith("/gpu"):
        return "GPU"
    return {"cpu": "processor", "memory": "memory", PODS: "place"}.get(name, resource)


def _names(nodes: Sequence[Node]) -> str:
    names = [node.name for node in nodes]
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"
