"""Times between moments of a run, by its journal: what a killed process took counts too. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

Entry = Mapping[str, Any]
"""An entry of a run's journal, as `chain.entries_of` gives it."""


def begin_of(entries: Iterable[Entry], step: str | None) -> Entry | None:
    """The entry from which recovery counts; None when there is none.

    Args:
        entries: The journal's, in order.
        step: The step that broke the platform: its first begin counts, unless it was undone afterwards. None for the begin of the run.
    """
    began: Entry | None = None
    for entry in entries:
        event = entry.get("event")
        if step is None:
            if event == "opened":
                return entry
        elif entry.get("step") == step and event == "begun":
            began = began or entry
        elif entry.get("step") == step and event == "undone":
            began = None
    return began


def elapsed_s(began: Entry, now: Entry) -> float:
    """Seconds between two entries, never negative: by the machine's own count, which no set clock changes, unless it was started anew between them."""
    if began.get("boot") and began.get("boot") == now.get("boot"):
        return max(0.0, float(now["monotonic_s"]) - float(began["monotonic_s"]))
    return max(0.0, (time_of(now) - time_of(began)).total_seconds())


def time_of(entry: Entry) -> datetime:
    """When an entry was written, aware."""
    return datetime.fromisoformat(str(entry["at"]))
