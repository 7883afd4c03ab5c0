"""What would change and what was done: types only, shared by every verb.

A flow's `plan_*()` returns a `Plan`; its `apply_*()` yields `Outcome`s, which the terminal shows and the journal keeps.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class Verb(StrEnum):
    """What a change does to its subject; the values are what the journal stores."""

    CREATE = "create"
    UPDATE = "update"
    REPLACE = "replace"
    START = "start"
    STOP = "stop"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of a subject that differs. `before`/`after` are display text, None where absent."""

    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that would change.

    Attributes:
        verb: What happens.
        subject: Kind and name, such as `engine smollm2-0` or `gateway`.
        differences: The fields that differ, in the order to show them.
        disruption: What users notice, in one sentence; empty when they notice nothing.
    """

    verb: Verb
    subject: str
    differences: tuple[Difference, ...] = ()
    disruption: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that would change, in the order of doing.

    Attributes:
        title: What the plan is of, such as `deploy kiva on local`.
        changes: In order; empty means nothing to do.
        notes: Sentences worth reading before saying yes.
        basis: Hash of everything the plan was computed from; apply refuses when it no longer holds.
    """

    title: str
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    basis: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.changes

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready data: keys title, changes, notes, basis."""
        return asdict(self)


class Status(StrEnum):
    """How far a step is."""

    STARTED = "started"
    PROGRESS = "progress"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Something that happened while a plan was applied.

    Attributes:
        step: What it belongs to, such as `engine smollm2-0`; constant over the step's life.
        status: How far the step is; every started step ends done, skipped or failed.
        message: What a person wants to read, such as `loading weights`.
        elapsed_s: Seconds since the step started, by the monotonic clock.
        data: JSON-ready facts (never secrets).
        happened_at: Aware UTC.
    """

    step: str
    status: Status
    message: str = ""
    elapsed_s: float = 0.0
    data: dict[str, Any] = field(default_factory=dict)
    happened_at: datetime = field(default_factory=_now)

    @property
    def passing(self) -> bool:
        """Whether it is of the moment only: shown, not kept."""
        return self.status is Status.PROGRESS

    def as_dict(self) -> dict[str, Any]:
        """The outcome as JSON-ready data."""
        return {
            "at": self.happened_at.isoformat(timespec="milliseconds"),
            "step": self.step,
            "status": self.status.value,
            "message": self.message,
            "elapsed_s": round(self.elapsed_s, 3),
            **({"data": self.data} if self.data else {}),
        }


def digest(value: Any) -> str:
    """Hash JSON-ready data independent of key order: 64 hexadecimal characters of SHA-256."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
