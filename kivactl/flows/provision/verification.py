"""Whether the machines are fit to serve: what each shows of itself, judged."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

from kivactl.errors import CheckError
from kivactl.flows.provision.node_facts import facts_by_machine, gpus_of
from kivactl.flows.provision.nodes import ask_nodes
from kivactl.plan import Outcome
from kivactl.spec.platform import Platform
from kivactl.stack.infrastructure.inventory import Inventory
from kivactl.stack.infrastructure.verdicts import Finding, findings_for
from kivactl.stack.layout import Layout
from kivactl.tools.generators import watched


def verify_nodes(
    platform: Platform, inventory: Inventory, folder: Path, layout: Layout, *, limit: Sequence[str] = ()
) -> Generator[Outcome, None, tuple[Finding, ...]]:
    """Have each machine show what it is, and judge it. Changes nothing.

    Args:
        platform: The spec, with its infrastructure.
        inventory: The machines.
        folder: Where relative paths of the spec count from.
        layout: Where the platform's files lie.
        limit: Names of the machines to look at, all when empty.

    Yields:
        Outcomes by machine and task.

    Returns:
        What is worth knowing though a platform may be put on them, machine by machine.

    Raises:
        CheckError: Machines are not fit; the details say which and why.
        KivaError: A machine cannot be asked.
    """
    outcomes: list[Outcome] = []
    yield from watched(ask_nodes(platform, inventory, folder, layout, limit=limit), outcomes.append)
    facts = facts_by_machine(outcomes)
    findings: list[Finding] = []
    for machine in inventory.machines:
        if limit and machine.name not in limit:
            continue
        if machine.name not in facts:
            findings.append(Finding(machine.name, "unit", "it told nothing of itself", "kivactl provision --verify"))
            continue
        findings += findings_for(platform, machine, facts[machine.name], gpus_of(facts[machine.name]))
    serious = [finding for finding in findings if finding.serious]
    if serious:
        names = list(dict.fromkeys(finding.machine for finding in serious))
        sentence = f"{names[0]} is not fit" if len(names) == 1 else f"{len(names)} machines are not fit: {', '.join(names)}"
        raise CheckError(sentence, serious[0].hint, tuple(line_of(finding) for finding in findings))
    return tuple(findings)


def line_of(finding: Finding) -> str:
    """A finding as a line."""
    return f"{finding.machine}: {finding.sentence}; next: {finding.hint}"
