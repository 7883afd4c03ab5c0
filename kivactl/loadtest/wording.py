"""What all reports of a load test say in the same words: the verdict, the names of times, values with their units; pure.

They are made from the summary as data, so that a report can be made of what `summary.json` holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from kivactl.loadtest.levels import Level

TIMES = (
    ("Time to first token (TTFT)", "ttft_s"),
    ("TTFT from when it was due", "ttft_due_s"),
    ("Time to first output after reasoning (TTFO)", "ttfo_s"),
    ("Time per further token (TPOT)", "tpot_s"),
    ("Time between tokens (ITL)", "itl_s"),
    ("Gap between token events (ICL)", "icl_s"),
    ("Whole answer (E2E)", "e2e_s"),
    ("E2E from when it was due", "e2e_due_s"),
    ("New connection", "connect_s"),
)
"""Names of times, and where a summary has them."""


class Status(StrEnum):
    """How a load test ended."""

    MET = "met"
    MISSED = "missed"
    INVALID = "invalid"
    INTERRUPTED = "interrupted"
    MEASURED = "measured"
    """Nothing was promised."""


def status_of(told: Mapping[str, Any]) -> Status:
    """How it ended, by its summary."""
    if told["interrupted"]:
        return Status.INTERRUPTED
    if told["invalid"]:
        return Status.INVALID
    if not told["service_levels"]:
        return Status.MEASURED
    return Status.MET if all(level["met"] for level in told["service_levels"]) else Status.MISSED


def sentence_of(told: Mapping[str, Any]) -> str:
    """The result in one sentence, by its summary."""
    missed = ", ".join(level["name"] for level in told["service_levels"] if not level["met"])
    nothing = "no service level was promised" if not told["service_levels"] else "all service levels met"
    result = told["invalid"] or (f"service levels missed: {missed}" if missed else nothing)
    if told["interrupted"]:
        return f"Interrupted; until then: {result}."
    return f"Invalid: {result}." if told["invalid"] else f"{result[0].upper()}{result[1:]}."


def processes_text(count: int) -> str:
    """How many processes."""
    return "1 process" if count == 1 else f"{count} processes"


def generator_text(told: Mapping[str, Any]) -> str:
    """What generated the load, by a summary; older ones know nothing of machines."""
    total = processes_text(told["processes"])
    machines = told.get("machines") or ()
    if not machines:
        return total
    names = [f"{machine['name']}{_clock_text(machine['clock_error_ms'])}" for machine in machines]
    return f"{total} on {', '.join(names)}"


def _clock_text(error_ms: float | None) -> str:
    return "" if error_ms is None else f" (clock known to {error_ms:.2g} ms)"


def is_told_already(told: Mapping[str, Any], name: str) -> bool:
    """Whether a time is the same as another: nothing is due in a closed loop, most models do not reason, most engines join no tokens."""
    same = {"ttfo_s": told["ttft_s"], "icl_s": told["itl_s"]}
    if name.endswith("_due_s"):
        return told["send_lag_p99_ms"] is None
    return name in same and told[name] == same[name]


_FIGURES, _MOST_FIGURES = 3, 9


def time_text(value_s: float, figures: int = _FIGURES) -> str:
    """A time with its unit: `0.43 ms`, `20.4 ms`, `187 ms`, `2.00 s`, `120 s`.

    Args:
        value_s: May be negative, as a difference.
        figures: How many of the number are shown, unless there are more before the point.
    """
    in_s = abs(value_s) >= 1 - 0.5 * 10**-figures  # what would be rounded to 1000 ms is 1 s
    value, unit = (value_s, "s") if in_s else (value_s * 1e3, "ms")
    whole = len(str(int(float(f"{abs(value):.{figures}g}"))))
    return f"{value:.{max(0, figures - whole)}f} {unit}"


def limit_text(value_s: float) -> str:
    """A time that somebody chose, without noughts that say nothing: `5 ms`, `2 s`, `1.5 s`."""
    number, unit = time_text(value_s).split()
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def ratio_text(value: float) -> str:
    """A ratio in per cent."""
    return f"{value * 100:.2f} %"


def level_text(name: str, value: float) -> str:
    """What a service level promises."""
    return limit_text(value) if Level(name, value).is_time else ratio_text(value)


def measured_text(name: str, value: float | None, limit: float) -> str:
    """What was measured of a service level, with as many figures as it needs to be told from what was promised."""
    if value is None:
        return "-"
    if not Level(name, value).is_time:
        return ratio_text(value)
    differing = (figures for figures in range(_FIGURES, _MOST_FIGURES) if time_text(value, figures) != time_text(limit, figures))
    return time_text(value, next(differing, _FIGURES))


def decided_text(probes: Iterable[Mapping[str, Any]]) -> str:
    """What readers of a table of runs need to know where a load was measured several times; else nothing.

    Args:
        probes: As a summary has them.
    """
    loads = [probe["load"] for probe in probes if not probe.get("invalid")]
    return "Where a load was tried several times, all of its runs together decide." if len(set(loads)) < len(loads) else ""
