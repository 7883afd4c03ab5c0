"""A histogram of durations whose memory does not grow, and that can be joined with others.

Buckets grow by a fixed ratio, so a percentile is true to 1 % whether it is a tenth of a millisecond or a minute.
Reported percentiles are exact ones, from the records; these are for what is shown while a test runs, and for what has no
record, such as how late the generator's loop was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

_RATIO = 1.02
_LOG = math.log(_RATIO)
_LEAST_NS = 1_000
"""What is shorter counts as this."""


class Histogram:
    """Counts durations in nanoseconds."""

    __slots__ = ("_counts", "total", "worst_ns")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.total = 0
        self.worst_ns = 0

    def add(self, duration_ns: int, times: int = 1) -> None:
        """Count a duration; a negative one counts as none."""
        bucket = int(math.log(duration_ns / _LEAST_NS) / _LOG) + 1 if duration_ns > _LEAST_NS else 0
        self._counts[bucket] = self._counts.get(bucket, 0) + times
        self.total += times
        if duration_ns > self.worst_ns:
            self.worst_ns = duration_ns

    def join(self, other: Histogram) -> None:
        """Take over all that another has counted."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self.total += other.total
        self.worst_ns = max(self.worst_ns, other.worst_ns)

    def percentile_ms(self, percent: float) -> float | None:
        """The duration that `percent` (0..100) of all do not exceed, at most 2 % too long; None when there are none."""
        if not self.total:
            return None
        if percent >= 100:
            return self.worst_ns / 1e6
        wanted, seen = self.total * percent / 100, 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                break
        return float(min(_LEAST_NS * _RATIO**bucket, max(self.worst_ns, 0)) / 1e6)

    def as_dict(self) -> dict[str, int]:
        """For another process."""
        return {**{str(bucket): count for bucket, count in self._counts.items()}, "worst_ns": self.worst_ns}

    @classmethod
    def from_dict(cls, told: Mapping[str, int]) -> Histogram:
        """What `as_dict` told."""
        histogram = cls()
        histogram.worst_ns = told["worst_ns"]
        histogram._counts = {int(bucket): count for bucket, count in told.items() if bucket != "worst_ns"}
        histogram.total = sum(histogram._counts.values())
        return histogram
