"""What is put on the machines, by Ansible over SSH: planned by a check-mode run, done by a run, taken away by another.

The caller holds the platform's lock and keeps the journal. A machine that fails does not stop the others; a second run completes what
is missing, for every task looks first at what is there.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kivactl import root
from kivactl.errors import NotReadyError, PreconditionError, ToolError, UsageError, told
from kivactl.flows.provision.access import key_for
from kivactl.flows.provision.hosts import hosts_variables
from kivactl.flows.provision.troubles import Trouble, trouble_for
from kivactl.plan import Change, Difference, Outcome, Plan, Status, Verb, digest
from kivactl.spec.platform import Platform
from kivactl.stack.infrastructure.firewall import restriction_notes
from kivactl.stack.infrastructure.inventory import Inventory, Machine, infrastructure_of, inventory_for, jump_for, reached_at
from kivactl.stack.infrastructure.variables import variables_for
from kivactl.stack.layout import Layout
from kivactl.tools import ansible, ssh
from kivactl.tools.ansible_output import Failure, PlaySummary
from kivactl.tools.clock import Clock
from kivactl.tools.folders import make_private
from kivactl.tools.generators import drained, watched

_FORKS = 20
_WITHIN_S = 3600.0
_RECORDS = 20
_LOOK_S = 3.0


def plan_nodes(platform: Platform, inventory: Inventory, folder: Path, layout: Layout, *, limit: Sequence[str] = ()) -> Plan:
    """What would change on the machines; a check-mode run, which changes nothing.

    Args:
        platform: The spec, with its infrastructure.
        inventory: The machines that exist.
        folder: Where relative paths of the spec count from.
        layout: Where the platform's files lie.
        limit: Names of the machines to look at, all when empty.

    Raises:
        UsageError: There is no machine of such a name.
        PreconditionError: Nothing can be foretold of any machine; the details say why, machine by machine.
        ToolError: Ansible failed.
    """
    infrastructure = infrastructure_of(platform)
    run = _Machines(platform, inventory, folder, layout, limit)
    outcomes: list[Outcome] = []
    summary = drained(run.play("site.yml", check=True), outcomes.append)
    troubles = run.troubles(summary, outcomes)
    if troubles and len({trouble.machine for trouble in troubles}) == len(run.machines):
        raise error_for(troubles)
    changes = changes_from(outcomes)
    notes = [*restriction_notes(infrastructure), *(f"{trouble.machine}: {trouble.sentence}; next: {trouble.hint}" for trouble in troubles)]
    if not run.authority:
        notes.append("the machines' certificates follow once the platform's authority is made")
    basis = digest([[change.verb.value, change.subject, [[d.before, d.after] for d in change.differences]] for change in changes])
    return Plan(f"set up the machines of {platform.name}", changes, tuple(notes), basis)


def apply_nodes(platform: Platform, inventory: Inventory, folder: Path, layout: Layout, *, limit: Sequence[str] = ()) -> Generator[Outcome, None, PlaySummary]:
    """Set the machines up; a second time changes nothing. Closing the generator ends Ansible.

    Args:
        platform: The spec, with its infrastructure.
        inventory: The machines.
        folder: Where relative paths of the spec count from.
        layout: Where the platform's files lie.
        limit: Names of the machines to set up, all when empty.

    Yields:
        Outcomes by machine and task.

    Returns:
        Counts by machine.

    Raises:
        UsageError: There is no machine of such a name.
        KivaError: Machines failed, after all others were done; the details say which, why, and what to do next.
    """
    return (yield from _done(_Machines(platform, inventory, folder, layout, limit), "site.yml"))


def reset_nodes(platform: Platform, inventory: Inventory, folder: Path, layout: Layout, *, limit: Sequence[str] = ()) -> Generator[Outcome, None, PlaySummary]:
    """Take away what was set up; users, keys, packages and models stay. Arguments and errors as `apply_nodes`."""
    return (yield from _done(_Machines(platform, inventory, folder, layout, limit), "reset.yml"))


def ask_nodes(platform: Platform, inventory: Inventory, folder: Path, layout: Layout, *, limit: Sequence[str] = ()) -> Generator[Outcome, None, PlaySummary]:
    """Have the machines show what they are; changes nothing. Arguments and errors as `apply_nodes`."""
    return (yield from _done(_Machines(platform, inventory, folder, layout, limit), "verify.yml"))


def until_reached(platform: Platform, inventory: Inventory, folder: Path, layout: Layout, within_s: float, clock: Clock | None = None) -> Iterator[Outcome]:
    """Wait until every machine can be logged in to: one that was just made still starts.

    Args:
        platform: The spec, with its infrastructure.
        inventory: The machines.
        folder: Where relative paths of the spec count from.
        layout: Where the platform's files lie.
        within_s: Seconds they have, all together.
        clock: Time.

    Yields:
        A started and a done outcome for each machine, in the order of the inventory.

    Raises:
        NotReadyError: One cannot be reached in time.
        PreconditionError: One shows another host key than before, or refuses the key.
    """
    clock = clock or Clock()
    infrastructure = infrastructure_of(platform)
    run = _Machines(platform, inventory, folder, layout, ())
    deadline_s = clock.now_s() + within_s
    for machine in run.machines:
        address, begun_s = reached_at(infrastructure, machine), clock.now_s()
        step = f"{machine.name}: reached at {address}"
        yield Outcome(step, Status.STARTED)
        answer = run.log_in(machine)
        for _ in clock.ticks(max(0.0, deadline_s - clock.now_s()), _LOOK_S):
            if answer.contact is not ssh.Contact.UNREACHABLE:
                break
            answer = run.log_in(machine)
        if answer.contact is ssh.Contact.UNREACHABLE:
            waited = f" within {within_s:g} s" if within_s else ""
            raise NotReadyError(f"{machine.name} cannot be reached at {address}{waited}", "look at its console, then: kivactl provision", (answer.message,))
        if answer.contact is not ssh.Contact.READY:
            failure = Failure(machine.name, step, answer.message, reached=False)
            trouble = trouble_for(failure, address, infrastructure.access.port, str(run.known_hosts), begun=False)
            raise error_for([trouble])
        yield Outcome(step, Status.DONE, elapsed_s=clock.now_s() - begun_s)


def changes_from(outcomes: Iterable[Outcome]) -> tuple[Change, ...]:
    """What a check-mode run foretells, by the machines' names, each in the order of its tasks: whichever of them was faster, it is the same."""
    by_machine: dict[str, list[Change]] = {}
    for outcome in outcomes:
        if not outcome.data.get("changed"):
            continue
        machine, _, task = outcome.step.partition(": ")
        items = outcome.data.get("items") or [""]
        diffs = outcome.data.get("diffs") or [outcome.data.get("diff", [])] * len(items)
        subject = f"{machine}: {task[0].lower()}{task[1:]}"
        by_machine.setdefault(machine, []).extend(
            Change(Verb.UPDATE, f"{subject} {item}".rstrip(), _difference(lines)) for item, lines in zip(items, diffs, strict=True)
        )
    return tuple(change for _, changes in sorted(by_machine.items()) for change in changes)


def error_for(troubles: Sequence[Trouble]) -> PreconditionError | ToolError:
    """The error for machines that failed: one sentence, and a line for each."""
    first = troubles[0]
    lines = []
    for trouble in troubles:
        lines.append(f"{trouble.machine}: {trouble.sentence}; next: {trouble.hint}")
        lines += [f"  {trouble.detail}"] if trouble.detail else []
    machines = list(dict.fromkeys(trouble.machine for trouble in troubles))
    if len(machines) == 1:
        return PreconditionError(f"{first.machine}: {first.sentence}", first.hint, (first.detail,) if first.detail else ())
    return ToolError(
        f"{len(machines)} machines are not set up: {', '.join(machines)}", f"kivactl provision{''.join(f' --limit {name}' for name in machines)}", tuple(lines)
    )


class _Machines:
    """The machines of a run, and how they are reached."""

    def __init__(self, platform: Platform, inventory: Inventory, folder: Path, layout: Layout, limit: Sequence[str]) -> None:
        self._platform, self._inventory, self._layout, self._limit = platform, inventory, layout, limit
        self._infrastructure = infrastructure_of(platform)
        self.known_hosts = layout.infrastructure / "known_hosts"
        access = self._infrastructure.access
        self._login = ssh.Login(access.user, self.known_hosts, key_for(self._infrastructure, folder, layout), access.port)
        self.machines = _chosen(inventory, limit)
        certificate = layout.ca_certificate
        self.authority = certificate.read_text() if certificate.exists() and layout.ca_key.exists() else ""

    def play(self, playbook: str, *, check: bool = False) -> Generator[Outcome, None, PlaySummary]:
        access = self._infrastructure.access
        with told(self._layout.infrastructure):
            make_private(self._layout.infrastructure)
            given = [(reached_at(self._infrastructure, machine), access.port, machine.host_key) for machine in self._inventory.machines if machine.host_key]
            ssh.keep_host_keys(self.known_hosts, [(address, port, str(key)) for address, port, key in given])
        return (
            yield from ansible.run_playbook(
                root.content("playbooks") / playbook,
                inventory_for(self._infrastructure, self._inventory.machines, key=self._login.key, known_hosts=self.known_hosts),
                self._variables(),
                check=check,
                diff=check,
                limit=self._limit,
                forks=_FORKS,
                login=self._login,
                private_data=Path(tempfile.gettempdir()),
                record=None if check else self._record(playbook),
                timeout_s=_WITHIN_S,
            )
        )

    def _record(self, playbook: str) -> Path:
        """A file for what Ansible prints; of former ones the last are kept."""
        folder = self._layout.infrastructure / "runs"
        with told(folder):
            make_private(folder)
            for old in sorted(folder.iterdir())[: 1 - _RECORDS]:
                old.unlink(missing_ok=True)
        return folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}-{Path(playbook).stem}.log"

    def log_in(self, machine: Machine) -> ssh.Answer:
        """Try to log in to a machine, and to become root there."""
        infrastructure = self._infrastructure
        jump = jump_for(infrastructure, machine, self._inventory.machines)
        with told(self._layout.infrastructure):
            make_private(self._layout.infrastructure)
            with tempfile.TemporaryDirectory(prefix="kivactl-") as own:
                return ssh.log_in(reached_at(infrastructure, machine), replace(self._login, jump=jump), Path(own))

    def troubles(self, summary: PlaySummary, outcomes: Iterable[Outcome]) -> list[Trouble]:
        """What failed, the first failure of each machine."""
        begun = {outcome.step.partition(": ")[0] for outcome in outcomes if outcome.status is Status.DONE}
        troubles: dict[str, Trouble] = {}
        for failure in summary.failures:
            machine = self._inventory.machine(failure.host)
            address = failure.host if machine is None else reached_at(self._infrastructure, machine)
            port, known = self._infrastructure.access.port, str(self.known_hosts)
            troubles.setdefault(failure.host, trouble_for(failure, address, port, known, begun=failure.host in begun))
        return list(troubles.values())

    def _variables(self) -> dict[str, Any]:
        layout = self._layout
        token = layout.infrastructure / "cluster-token"
        if self._infrastructure.kubernetes is not None:
            keep_token(token)
        common = variables_for(
            self._platform,
            self._inventory,
            authority=self.authority,
            authority_file=layout.ca_certificate.absolute(),
            authority_key=layout.ca_key.absolute(),
            token_file=token.absolute(),
            kubeconfig=(layout.infrastructure / "kubeconfig").absolute(),
        )
        return hosts_variables(self._platform, self._inventory, layout, self.authority) | common


def keep_token(path: Path) -> None:
    """The secret by which machines join Kubernetes; made once, for a cluster has one for its life."""
    with told(path), suppress(FileExistsError), tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.") as fresh:
        fresh.write(secrets.token_hex(32))
        fresh.flush()
        os.link(fresh.name, path)  # whole or not at all, and never over another


def _done(run: _Machines, playbook: str) -> Generator[Outcome, None, PlaySummary]:
    outcomes: list[Outcome] = []
    summary = yield from watched(run.play(playbook), outcomes.append)
    if troubles := run.troubles(summary, outcomes):
        raise error_for(troubles)
    return summary


def _chosen(inventory: Inventory, limit: Sequence[str]) -> tuple[Machine, ...]:
    known = {machine.name: machine for machine in inventory.machines}
    for name in limit:
        if name not in known:
            raise UsageError(f"there is no machine '{name}'", f"choose from: {', '.join(sorted(known)) or 'none, for nothing was made yet'}")
    return tuple(known[name] for name in limit) if limit else inventory.machines


def _difference(lines: Sequence[str]) -> tuple[Difference, ...]:
    before, after = _side(lines, "-"), _side(lines, "+")
    return () if before is None and after is None else (Difference("", before, after),)


def _side(lines: Sequence[str], sign: str) -> str | None:
    """One side of a diff as text: what goes (`-`) or what comes (`+`)."""
    chosen = [line[1:] for line in lines if line.startswith(sign)]
    return "\n".join(chosen) if chosen else None
