"""Runs and runbooks as tables for people and as data for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kivactl.spec.quantities import format_duration

if TYPE_CHECKING:
    from kivactl.runbooks.record import Record

STYLES = {
    "passed": "green",
    "objectives missed": "yellow",
    "measurement invalid": "yellow",
    "failed": "red",
    "interrupted": "yellow",
    "running": "cyan",
    "waiting for approval": "cyan",
    "waiting for an answer": "cyan",
}
"""Ends and states of runs on a terminal."""


def facts_of(record: Record) -> dict[str, Any]:
    """A run as JSON-ready data."""
    return {
        "run": record.run,
        "runbook": record.runbook,
        "platform": record.platform,
        "operator": record.operator.name,
        "opened_at": _iso(record.opened_at),
        "closed_at": _iso(record.closed_at),
        "state": record.state.value,
        "verdict": record.verdict.value if record.verdict else None,
        "reason": record.reason,
        "parameters": record.parameters,
        "resumed": record.resumed,
        "approvals": [{"by": one.by.name, "role": one.role, "at": _iso(one.at)} for one in record.approvals],
        "measured": record.measured,
        "steps": [
            {
                "name": step.name,
                "title": step.title,
                "state": step.state.value,
                "attempts": step.attempts,
                "elapsed_s": round(step.elapsed_s, 3),
                "reason": step.reason,
                "result": step.result,
                "answer": step.answer[0] if step.answer else None,
            }
            for step in record.steps
        ],
    }


def history_row(record: Record) -> tuple[str, ...]:
    """A run as a row: name, when it began, how long it took, who began it, where it is or how it ended."""
    took = "" if record.closed_at is None else format_duration(max(0.0, (record.closed_at - record.opened_at).total_seconds()))
    return record.run, f"{record.opened_at:%Y-%m-%d %H:%M}", took, record.operator.name, end_of(record)


def end_of(record: Record) -> str:
    """How a run ended, or where it is."""
    return record.verdict.value if record.verdict else record.state.value


def summary_lines(record: Record, objectives: Mapping[str, float], folder: str) -> Iterator[tuple[str, str]]:
    """How a run ended: verdict, what was measured against what was allowed, where the evidence lies."""
    end = end_of(record)
    yield f"{record.run}: {end}{': ' + record.reason if record.reason else ''}", STYLES.get(end, "")
    for name, value in sorted(record.measured.items()):
        allowed = objectives.get(name)
        limit = "" if allowed is None else f", allowed {_figure(name, allowed)}"
        style = "" if allowed is None else "red" if value > allowed else "green"
        yield f"  {name.replace('_', ' ')}: {_figure(name, value)}{limit}", style
    yield f"evidence: {folder}", "dim"


def _figure(name: str, value: float) -> str:
    if name in {"lost_requests", "cut_streams"}:
        return f"{value:g}"
    return f"{value:.2%}" if name == "error_ratio" else format_duration(value)


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="seconds")
