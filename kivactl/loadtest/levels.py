"""What is promised: percentiles of times, share of failures, share of good requests; pure.

A level such as `ttft_p95` says that of 100 requests 95 have a TTFT within the limit. So each is a question about shares
too, and a share of a sample has an interval: that is what capacity is searched with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

METRICS = ("ttft", "tpot", "itl", "e2e")
PERCENTILES = (50, 90, 95, 99)
ERROR_RATIO, ATTAINMENT = "error_ratio", "attainment"

PRESETS: Mapping[str, tuple[float, float]] = {
    "mlperf-8b": (2.0, 0.1),
    "mlperf-8b-interactive": (0.5, 0.03),
    "mlperf-70b": (2.0, 0.2),
    "mlperf-70b-interactive": (0.45, 0.04),
    "mlperf-405b": (6.0, 0.175),
    "mlperf-405b-interactive": (4.5, 0.08),
    "mlperf-deepseek-r1": (2.0, 0.08),
    "mlperf-deepseek-r1-interactive": (1.5, 0.015),
}
"""Limits of TTFT and TPOT in seconds, each for the 99th percentile.

Source: https://github.com/mlcommons/inference_policies (constraints of the server and interactive scenarios)
"""


@dataclass(frozen=True, slots=True)
class Level:
    """One promise.

    Attributes:
        name: `ttft_p95` and the like, `error_ratio` or `attainment`.
        limit: Seconds, or a ratio in 0..1. An attainment must be at least that, all others at most.
    """

    name: str
    limit: float

    @property
    def metric(self) -> str:
        """`ttft`, `tpot`, `itl` or `e2e`; the name itself for a ratio."""
        return self.name.rpartition("_p")[0] or self.name

    @property
    def percent(self) -> int | None:
        """Of the percentile; None for a ratio."""
        metric, _, percent = self.name.rpartition("_p")
        return int(percent) if metric in METRICS and percent.isdigit() else None

    @property
    def is_time(self) -> bool:
        return self.percent is not None

    def holds(self, measured: float) -> bool:
        """Whether a measured value keeps it."""
        return measured >= self.limit if self.name == ATTAINMENT else measured <= self.limit


def levels_from(limits: Mapping[str, float], preset: str | None = None) -> tuple[Level, ...]:
    """Levels in one order.

    Args:
        limits: By name; seconds or a ratio.
        preset: One of `PRESETS`, for what `limits` does not name.
    """
    known = dict(limits)
    if preset is not None:
        ttft_s, tpot_s = PRESETS[preset]
        known = {"ttft_p99": ttft_s, "tpot_p99": tpot_s, **known}
    return tuple(Level(name, known[name]) for name in sorted(known, key=_place))


def thresholds_from(levels: tuple[Level, ...]) -> dict[str, float]:
    """What a single request must keep to be a good one: of each metric the limit of the highest percentile, in seconds."""
    chosen: dict[str, Level] = {}
    for level in levels:
        if level.percent is not None and level.percent >= ((chosen[level.metric].percent or 0) if level.metric in chosen else 0):
            chosen[level.metric] = level
    return {metric: level.limit for metric, level in chosen.items()}


def _place(name: str) -> tuple[int, int, str]:
    level = Level(name, 0)
    return (METRICS.index(level.metric), level.percent, name) if level.percent is not None else (len(METRICS), 0, name)
