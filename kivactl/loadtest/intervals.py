"""How sure a figure is: intervals of 95 % for shares and percentiles of requests that are not independent of each other; pure.

A queue makes neighbours alike: near a platform's limit a few slow seconds decide what a whole run shows, and an interval that takes each
request for a draw of its own is several times too narrow. So a run is looked at in parts, one after the other. Where they differ by more than
chance lets them, fewer requests count. Of a run shorter than the queue's memory even that says too little; only a longer one does.

Source: batch means, A. M. Law, "Simulation Modeling and Analysis" (2015), 9.5.3; the design effect, L. Kish, "Survey Sampling" (1965)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

PARTS = 5
"""Few, so that each is longer than what a queue remembers."""

_Z = 1.959964
"""Quantile of the normal distribution for an interval of 95 %."""

Part = tuple[int, int]
"""Of some requests, one after the other: those that are good, and all."""


def stretches(count: int) -> Iterator[slice]:
    """So many things in order, cut into `PARTS` as equal as can be."""
    return (slice(count * number // PARTS, count * (number + 1) // PARTS) for number in range(PARTS))


def parts_of(good: Sequence[bool]) -> tuple[Part, ...]:
    """Requests in the order in which they came as parts."""
    return tuple((sum(part), len(part)) for part in (good[stretch] for stretch in stretches(len(good))) if part)


def effect_of(parts: Sequence[Part]) -> float:
    """How many requests of these say as much about their share as one that is drawn by itself; at least 1.

    Where it is more, the few degrees of freedom that so few parts leave count too: Student's distribution is as much wider.
    """
    known = [(good, count) for good, count in parts if count]
    good, count = sum(good for good, _ in known), sum(count for _, count in known)
    freedom = len(known) - 1
    if freedom < 3 or good in (0, count):
        return 1.0
    ratio = good / count
    spread = sum((good_here - ratio * count_here) ** 2 for good_here, count_here in known) * len(known) / freedom
    effect = spread / (count * ratio * (1 - ratio))
    return effect * freedom / (freedom - 2) if effect > 1 else 1.0


def wilson(good: float, total: float) -> tuple[float, float]:
    """The interval in which a share lies, at 95 %; (0, 1) without a sample.

    Args:
        good: Of those that were asked, as many as are independent of each other.
        total: How many were.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927)
    """
    if not total:
        return 0.0, 1.0
    ratio, square = good / total, _Z * _Z / total
    middle = (ratio + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(ratio * (1 - ratio) / total + square / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def share_interval(good: int, total: int, parts: Sequence[Part]) -> tuple[float, float]:
    """Wilson's interval of a share of requests.

    Args:
        good: Requests that are.
        total: All; also those that never came, which no part holds.
        parts: Those that came, in order.
    """
    effect = effect_of(parts)
    return wilson(good / effect, total / effect)


def interval_of(ordered: Sequence[float], percent: float, independent: float | None = None) -> tuple[float, float]:
    """Between which values the percentile of what they were drawn from lies, at 95 %, whatever its distribution.

    Args:
        ordered: Ascending, at least one.
        percent: 0..100.
        independent: How many of them are independent of each other, where that is not all: gaps of one answer are alike.

    Source: order statistics and the binomial distribution's normal approximation; Hahn and Meeker, "Statistical Intervals" (1991), 5.2
    """
    count, ratio = len(ordered), percent / 100
    half = _Z * math.sqrt(ratio * (1 - ratio) / min(count, independent or count)) * count
    low, high = math.floor(count * ratio - half), math.ceil(count * ratio + half)
    return ordered[max(0, low - 1)] if low >= 1 else ordered[0], ordered[min(count - 1, high)]
