"""The course of a run in equal stretches of time, with 0 at the begin of the measured phase; pure."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise

from kivactl.loadtest.distribution import percentile
from kivactl.loadtest.material import Material
from kivactl.loadtest.record import Record
from kivactl.tools.plot import bins

_MOST_BINS, _FEWEST_BINS, _PER_BIN = 120, 12, 5
"""Stretches there are at most and at least, and requests that one should have."""
_MOST_PARTS, _PER_PART, _FEWEST_PARTS = 30, 20, 3
_WIDTHS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
_LEAST_S = 0.1

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Course:
    """When what happened.

    Attributes:
        records: All of the run.
        measured: Those that were due in the measured phase.
        zero_ns: Begin of the measured phase; of the run, where that was not reached.
        start_s: Begin of the run, 0 or before.
        measured_s: Length of the measured phase.
        end_s: When the last request ended, or later.
        bin_s: Length of a stretch; the last one is up to half as long again, or half as long.
    """

    records: Sequence[Record]
    measured: Sequence[Record]
    zero_ns: int
    start_s: float
    measured_s: float
    end_s: float
    bin_s: float

    def at_s(self, stamp_ns: int) -> float:
        """A stamp on the course's axis."""
        return (stamp_ns - self.zero_ns) / 1e9

    @cached_property
    def is_open(self) -> bool:
        """Whether requests were due at moments of their own."""
        return any(record.scheduled_ns is not None for record in self.records)

    @cached_property
    def edges(self) -> list[float]:
        """Begins of all stretches, and the end."""
        count = max(1, round((self.end_s - self.start_s) / self.bin_s))
        return [*(self.start_s + number * self.bin_s for number in range(count)), self.end_s]

    def rate(self, stamps_ns: Iterable[int]) -> Points:
        """Per second in each stretch, as steps."""
        return self._steps(bins([self.at_s(stamp_ns) for stamp_ns in stamps_ns], self.start_s, self.end_s, self.bin_s))

    def tokens(self) -> Points:
        """Output tokens per second in each stretch, as steps: of each answer its tokens, shared evenly among its events."""
        edges_ns = [self.zero_ns + round(edge_s * 1e9) for edge_s in self.edges]
        totals = [0.0] * (len(edges_ns) - 1)
        for record in self.records:
            if not record.token_ns:
                continue
            per_event, seen = record.tokens / len(record.token_ns), 0
            last = len(totals) - 1
            for number in range(min(last, max(0, bisect_right(edges_ns, record.token_ns[0]) - 1)), len(totals)):
                until = len(record.token_ns) if number == last else bisect_left(record.token_ns, edges_ns[number + 1], seen)
                totals[number] += (until - seen) * per_event
                seen = until
                if seen == len(record.token_ns):
                    break
        return self._steps([total / (end_s - begin_s) for total, (begin_s, end_s) in zip(totals, pairwise(self.edges), strict=True)])

    def under_way(self) -> Points:
        """The most requests under way at the same time in each stretch, as steps."""
        changes = sorted(chain.from_iterable(((record.start_ns, 1), (record.end_ns, -1)) for record in self.records))
        found, now, place = [], 0, 0
        for end_s in self.edges[1:]:
            most = now
            while place < len(changes) and self.at_s(changes[place][0]) < end_s:
                now += changes[place][1]
                most = max(most, now)
                place += 1
            found.append(float(most))
        return self._steps(found)

    def slices(self, count: int) -> list[tuple[float, float, list[Record]]]:
        """The measured phase in equal parts: begin, end, and the requests that were due within."""
        if not self.measured or self.measured_s <= 0:
            return []
        width_s = self.measured_s / count
        parts: list[list[Record]] = [[] for _ in range(count)]
        for record in self.measured:
            parts[min(count - 1, int(self.at_s(record.moment_ns) / width_s))].append(record)
        return [(number * width_s, (number + 1) * width_s, part) for number, part in enumerate(parts)]

    def percentiles(self, value: Callable[[Record], float | None], percent: float, fewest: int) -> Points:
        """A percentile of the successes of each part of the measured phase, in its middle; only where there are enough."""
        points = []
        count = min(_MOST_PARTS, len(self.measured) // _PER_PART)
        if count < _FEWEST_PARTS:
            return ()
        for begin_s, end_s, records in self.slices(count):
            values = sorted(found for record in records if record.succeeded and (found := value(record)) is not None)
            if len(values) >= fewest:
                points.append(((begin_s + end_s) / 2, percentile(values, percent)))
        return tuple(points)

    def _steps(self, values: Sequence[float]) -> Points:
        return (*zip(self.edges, values, strict=False), (self.end_s, values[-1]))


def course_of(material: Material) -> Course:
    """The course of a run."""
    records, window = material.records, material.window
    moments = [record.moment_ns for record in records]
    zero_ns = window.start_ns if window else min(moments, default=0)
    measured = [record for record in records if window and window.holds(record.moment_ns)]
    measured_s = window.duration_s if window else 0.0
    began_s = min(0.0, (min(moments, default=zero_ns) - zero_ns) / 1e9)
    end_s = max(measured_s, (max((record.end_ns for record in records), default=zero_ns) - zero_ns) / 1e9, _LEAST_S)
    most = min(_MOST_BINS, max(_FEWEST_BINS, len(records) // _PER_BIN))
    bin_s = next((width_s for width_s in _WIDTHS_S if (end_s - began_s) / width_s <= most), (end_s - began_s) / most)
    before = math.ceil(-began_s / bin_s)  # whole stretches, so that one begins where the measured phase does
    return Course(records, measured, zero_ns, -before * bin_s, measured_s, end_s, bin_s)
