"""What of a runbook counts on a platform's target: parts for another one are left out, and what cannot work there is a fault. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kivactl.errors import SpecError
from kivactl.runbooks.actions import ACTIONS, PROBES
from kivactl.runbooks.actions.action import MACHINE, Action, Probe
from kivactl.runbooks.placeholders import Steps
from kivactl.spec.document import Fault, Node, path_of


class Elsewhere(Fault):
    """An action or a probe that does not work on the platform's target; there is nothing to correct."""


def for_target(node: Node, target: str) -> Node:
    """The tree without the entries of lists, and without the parts of steps, that are `only_on` another target."""
    if isinstance(node.value, list):
        return Node([for_target(child, target) for child in node.value if _counts(child, target)], node.place, node.keys)
    if isinstance(node.value, dict):
        return Node({key: for_target(child, target) for key, child in node.value.items() if _counts(child, target)}, node.place, node.keys)
    return node


def elsewhere_in(node: Node, target: str, where: Steps = ()) -> Iterator[Elsewhere]:
    """Every action and probe of a tree that does not work on a target."""
    if isinstance(node.value, list):
        for index, child in enumerate(node.value):
            yield from elsewhere_in(child, target, (*where, index))
    if not isinstance(node.value, dict):
        return
    for key, child in node.value.items():
        known: Mapping[str, Action | Probe] = {"action": ACTIONS, "probe": PROBES}.get(key, {})  # type: ignore[assignment]  # each has one kind
        entry = known.get(child.value) if isinstance(child.value, str) else None
        if entry is not None and target not in entry.targets:
            yield Elsewhere(child.place, path_of((*where, key)), f"the {key} '{child.value}' works {_where(entry.targets)} only")
        if key not in {"params", "parameters"}:
            yield from elsewhere_in(child, target, (*where, key))


def alternatives(steps: Sequence[Node], name: str) -> bool:
    """Whether steps of one name are for a target each, so that none meets another: what later ones use of them has one name as well."""
    targets = []
    for node in steps:
        called, only = node.child("name"), node.child("only_on")
        if called is not None and called.value == name:
            targets.append(None if only is None else str(only.value))
    return None not in targets and len(set(targets)) == len(targets)


def refused(path: Path, faults: list[Fault]) -> SpecError | None:
    """The error for a runbook that is sound but for the target; None when something else is wrong with it, too."""
    if not faults or not all(isinstance(fault, Elsewhere) for fault in faults):
        return None
    where = "on one machine" if any("on one machine only" in fault.message for fault in faults) else "in a cluster"
    return SpecError(f"the runbook '{path.stem}' works {where} only, and this platform runs elsewhere", "kivactl runbook list", _lines(faults))


def _counts(node: Node, target: str) -> bool:
    """Whether a part counts; one whose `only_on` is no target is told with the form."""
    only = node.child("only_on") if isinstance(node.value, dict) else None
    return only is None or not isinstance(only.value, str) or only.value not in {"local", "kubernetes"} or only.value == target


def _where(targets: frozenset[str]) -> str:
    return "on one machine" if targets == MACHINE else "in a cluster"


def _lines(faults: list[Fault]) -> tuple[str, ...]:
    return tuple(map(str, sorted(set(faults), key=lambda fault: (fault.place.line, fault.path))))
