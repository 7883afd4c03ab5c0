"""Where pods find room: first-fit decreasing, and a bounded search where that finds none although there may be some. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kivactl.targets.kubernetes.capacity import Amounts

_SEARCHED = 20_000
"""Placements that the search tries before it gives up; a fraction of a second."""


@dataclass(frozen=True, slots=True)
class Item:
    """A pod to place: what it asks for, on which nodes it may be, and what it takes of each quota's keys."""

    requests: Amounts
    nodes: frozenset[str]
    quota: Amounts = field(default_factory=dict)


@dataclass(slots=True)
class Room:
    """What is free.

    Attributes:
        nodes: By node and resource.
        quotas: By quota and its own key.
    """

    nodes: dict[str, dict[str, int]]
    quotas: dict[str, dict[str, int]] = field(default_factory=dict)

    def copy(self) -> Room:
        """One that may be changed on its own."""
        return Room({name: dict(free) for name, free in self.nodes.items()}, {name: dict(free) for name, free in self.quotas.items()})

    def holds(self, item: Item, node: str) -> bool:
        """Whether a pod finds room on a node, and in every quota."""
        free = self.nodes.get(node)
        if free is None or node not in item.nodes:
            return False
        return _suffices(free, item.requests) and self.allows(item)

    def allows(self, item: Item) -> bool:
        """Whether every quota has something left for a pod; a key that a quota does not have is not limited."""
        return not any(amount > free.get(key, amount) for free in self.quotas.values() for key, amount in item.quota.items() if amount > 0)

    def take(self, item: Item, node: str) -> None:
        """Put a pod onto a node."""
        self._change(item, node, -1)

    def give(self, item: Item, node: str) -> None:
        """Take a pod off a node; a node that is unknown (gone, or closed) gets nothing back."""
        self._change(item, node, 1)

    def least(self, other: Room) -> Room:
        """What is free in both."""
        return _merged(self, other, min)

    def with_change(self, before: Room, after: Room) -> Room:
        """With the difference between two others added."""
        return _merged(self, _merged(after, before, lambda one, two: one - two), lambda one, two: one + two)

    def _change(self, item: Item, node: str, sign: int) -> None:
        free = self.nodes.get(node)
        if free is not None:
            for resource, amount in item.requests.items():
                free[resource] = free.get(resource, 0) + sign * amount
        for quota in self.quotas.values():
            for key, amount in item.quota.items():
                if key in quota:
                    quota[key] += sign * amount


def pack(items: Sequence[Item], room: Room) -> list[str] | None:
    """A node for each of some pods that are all to run at once, or None when there is no room.

    First-fit decreasing; where it fails, all possibilities are tried up to a bound, beyond which None only means that none was found.
    """
    order = sorted(range(len(items)), key=lambda index: -_weight(items[index], room))
    found = _first_fit(items, order, room) or _search(items, order, room)
    return [found[index] for index in range(len(items))] if found is not None else None


def _first_fit(items: Sequence[Item], order: Sequence[int], room: Room) -> dict[int, str] | None:
    left, found = room.copy(), {}
    for index in order:
        node = next((name for name in left.nodes if left.holds(items[index], name)), None)
        if node is None:
            return None
        left.take(items[index], node)
        found[index] = node
    return found


def _search(items: Sequence[Item], order: Sequence[int], room: Room) -> dict[int, str] | None:
    """All possibilities, the heaviest pod first; of nodes with the same room one is tried, of equal pods one order."""
    if not _could_fit(items, room):
        return None
    left, found, tried = room.copy(), {}, 0

    def placed(position: int) -> bool:
        nonlocal tried
        if position == len(order):
            return True
        item, seen = items[order[position]], set()
        for name, free in left.nodes.items():
            likeness = (tuple(sorted(free.items())), tuple(name in other.nodes for other in items))
            if likeness in seen or not left.holds(item, name):
                continue
            seen.add(likeness)
            tried += 1
            if tried > _SEARCHED:
                return False
            left.take(item, name)
            found[order[position]] = name
            if placed(position + 1):
                return True
            left.give(item, name)
        return False

    return found if placed(0) else None


def _could_fit(items: Sequence[Item], room: Room) -> bool:
    """Whether everything together is less than everything free: what a search need not find out."""
    totals: dict[str, int] = {}
    for item in items:
        for resource, amount in item.requests.items():
            totals[resource] = totals.get(resource, 0) + amount
    usable = frozenset().union(*(item.nodes for item in items)) if items else frozenset()
    free = {resource: sum(max(0, left.get(resource, 0)) for name, left in room.nodes.items() if name in usable) for resource in totals}
    # Python's recursion is bounded too, and so many pods are not searched to the end in any case.
    return len(items) <= 200 and all(amount <= free[resource] for resource, amount in totals.items())


def _weight(item: Item, room: Room) -> float:
    """The largest part of a node's free resources that a pod asks for."""
    most: dict[str, int] = {}
    for name in item.nodes:
        for resource, amount in room.nodes.get(name, {}).items():
            most[resource] = max(most.get(resource, 0), amount)
    return max((amount / most[resource] if most.get(resource, 0) > 0 else float(amount > 0) * 2 for resource, amount in item.requests.items()), default=0.0)


def _suffices(free: Mapping[str, int], wanted: Amounts) -> bool:
    return all(amount <= free.get(resource, 0) for resource, amount in wanted.items() if amount > 0)


def _merged(one: Room, other: Room, join: Callable[[int, int], int]) -> Room:
    return Room(_joined(one.nodes, other.nodes, join), _joined(one.quotas, other.quotas, join))


def _joined(one: Mapping[str, Amounts], other: Mapping[str, Amounts], join: Callable[[int, int], int]) -> dict[str, dict[str, int]]:
    return {
        name: {key: join(free.get(key, 0), other.get(name, {}).get(key, 0)) for key in free.keys() | other.get(name, {}).keys()} for name, free in one.items()
    }
