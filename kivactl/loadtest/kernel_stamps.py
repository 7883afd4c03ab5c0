"""When bytes arrived, as the kernel noted it: true however late they are read.

The kernel stamps by the wall clock, which may jump; its distance to the monotonic clock is looked up anew for each batch of reads, and a
stamp that cannot be so, because a jump came in between, is not used. Of bytes that are read together the last ones' stamp is given.

Source: https://www.kernel.org/doc/html/latest/networking/timestamping.html, SO_TIMESTAMPNS; for TCP since Linux 4.13.
"""

from __future__ import annotations

import _socket
import struct
import time
from collections.abc import Callable

_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@ll")
_unpacked = _TIMESPEC.unpack
ANCILLARY_BYTES: int = _socket.CMSG_SPACE(_TIMESPEC.size)
_SURE_NS = 10_000
"""Two looks at one clock with one at the other between them take a tenth of a microsecond; when longer, something came in between."""
_LOOKS = 5
_SLACK_NS = 1_000_000
"""So much the distance of the clocks may be off by before a stamp is disbelieved."""


def ask_for(connection: _socket.socket) -> None:
    """Let the kernel stamp what arrives on a socket; where it cannot, what is read comes without a stamp."""
    try:
        connection.setsockopt(_socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    except OSError:
        return


class KernelStamps:
    """Turns the kernel's stamps into those of `time.perf_counter_ns`.

    Args:
        monotonic_ns: The clock of the stamps that are wanted.
        wall_ns: The clock of the kernel's.
    """

    __slots__ = ("_ahead_ns", "_monotonic_ns", "_wall_ns")

    def __init__(self, monotonic_ns: Callable[[], int] = time.perf_counter_ns, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._monotonic_ns, self._wall_ns = monotonic_ns, wall_ns
        self._ahead_ns = 0

    def look(self) -> None:
        """Compare the clocks; to be called before each batch of reads."""
        least_ns = None
        for _ in range(_LOOKS):
            before_ns = self._monotonic_ns()
            wall_ns = self._wall_ns()
            took_ns = self._monotonic_ns() - before_ns
            if least_ns is None or took_ns < least_ns:
                least_ns, self._ahead_ns = took_ns, wall_ns - before_ns - took_ns // 2
            if took_ns <= _SURE_NS:
                return

    def arrival_ns(self, ancillary: list[tuple[int, int, bytes]], earliest_ns: int, latest_ns: int) -> int | None:
        """When what was read arrived; None where the kernel did not say, or said what cannot be.

        Args:
            ancillary: As `recvmsg` gives it.
            earliest_ns: Of the same connection what arrived, or was sent, before.
            latest_ns: When it was read.
        """
        try:
            ((level, kind, content),) = ancillary
            seconds, rest_ns = _unpacked(content)
        except (ValueError, struct.error):
            return None
        stamp_ns: int = seconds * 1_000_000_000 + rest_ns - self._ahead_ns
        if kind != _SO_TIMESTAMPNS or level != _socket.SOL_SOCKET:
            return None
        if earliest_ns <= stamp_ns <= latest_ns:
            return stamp_ns
        if earliest_ns - _SLACK_NS <= stamp_ns <= latest_ns + _SLACK_NS:
            return min(max(stamp_ns, earliest_ns), latest_ns)
        return None
