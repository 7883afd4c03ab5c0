"""Exact percentiles of values; pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Distribution:
    """Percentiles and mean of `count` values, in the values' unit."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float

    def at(self, percent: int) -> float:
        """One of the percentiles."""
        value: float = getattr(self, f"p{percent}")
        return value


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The exact percentile of ascending values, linear between neighbours (as NumPy and `vllm bench serve` do).

    Args:
        ordered: Ascending, at least one.
        percent: 0..100.
    """
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def distribution_of(values: Iterable[float]) -> Distribution | None:
    """Percentiles and mean; None without values."""
    ordered = sorted(values)
    if not ordered:
        return None
    p50, p90, p95, p99 = (percentile(ordered, percent) for percent in (50, 90, 95, 99))
    return Distribution(len(ordered), math.fsum(ordered) / len(ordered), p50, p90, p95, p99)
