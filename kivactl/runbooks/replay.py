"""From a run's journal to its record. Pure, and lenient: a newer version's fields are not missed, an older one's are not demanded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from kivactl.runbooks.record import Approved, Checked, Person, Record, State, StepRecord, StepState, Verdict

_ENDS = {Verdict.FAILED: State.FAILED, Verdict.INTERRUPTED: State.INTERRUPTED}


def record_from(run: str, entries: Sequence[Mapping[str, Any]], *, held: bool) -> Record | None:
    """What a journal tells.

    Args:
        run: Name of the run.
        entries: The journal's, in order.
        held: Whether a process works on the run now.

    Returns:
        The record; None when the run was cut off before it was opened.
    """
    opened = next((entry for entry in entries if entry.get("event") == "opened"), None)
    if opened is None:
        return None
    closed = _last(entries, "closed", "resumed")
    closed = closed if closed and closed.get("event") == "closed" else None
    verdict = _verdict(closed.get("verdict")) if closed else None
    steps = _steps(opened, entries)
    plan = str(opened.get("plan", ""))
    return Record(
        run=run,
        runbook=str(opened.get("runbook", "")),
        platform=str(opened.get("platform", "")),
        operator=person_from(opened.get("operator")),
        language=str(opened.get("language", "en")),
        opened_at=time_from(opened.get("at")),
        closed_at=time_from(closed.get("at")) if closed else None,
        state=_ENDS.get(verdict, State.DONE) if verdict else _open_state(opened, entries, plan, held=held),
        verdict=verdict,
        reason=str(closed.get("reason", "")) if closed else "",
        parameters=dict(opened.get("parameters") or {}),
        runbook_sha256=str(opened.get("runbook_sha256", "")),
        spec=(known_specs(entries) or [""])[-1],
        plan=plan,
        approvals=tuple(approvals_of(entries, plan)),
        steps=tuple(steps.values()),
        checks=tuple(_checked(entry) for entry in entries if entry.get("event") == "checked"),
        measured=measured_in(entries),
        resumed=sum(entry.get("event") == "resumed" for entry in entries),
    )


def known_specs(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every digest that the spec may have: as the run began, and after each change that the run announced."""
    found = []
    for entry in entries:
        told = entry.get("spec") if entry.get("event") == "opened" else _data(entry).get("spec")
        if told:
            found.append(str(told))
    return found


def approvals_of(entries: Iterable[Mapping[str, Any]], plan: str) -> list[Approved]:
    """The approvals of a plan; those of another plan do not count."""
    return [
        Approved(person_from(entry.get("by")), str(entry.get("role", "")), time_from(entry.get("at")))
        for entry in entries
        if entry.get("event") == "approved" and entry.get("plan") == plan
    ]


def results_in(record: Record) -> dict[str, dict[str, Any]]:
    """What the steps that are done hand to later ones, by step and name."""
    return {step.name: step.result for step in record.steps if step.state is StepState.DONE}


def measured_in(entries: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """All figures of a run; a later one of the same name counts."""
    figures: dict[str, float] = {}
    for entry in entries:
        told = _data(entry).get("measured") if entry.get("event") == "outcome" else entry.get("measured")
        if isinstance(told, Mapping):
            figures.update({str(name): value for name, value in told.items() if isinstance(value, (int, float)) and not isinstance(value, bool)})
    return figures


def person_from(data: Any) -> Person:
    """A person as the journal has it."""
    data = data if isinstance(data, Mapping) else {}
    return Person(str(data.get("name", "")), str(data.get("user", "")), str(data.get("host", "")))


def time_from(text: Any) -> datetime:
    """A time as the journal has it; the beginning of time for what is none."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _steps(opened: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> dict[str, StepRecord]:
    steps = {str(step["name"]): StepRecord(str(step["name"]), str(step.get("title", ""))) for step in opened.get("steps") or () if "name" in step}
    for entry in entries:
        name = str(entry.get("step") or "")
        if entry.get("event") == "resumed":
            for settled in entry.get("done") or ():
                if settled in steps:
                    steps[settled] = replace(steps[settled], state=StepState.DONE, reason="")
        elif name and entry.get("event") not in {"checked", "interrupted"}:
            steps[name] = _next(steps.get(name, StepRecord(name, name)), entry)
    return steps


def _next(step: StepRecord, entry: Mapping[str, Any]) -> StepRecord:
    """What an entry makes of a step."""
    reason = str(entry.get("reason", ""))
    elapsed_s = entry.get("elapsed_s", step.elapsed_s)
    match entry.get("event"):
        case "begun":
            return replace(step, state=StepState.BEGUN, attempts=step.attempts + 1, began_at=step.began_at or time_from(entry.get("at")), reason="")
        case "done":
            return replace(step, state=StepState.DONE, elapsed_s=elapsed_s, result=dict(entry.get("result") or {}), reason="")
        case "failed":
            return replace(step, state=StepState.FAILED, elapsed_s=elapsed_s, reason=reason)
        case "skipped":
            return replace(step, state=StepState.SKIPPED, reason=reason)
        case "undoing":  # until it is undone nobody knows how much of it there is
            return replace(step, state=StepState.BEGUN, answer=None)
        case "undone":
            return replace(step, state=StepState.UNDONE, result={})
        case "undo failed":
            return replace(step, state=StepState.FAILED, reason=f"undo: {reason}")
        case "outcome":
            return replace(step, lines=(*step.lines, dict(entry.get("outcome") or {})))
        case "asked":
            return replace(step, answer=None)
        case "answered":
            return replace(step, answer=(str(entry.get("answer", "")), person_from(entry.get("by"))))
        case _:
            return step


def _open_state(opened: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], plan: str, *, held: bool) -> State:
    if opened.get("approval") and not approvals_of(entries, plan):
        return State.WAITING
    last = _last(entries, "asked", "answered", "begun", "done", "failed", "undoing", "interrupted", "closed")
    if last and last.get("event") == "asked":
        return State.ASKING
    return State.RUNNING if held else State.INTERRUPTED


def _checked(entry: Mapping[str, Any]) -> Checked:
    return Checked(
        phase=str(entry.get("phase", "")),
        step=str(entry.get("step") or ""),
        title=str(entry.get("check", "")),
        value=entry.get("value"),
        tolerance=str(entry.get("tolerance", "")),
        met=bool(entry.get("met")),
        message=str(entry.get("message", "")),
        at=time_from(entry.get("at")),
    )


def _verdict(text: Any) -> Verdict:
    try:
        return Verdict(text)
    except ValueError:
        return Verdict.FAILED


def _last(entries: Sequence[Mapping[str, Any]], *events: str) -> Mapping[str, Any] | None:
    return next((entry for entry in reversed(entries) if entry.get("event") in events), None)


def _data(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    outcome = entry.get("outcome")
    data = outcome.get("data") if isinstance(outcome, Mapping) else None
    return data if isinstance(data, Mapping) else {}
