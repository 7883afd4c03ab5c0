"""What a look at a machine or a cluster finds: one thing, whether it is as it should be, and the command that mends it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """Whether something is as it should be; `warning` does not keep a platform from running."""

    OK = "ok"
    MISSING = "missing"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        state: Whether it is as it should be.
        found: What is here, such as a version.
        needed_for: What does not work without it.
        remedy: The command that brings it; empty when nothing is to be done.
    """

    name: str
    state: State
    found: str
    needed_for: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON-ready data."""
        return {**asdict(self), "state": self.state.value}
