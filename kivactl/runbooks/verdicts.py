"""Objectives against figures. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from kivactl.runbooks.format import Objectives
from kivactl.spec.quantities import format_duration

_COUNTED = frozenset({"lost_requests", "cut_streams", "error_ratio"})
"""Figures that are no times."""


def missed(objectives: Objectives, measured: Mapping[str, float]) -> list[str]:
    """Each objective that was not met, in a sentence; one without a figure is not met.

    Args:
        objectives: The most that is allowed of each.
        measured: Figures by the same names, times in seconds.
    """
    reasons = []
    for name, most in objectives.limits.items():
        words = name.upper() if name in {"rto", "rpo"} else name.replace("_", " ")
        if name not in measured:
            reasons.append(f"{words} was not measured")
        elif measured[name] > most:
            reasons.append(f"{words} {_written(name, measured[name])} instead of at most {_written(name, most)}")
    return reasons


def _written(name: str, value: float) -> str:
    return f"{value:g}" if name in _COUNTED else format_duration(value)
