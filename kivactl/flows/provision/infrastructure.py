"""The whole of a platform's infrastructure: one plan over this machine, the cloud and the machines, and the doing of it, stage by stage.

Each stage can be repeated. Cut off anywhere, the next run plans anew and does what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kivactl.errors import PreconditionError, SpecError
from kivactl.flows.provision.machines import (
    apply_destroy,
    apply_machines,
    ignored,
    plan_destroy,
    plan_machines,
    read_inventory,
    write_inventory,
)
from kivactl.flows.provision.nodes import apply_nodes, plan_nodes, reset_nodes, until_reached
from kivactl.flows.provision.this_machine import apply_provision, plan_provision, recorded
from kivactl.flows.provision.verification import line_of, verify_nodes
from kivactl.plan import Change, Outcome, Plan, Status, Verb, digest
from kivactl.spec.infrastructure import Infrastructure
from kivactl.spec.platform import Platform
from kivactl.stack.infrastructure.gpus import gpu_faults
from kivactl.stack.infrastructure.inventory import Inventory, infrastructure_of, static_inventory
from kivactl.stack.layout import Layout

REACHED_WITHIN_S = 600.0
"""What machines that were just made have until SSH answers."""


@dataclass(frozen=True, slots=True)
class Provisioning:
    """What would change, stage by stage.

    Attributes:
        here: On this machine: certificate authority, keys, folders.
        machines: In the cloud; None where machines are there already.
        nodes: On the machines; None while there is none.
    """

    here: Plan
    machines: Plan | None
    nodes: Plan | None
    title: str

    @property
    def plan(self) -> Plan:
        """All of it as one plan; its hash stands for all stages."""
        stages = [stage for stage in (self.here, self.machines, self.nodes) if stage is not None]
        changes = tuple(change for stage in stages for change in stage.changes)
        notes = dict.fromkeys(note for stage in stages for note in stage.notes)
        if self.nodes is None:
            notes["what is put on the machines is planned again once they are there"] = None
        return Plan(self.title, changes, tuple(notes), digest([stage.basis for stage in stages]))


def plan_infrastructure(
    platform: Platform, folder: Path, layout: Layout, *, limit: Sequence[str] = (), progress: Callable[[Outcome], None] = ignored
) -> Provisioning:
    """What would change here, in the cloud and on the machines. Nothing of a platform changes by it.

    Args:
        platform: The spec, with its infrastructure.
        folder: Where relative paths of the spec count from.
        layout: Where the platform's files lie.
        limit: Names of the machines to set up, all when empty.
        progress: Told what is looked at meanwhile.

    Raises:
        SpecError: Driver or slices do not fit the GPUs.
        KivaError: A stage cannot be planned.
    """
    infrastructure = _checked(platform)
    here = plan_provision(platform, folder, layout)
    machines = None if infrastructure.provider == "static" else plan_machines(platform, folder, layout, progress)
    inventory = _present(infrastructure, layout)
    nodes = plan_nodes(platform, inventory, folder, layout, limit=limit) if inventory.machines else None
    return Provisioning(here, machines, nodes, f"provision {platform.name} on {infrastructure.provider}")


def apply_infrastructure(platform: Platform, folder: Path, layout: Layout, planned: Provisioning, *, limit: Sequence[str] = ()) -> Iterator[Outcome]:
    """Do what was planned, then look whether every machine is fit. Closing the generator lets what is being written be finished.

    Args:
        platform: As it was planned.
        folder: Where relative paths of the spec count from.
        layout: Where the platform's files lie.
        planned: What was shown and confirmed.
        limit: Names of the machines to set up, all when empty.

    Raises:
        PreconditionError: What was planned holds no more: something changed since.
        CheckError: A machine is not fit.
        KivaError: A stage failed; the next run goes on from there.
    """
    infrastructure = _checked(platform)
    if not planned.here.empty:
        yield from apply_provision(platform, folder, layout)
    with recorded(layout, "provision", {"basis": planned.plan.basis, "limit": [*limit]}) as journal:
        yield from journal.record(_stages(platform, infrastructure, folder, layout, planned, limit))


def verify_infrastructure(platform: Platform, folder: Path, layout: Layout, *, limit: Sequence[str] = ()) -> Iterator[Outcome]:
    """Look whether every machine is fit. Changes nothing.

    Raises:
        PreconditionError: No machines were made yet.
        CheckError: A machine is not fit.
        KivaError: A machine cannot be asked.
    """
    infrastructure = _checked(platform)
    inventory = _present(infrastructure, layout)
    if not inventory.machines:
        raise PreconditionError(f"no machines of '{platform.name}' were made yet", "kivactl provision")
    yield from _verified(platform, inventory, folder, layout, limit)


def plan_removal(platform: Platform, folder: Path, layout: Layout, progress: Callable[[Outcome], None] = ignored) -> Plan:
    """What would be taken away: a cloud's machines, or what was put on machines that stay.

    Raises:
        KivaError: It cannot be planned.
    """
    infrastructure = _checked(platform)
    if infrastructure.provider != "static":
        return plan_destroy(platform, folder, layout, progress)
    chosen = _unprotected(infrastructure)
    notes = ["users, SSH keys, packages and models stay on the machines"]
    if infrastructure.kubernetes is not None:
        notes.insert(0, "Kubernetes ends for good on them, with its state and volumes")
    if kept := [name for group in infrastructure.groups if group.name in infrastructure.protect for name in (host.name for host in group.hosts)]:
        notes.insert(0, f"protected, and left alone: {', '.join(kept)}")
    changes = tuple(Change(Verb.DELETE, f"{name}: what was put on it") for name in chosen)
    return Plan(f"take away what was put on the machines of {platform.name}", changes, tuple(notes), digest([*chosen]))


def apply_removal(platform: Platform, folder: Path, layout: Layout, plan: Plan) -> Iterator[Outcome]:
    """Take away what was planned. Closing the generator lets what is being written be finished.

    Raises:
        PreconditionError: Something changed since the plan was made.
        KivaError: A step failed; the next run goes on from there.
    """
    infrastructure = _checked(platform)
    with recorded(layout, "destroy", {"basis": plan.basis}) as journal:
        if infrastructure.provider != "static":
            yield from journal.record(apply_destroy(platform, folder, layout, plan))
            return
        if chosen := _unprotected(infrastructure):  # an empty limit would be all of them
            yield from journal.record(reset_nodes(platform, static_inventory(infrastructure), folder, layout, limit=chosen))


def _stages(platform: Platform, infrastructure: Infrastructure, folder: Path, layout: Layout, planned: Provisioning, limit: Sequence[str]) -> Iterator[Outcome]:
    # Where the stage before has just made the authority, more follows on the machines than was planned: a note told that.
    if planned.nodes is not None and planned.here.empty:
        now = plan_nodes(platform, _present(infrastructure, layout), folder, layout, limit=limit)
        if now.basis != planned.nodes.basis:
            raise PreconditionError(
                "the machines are not as they were when this was planned", "look at the new plan: kivactl provision", _moved(planned.nodes, now)
            )
    if planned.machines is not None and not planned.machines.empty:
        yield from apply_machines(platform, folder, layout, planned.machines)
    inventory = _present(infrastructure, layout)
    if infrastructure.provider == "static":
        write_inventory(layout, inventory)
    yield from until_reached(platform, _limited(inventory, limit), folder, layout, REACHED_WITHIN_S if planned.machines is not None else 0.0)
    yield from apply_nodes(platform, inventory, folder, layout, limit=limit)
    yield from _verified(platform, inventory, folder, layout, limit)


def _moved(planned: Plan, now: Plan) -> tuple[str, ...]:
    """What was foretold, and is no more or in another way; and what was not."""
    before, after = ({change.subject: change for change in plan.changes} for plan in (planned, now))
    gone = [f"no longer to do: {subject}" for subject in before if subject not in after]
    other = [f"to be done in another way: {subject}" for subject, change in after.items() if subject in before and before[subject] != change]
    return (*gone, *other, *(f"to be done now: {subject}" for subject in after if subject not in before))


def _verified(platform: Platform, inventory: Inventory, folder: Path, layout: Layout, limit: Sequence[str]) -> Iterator[Outcome]:
    findings = yield from verify_nodes(platform, inventory, folder, layout, limit=limit)
    for finding in findings:
        yield Outcome(f"{finding.machine}: fit, but", Status.DONE, line_of(finding).partition(": ")[2])


def _checked(platform: Platform) -> Infrastructure:
    infrastructure = infrastructure_of(platform)
    if faults := gpu_faults(infrastructure):
        raise SpecError(faults[0], "correct `infrastructure` in kiva.yaml, then: kivactl provision --plan", faults[1:])
    return infrastructure


def _present(infrastructure: Infrastructure, layout: Layout) -> Inventory:
    if infrastructure.provider == "static":
        return static_inventory(infrastructure)
    return read_inventory(layout) or Inventory(machines=())


def _limited(inventory: Inventory, limit: Iterable[str]) -> Inventory:
    chosen = set(limit)
    return inventory.model_copy(update={"machines": tuple(one for one in inventory.machines if not chosen or one.name in chosen)})


def _unprotected(infrastructure: Infrastructure) -> list[str]:
    return [host.name for group in infrastructure.groups if group.name not in infrastructure.protect for host in group.hosts]
