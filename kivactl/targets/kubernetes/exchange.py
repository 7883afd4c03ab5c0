"""How the pods of one release are exchanged for new ones step by step, as a Deployment's controller does it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kivactl.targets.kubernetes.packing import Item, Room, pack


@dataclass(frozen=True, slots=True)
class Group:
    """What is to be exchanged.

    Attributes:
        new: A pod as it should be.
        replicas: How many replicas there should be.
        pods: Of each replica.
        old: The pods that run, with their nodes; those of one replica side by side.
        one_node: Whether all must be on one node.
        kept: Whether the old ones stay and only their number changes.
    """

    new: Item
    replicas: int
    pods: int = 1
    old: tuple[tuple[Item, str], ...] = ()
    one_node: bool = False
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Exchange:
    """What an exchange comes to: `lowest` is free all the while, `after` when it is done."""

    lowest: Room
    after: Room


def exchanged(group: Group, room: Room, *, surge: int, unavailable: int) -> Exchange | None:
    """Go through an exchange.

    Which of the old pods ends first is the controller's choice; the one is assumed whose place helps least.

    Args:
        group: What is exchanged.
        room: What is free while the old ones run.
        surge: Replicas more than there should be, at most.
        unavailable: Replicas less than there should be, at most.

    Returns:
        None when it gets stuck: no new pod finds room, and no old one may go.
    """
    if group.one_node and not group.old:
        return _on_one_node(group, room, surge=surge, unavailable=unavailable)
    item = _beside(group)
    state, lowest = room.copy(), room.copy()
    old = [group.old[start : start + group.pods] for start in range(0, len(group.old), group.pods)]
    if group.kept:
        return _scaled(group, item, old, room)
    if surge >= group.replicas and pack([item] * (group.replicas * group.pods), state) is None:
        return None  # as many as there should be, beside the old ones: no half of it is what was asked for
    if unavailable >= group.replicas:
        _end(old, state)
        old = []
    placed = 0
    while placed < group.replicas or old:
        if placed < group.replicas and len(old) + placed < group.replicas + surge:
            nodes = pack([item] * group.pods, state)
            if nodes is not None:
                for node in nodes:
                    state.take(item, node)
                placed += 1
                lowest = lowest.least(state)
                continue
        if not old or len(old) + placed <= group.replicas - unavailable:
            return None
        _end([old.pop(_least_helpful(old, item, group.pods, state))], state)
    return Exchange(lowest, state)


def _scaled(group: Group, item: Item, old: list[tuple[tuple[Item, str], ...]], room: Room) -> Exchange | None:
    """More of the same, or fewer."""
    state = room.copy()
    nodes = pack([item] * (max(0, group.replicas - len(old)) * group.pods), state)
    if nodes is None:
        return None
    for node in nodes:
        state.take(item, node)
    lowest = room.least(state)
    _end(old[group.replicas :], state)
    return Exchange(lowest, state)


def _end(replicas: list[tuple[tuple[Item, str], ...]], state: Room) -> None:
    for replica in replicas:
        for one, node in replica:
            state.give(one, node)


def _least_helpful(old: list[tuple[tuple[Item, str], ...]], item: Item, pods: int, state: Room) -> int:
    """The replica after whose end a new one would find no room; the first when any would do."""
    seen: set[tuple[str, ...]] = set()
    for index, replica in enumerate(old):
        nodes = tuple(node for _, node in replica)
        if nodes in seen:
            continue
        seen.add(nodes)
        freed = state.copy()
        for one, node in replica:
            freed.give(one, node)
        if pack([item] * pods, freed) is None:
            return index
    return 0


def _beside(group: Group) -> Item:
    """A new pod; where a volume binds the release to one node, it must come to the old ones."""
    if not group.one_node or not group.old:
        return group.new
    return Item(group.new.requests, group.new.nodes & {node for _, node in group.old}, group.new.quota)


def _on_one_node(group: Group, room: Room, *, surge: int, unavailable: int) -> Exchange | None:
    for node in group.new.nodes:
        only = Group(Item(group.new.requests, frozenset({node}), group.new.quota), group.replicas, group.pods)
        found = exchanged(only, room, surge=surge, unavailable=unavailable)
        if found is not None:
            return found
    return None
