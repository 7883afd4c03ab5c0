"""The clocks of two machines held against each other; pure.

A machine's monotonic clock counts from its own start, so two of them differ by hours. A question and its answer bound the difference: the
other clock was read after the question left and before the answer came. The quickest of several exchanges bounds it best.

Source: Cristian, "Probabilistic clock synchronization", Distributed Computing 3 (1989).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer, in nanoseconds.

    Attributes:
        sent_ns: When the question left, by this clock.
        there_ns: When it was answered, by the other clock.
        back_ns: When the answer was here, by this clock.
    """

    sent_ns: int
    there_ns: int
    back_ns: int

    @property
    def round_trip_ns(self) -> int:
        return self.back_ns - self.sent_ns


@dataclass(frozen=True, slots=True)
class Offset:
    """How far another clock is ahead of this one, in nanoseconds: `offset_ns`, at most `error_ns` wrong."""

    offset_ns: int = 0
    error_ns: int = 0


def offset_from(exchanges: Iterable[Exchange]) -> Offset:
    """The offset of another clock, of the exchange with the least round trip; the half of that is how wrong it may be.

    Raises:
        ValueError: There is no exchange.
    """
    quickest = min(exchanges, key=lambda exchange: exchange.round_trip_ns)
    half_ns = quickest.round_trip_ns // 2
    return Offset(quickest.there_ns - quickest.sent_ns - half_ns, quickest.round_trip_ns - half_ns)


def error_after(offset: Offset, later: Sequence[Exchange]) -> int:
    """How wrong an offset was at most until some later exchanges, for clocks drift apart: `error_ns` or more. Drift is taken to be even."""
    if not later:
        return offset.error_ns
    now = offset_from(later)
    return max(offset.error_ns, abs(now.offset_ns - offset.offset_ns) + now.error_ns)
