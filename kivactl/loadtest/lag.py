"""How late the load generator's event loop is: while it is busy, every stamp it takes is late by as much."""

from __future__ import annotations

_BUCKET_NS = 50_000
_BUCKETS = 40_000
"""Up to two seconds; what is later counts as two seconds."""


class LagHistogram:
    """Counts delays in steps of 0.05 ms, so that an hour of probing costs no more memory than a minute."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._total = 0

    def add(self, lag_ns: int) -> None:
        """Count one delay; a negative one counts as none."""
        self._counts[min(max(lag_ns, 0) // _BUCKET_NS, _BUCKETS - 1)] += 1
        self._total += 1

    def percentile_ms(self, percent: float) -> float | None:
        """The delay that `percent` (0..100) of the probes do not exceed, rounded up to the step; None without probes."""
        if not self._total:
            return None
        wanted = self._total * percent / 100
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= wanted and count:
                return (bucket + 1) * _BUCKET_NS / 1e6
        return _BUCKETS * _BUCKET_NS / 1e6
