"""What a run's journal says, as data: for resuming, for the history, for the report. Types only.

The journal (`journal.jsonl` in the run's folder) is the truth; its events are listed at `EVENTS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

EVENTS = {
    "opened": "runbook, title, purpose, platform, operator, parameters, language, runbook_sha256, spec, plan, steps, "
    "approval (who may give one, or null), path (of the runbook), platform_run (the last one in the platform's journal)",
    "approved": "by, role, user, host, plan",
    "checked": "phase (precondition, before, during, after, step), step, check, probe, value, tolerance, met, message",
    "begun": "step, attempt",
    "skipped": "step, reason",
    "outcome": "step, outcome: an Outcome as a dictionary",
    "done": "step, elapsed_s, result",
    "failed": "step, reason, attempt, elapsed_s",
    "asked": "step, question",
    "answered": "step, by, user, host, answer",
    "undoing": "step",
    "undone": "step",
    "undo failed": "step, reason",
    "observed": "measured",
    "interrupted": "step, reason",
    "resumed": "operator, step, done and again (what a person said of steps that were cut off)",
    "torn": "sha256, bytes: a line that a crash cut short, kept as it is",
    "closed": "verdict, reason, measured",
}
"""Every event of a run's journal with its fields, besides `seq`, `at` (UTC), `monotonic_s`, `boot` and `previous`."""


class State(StrEnum):
    """Where a run is."""

    WAITING = "waiting for approval"
    ASKING = "waiting for an answer"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    DONE = "done"

    @property
    def resumable(self) -> bool:
        """Whether `resume` may go on with it once nobody else does."""
        return self is not State.DONE


class Verdict(StrEnum):
    """How a run ended."""

    PASSED = "passed"
    MISSED = "objectives missed"
    INVALID = "measurement invalid"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class StepState(StrEnum):
    """Where a step is."""

    OPEN = "open"
    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Person:
    """Who did something: the name they gave, and what the operating system knows."""

    name: str
    user: str
    host: str


@dataclass(frozen=True, slots=True)
class Approved:
    """A second person's agreement."""

    by: Person
    role: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Checked:
    """A look at something: what was seen, and whether it was as it should be."""

    phase: str
    step: str
    title: str
    value: Any
    tolerance: str
    met: bool
    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What became of a step.

    Attributes:
        name: Its name.
        title: What it does, in the run's language.
        state: Where it is.
        attempts: How often it was begun.
        began_at: When it was begun first; None when it was not.
        elapsed_s: Time of its last attempt, by the monotonic clock where that was possible.
        reason: Why it failed; empty when it did not.
        result: What it hands to later steps.
        lines: What happened within, each with status and message, in order.
        answer: What a person answered, and who.
    """

    name: str
    title: str
    state: StepState = StepState.OPEN
    attempts: int = 0
    began_at: datetime | None = None
    elapsed_s: float = 0.0
    reason: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    lines: tuple[dict[str, Any], ...] = ()
    answer: tuple[str, Person] | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A run, as its journal tells it.

    Attributes:
        run: Its name.
        runbook: Name of the runbook.
        platform: Name of the platform.
        operator: Who began it.
        language: `en` or `de`.
        opened_at: When it was opened.
        closed_at: When it was closed; None while it is not.
        state: Where it is.
        verdict: How it ended; None while it did not.
        reason: Why it did not pass; empty when it did.
        parameters: As chosen.
        runbook_sha256: Of the file as it was run.
        spec: Digest of the spec as of the last entry that told one.
        plan: Digest of the plan that was confirmed and approved.
        approvals: In order.
        steps: All of them, in order.
        checks: In order, those made all the time only when they changed.
        measured: By the names of `format.Objectives`; times in seconds.
        resumed: How often it was resumed.
    """

    run: str
    runbook: str
    platform: str
    operator: Person
    language: str
    opened_at: datetime
    closed_at: datetime | None
    state: State
    verdict: Verdict | None
    reason: str
    parameters: dict[str, Any]
    runbook_sha256: str
    spec: str
    plan: str
    approvals: tuple[Approved, ...]
    steps: tuple[StepRecord, ...]
    checks: tuple[Checked, ...]
    measured: dict[str, float]
    resumed: int
