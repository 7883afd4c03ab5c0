"""Four eyes: a second person agrees to a plan, from another terminal, and the waiting run goes on."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kivactl.errors import PreconditionError, UsageError
from kivactl.plan import Outcome, Status
from kivactl.runbooks import chain, runs
from kivactl.runbooks.bound import Bound
from kivactl.runbooks.chain import Chain
from kivactl.runbooks.record import Person, State
from kivactl.runbooks.replay import approvals_of
from kivactl.spec.quantities import format_duration
from kivactl.tools.clock import Clock


def person_named(name: str | None) -> Person:
    """Who is at the terminal: the name they give, else who called `sudo`, else the user."""
    user = os.environ.get("SUDO_USER") or getpass.getuser()
    return Person((name or user).strip(), user, socket.gethostname())


def approve(folder: Path, person: Person, role: str | None = None) -> None:
    """Agree to the plan of a run that waits for it.

    Args:
        folder: The run's.
        person: Who agrees; someone else than who began the run.
        role: The role in which they do; may be absent where the runbook names one only.

    Raises:
        PreconditionError: The run does not wait for an approval, or the person began it.
        UsageError: No name, or a role that may not approve.
    """
    record = runs.record_of(folder)
    opened = _opened(folder)
    if record.state is not State.WAITING or not opened.get("approval"):
        raise PreconditionError(f"the run {record.run} does not wait for an approval: {record.state}", f"kivactl runbook report {record.run}")
    if not person.name:
        raise UsageError("an approval needs a name", f"kivactl runbook approve {record.run} --as NAME")
    if _folded(person.name) == _folded(record.operator.name):
        raise PreconditionError(
            f"'{person.name}' began the run {record.run} and cannot approve it: four eyes are needed", f"kivactl runbook approve {record.run} --as SOMEONE-ELSE"
        )
    allowed = [str(one) for one in opened["approval"].get("by", ())]
    if role is None and len(allowed) != 1:
        raise UsageError("this run can be approved in several roles", f"add --role with one of: {', '.join(allowed)}")
    if (chosen := role or allowed[0]) not in allowed:
        raise UsageError(f"the role '{chosen}' may not approve this run", f"these may: {', '.join(allowed)}")
    with Chain(folder / runs.JOURNAL) as journal:
        journal.append("approved", by={"name": person.name, "user": person.user, "host": person.host}, role=chosen, plan=record.plan)


def until_approved(folder: Path, bound: Bound, plan: str, clock: Clock) -> Iterator[Outcome]:
    """Wait until somebody has agreed to the plan.

    Raises:
        PreconditionError: Nobody did in time; the run goes on waiting, and can be resumed.
    """
    approval = bound.runbook.approval
    if approval is None or _approved(folder, plan):
        return
    command = f"kivactl runbook approve {folder.name} --as NAME"
    yield Outcome("approval", Status.STARTED, f"waiting for a second person ({', '.join(approval.by)}): {command}", data={"run": folder.name})
    started_s = clock.now_s()
    for _ in clock.ticks(approval.within, every_s=0.5):
        if _approved(folder, plan):
            given = runs.record_of(folder).approvals[-1]
            yield Outcome("approval", Status.DONE, f"by {given.by.name} ({given.role})", clock.now_s() - started_s)
            return
    raise PreconditionError(
        f"the run {folder.name} was not approved within {format_duration(approval.within)}", f"{command}, then: kivactl runbook resume {folder.name}"
    )


def _approved(folder: Path, plan: str) -> bool:
    return bool(approvals_of(chain.entries_of((folder / runs.JOURNAL).read_bytes()), plan))


def _opened(folder: Path) -> dict[str, Any]:
    entries = chain.entries_of((folder / runs.JOURNAL).read_bytes())
    return next((entry for entry in entries if entry.get("event") == "opened"), {})


def _folded(name: str) -> str:
    return "".join(name.split()).casefold()
