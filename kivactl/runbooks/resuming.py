"""Whether a run may be taken up again, and which of its steps: only where nothing changed under it meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kivactl import journal
from kivactl.errors import PreconditionError, UsageError
from kivactl.flows.deployment import Deployment
from kivactl.runbooks.bound import Bound
from kivactl.runbooks.record import Record, StepState
from kivactl.runbooks.replay import known_specs

_LOOKS = "looks"
"""Mark of a run that changes nothing, in the platform's journal."""


def refuse_edited(record: Record, path: Path) -> None:
    """Refuse when the runbook is no longer what was begun.

    Raises:
        PreconditionError: It was edited or removed.
    """
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise PreconditionError(f"the runbook {path} of the run {record.run} is gone", _begin(record)) from None
    if found != record.runbook_sha256:
        raise PreconditionError(
            f"the runbook {path} was edited since the run {record.run} began; the copy in the run's folder is what was begun", _begin(record)
        )


def refuse_ended(record: Record) -> None:
    """Refuse when there is nothing to go on with.

    Raises:
        PreconditionError: The run is done.
    """
    if not record.state.resumable:
        raise PreconditionError(f"the run {record.run} is done ({record.verdict})", f"kivactl runbook report {record.run}")


def refuse_changed(record: Record, entries: Sequence[Mapping[str, Any]], deployment: Deployment) -> None:
    """Refuse when the spec or the platform is not as the run left it.

    Args:
        record: The run.
        entries: Its journal's.
        deployment: The platform as it is now.

    Raises:
        PreconditionError: Somebody changed it.
    """
    if deployment.loaded.digest not in known_specs(entries):
        raise PreconditionError(f"the spec was changed since the run {record.run} was cut off", _begin(record))
    opened = next((entry for entry in entries if entry.get("event") == "opened"), {})
    others = changes_since(journal.read(deployment.layout.journal), record.run, str(opened.get("platform_run", "")))
    if others:
        raise PreconditionError(f"the platform was changed by {others[-1]} since the run {record.run} was cut off", _begin(record))


def changes_since(entries: Sequence[Mapping[str, Any]], run: str, before: str) -> list[str]:
    """Other runs that changed the platform after a run began.

    Args:
        entries: The platform's journal; it may be another one than the run began with, for a restore replaces it.
        run: Name of the run.
        before: The last run before it.

    Returns:
        Their names, in order; runs within this one, and those that only look, do not count.
    """
    own = [index for index, entry in enumerate(entries) if run in (entry.get("run"), entry.get("within"))]
    last = [index for index, entry in enumerate(entries) if before and entry.get("run") == before]
    after = max([*own, *last], default=len(entries) if before else -1)
    return [str(entry.get("run")) for entry in entries[after + 1 :] if entry.get("event") == "opened" and not entry.get(_LOOKS) and "within" not in entry]


def refuse_doubtful(record: Record, bound: Bound, done: frozenset[str], again: frozenset[str]) -> None:
    """Refuse to guess what became of a step that was cut off and must not be done twice.

    Args:
        record: The run.
        bound: Its runbook.
        done: Steps that a person says are done.
        again: Steps that a person wants done again.

    Raises:
        UsageError: A step is named twice, unknown, or not in doubt.
        PreconditionError: A step is in doubt, and nobody said what became of it.
    """
    states = {step.name: step for step in record.steps}
    for name in sorted(done | again):
        if name not in states:
            raise UsageError(f"the run {record.run} has no step '{name}'", f"it has: {', '.join(states)}")
        if name in done and name in again:
            raise UsageError(f"the step '{name}' cannot be both --done and --again")
        if states[name].state is StepState.DONE:
            raise UsageError(f"the step '{name}' is done already", f"kivactl runbook report {record.run}")
    for step in bound.steps:
        state = states.get(step.name)
        begun = state is not None and state.attempts > 0 and state.state in {StepState.BEGUN, StepState.FAILED}
        if begun and step.do is not None and not step.do.action.repeatable and step.name not in done | again:
            raise PreconditionError(
                f"the step '{step.name}' was cut off, and doing it twice may do harm: look whether it was done",
                f"kivactl runbook resume {record.run} --done {step.name}, or: --again {step.name}",
            )


def looks_only(bound: Bound) -> dict[str, bool]:
    """What the platform's journal is told of a run that changes nothing."""
    return {_LOOKS: True} if bound.runbook.confirm == "never" else {}


def _begin(record: Record) -> str:
    return f"look at it: kivactl runbook report {record.run}; begin a new run: kivactl runbook {record.runbook}"
