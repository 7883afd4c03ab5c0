"""Two runs side by side, and what differs beyond noise; pure.

Each figure has an interval of its own: percentiles by order statistics, shares by Wilson, both of as many requests as are independent
of each other; rates by the means of batches. The interval of a difference follows from those two without any assumption on the
distribution; what does not hold nought in it differs.

Source: Zou and Donner, "Construction of confidence limits about effect measures: a general approach" (2008), for the difference
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from kivactl.loadtest.distribution import percentile
from kivactl.loadtest.intervals import effect_of, interval_of, parts_of, share_interval, stretches
from kivactl.loadtest.metrics import Window
from kivactl.loadtest.record import Record

_TIMES: tuple[tuple[str, Callable[[Record], Sequence[float | None]]], ...] = (
    ("ttft", lambda record: (record.ttft_due_s,)),
    ("tpot", lambda record: (record.tpot_s,)),
    ("itl", lambda record: record.itls_s),
    ("e2e", lambda record: (record.e2e_due_s,)),
)
_PERCENTILES = (50, 95, 99)
_BATCHES, _T = 10, 2.262157
"""So many batches, and the quantile of Student's distribution for their mean's interval of 95 %."""
_WORTH_A_WORD_RATIO = 0.01
"""A smaller change is none that anybody would act on, however sure it is."""
_SAME_LOAD = ("scenario", "model", "load", "processes")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the interval it lies in, at 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of both runs.

    Attributes:
        name: Of the figure; times are in seconds.
        first: Of the first run.
        second: Of the second.
        low: Lower end of the interval of second minus first.
        high: Its upper end.
        is_more_better: Whether a higher figure is a better one.
    """

    name: str
    first: Estimate
    second: Estimate
    low: float
    high: float
    is_more_better: bool

    @property
    def change_ratio(self) -> float | None:
        """By what part the second differs from the first; None where the first is nought."""
        return (self.second.value - self.first.value) / self.first.value if self.first.value else None

    @property
    def verdict(self) -> str:
        """`same` (nothing beyond noise, or less than 1 %), `better` or `worse`."""
        is_small = self.change_ratio is not None and abs(self.change_ratio) < _WORTH_A_WORD_RATIO
        if is_small or self.low <= 0 <= self.high:
            return "same"
        return "better" if (self.low > 0) == self.is_more_better else "worse"

    def as_dict(self) -> dict[str, Any]:
        """The difference as JSON-ready data."""
        return {**asdict(self), "change_ratio": self.change_ratio, "verdict": self.verdict}


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs.

    Attributes:
        summary: As in `summary.json`.
        records: Of all requests.
        window: The measured phase.
    """

    summary: Mapping[str, Any]
    records: Sequence[Record]
    window: Window

    @property
    def measured(self) -> Sequence[Record]:
        return [record for record in self.records if self.window.holds(record.moment_ns)]


def compare(first: Side, second: Side) -> list[Difference]:
    """All figures that both runs have."""
    return [
        difference_of(name, one, other, is_more_better=is_more_better)
        for (name, one, is_more_better), (_, other, _) in zip(_figures(first), _figures(second), strict=True)
        if one is not None and other is not None
    ]


def difference_of(name: str, first: Estimate, second: Estimate, *, is_more_better: bool) -> Difference:
    """The interval of a difference from those of its parts."""
    middle = second.value - first.value
    low = middle - math.hypot(second.value - second.low, first.high - first.value)
    high = middle + math.hypot(second.high - second.value, first.value - first.low)
    return Difference(name, first, second, low, high, is_more_better)


def doubts(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """Why two runs cannot simply be held against each other, in sentences."""
    for name in _SAME_LOAD:
        if first.get(name) != second.get(name):
            yield f"the {name} differs: '{first.get(name)}' and '{second.get(name)}'"
    for which, summary in (("first", first), ("second", second)):
        if summary.get("invalid"):
            yield f"the {which} run is no measurement: {summary['invalid']}"
        elif summary.get("interrupted"):
            yield f"the {which} run was interrupted"


def _figures(side: Side) -> Iterator[tuple[str, Estimate | None, bool]]:
    ended = sorted((record for record in side.measured if not record.is_cut), key=lambda record: record.moment_ns)
    good = [record for record in ended if record.succeeded]
    for name, values in _TIMES:
        parts = [sorted(value for record in good[stretch] for value in values(record) if value is not None) for stretch in stretches(len(good))]
        ordered = sorted(chain.from_iterable(parts))
        for percent in _PERCENTILES:
            yield f"{name}_p{percent}", _time(ordered, parts, percent, len(good)), False
    failed = [record.failure is not None for record in ended]
    yield "error_ratio", _share(failed), False
    attainment = side.summary["attainment"]
    yield "attainment", Estimate(attainment["ratio"], attainment["low"], attainment["high"]) if attainment["due"] else None, True
    yield "requests_per_s", _rate(side.window, [(record.end_ns, 1.0) for record in side.records if record.succeeded]), True
    tokens = [(stamp_ns, record.tokens / len(record.token_ns)) for record in side.records for stamp_ns in record.token_ns]
    yield "output_tokens_per_s", _rate(side.window, tokens), True


def _time(ordered: Sequence[float], parts: Sequence[Sequence[float]], percent: float, requests: int) -> Estimate | None:
    """A percentile of ascending values, which came in parts, each of them ascending too."""
    if not ordered:
        return None
    value = percentile(ordered, percent)
    effect = effect_of([(bisect_right(part, value), len(part)) for part in parts])
    low, high = interval_of(ordered, percent, min(requests, len(ordered) / effect))
    return Estimate(value, min(low, value), max(high, value))


def _share(failed: Sequence[bool]) -> Estimate | None:
    if not failed:
        return None
    low, high = share_interval(sum(failed), len(failed), parts_of(failed))
    return Estimate(sum(failed) / len(failed), low, high)


def _rate(window: Window, events: Sequence[tuple[int, float]]) -> Estimate | None:
    """Events per second, with the interval that the means of batches give: what comes one after the other is not independent."""
    if not window.duration_s:
        return None
    sums = [0.0] * _BATCHES
    for stamp_ns, amount in events:
        if window.holds(stamp_ns):
            sums[(stamp_ns - window.start_ns) * _BATCHES // (window.end_ns - window.start_ns)] += amount
    rates = [amount * _BATCHES / window.duration_s for amount in sums]
    mean = math.fsum(rates) / _BATCHES
    half = _T * math.sqrt(math.fsum((rate - mean) ** 2 for rate in rates) / (_BATCHES - 1) / _BATCHES)
    return Estimate(mean, max(0.0, mean - half), mean + half)
