"""The kernel's stamps of what arrives: of which moment they are, and when they are not believed."""

from __future__ import annotations

import _socket
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.loadtest.kernel_stamps import ANCILLARY_BYTES, KernelStamps, ask_for

MS = 1_000_000
BOOTED_NS = 1_790_000_000_000_000_000
"""What the wall clock said when the monotonic clock was nought."""


def said(wall_ns: int) -> list[tuple[int, int, bytes]]:
    return [(_socket.SOL_SOCKET, 35, struct.pack("@ll", *divmod(wall_ns, 1_000_000_000)))]


def stamps(monotonic: Iterable[int], wall: Iterable[int]) -> KernelStamps:
    """Clocks that say these one after the other; looked at once."""
    sayings: tuple[Iterator[int], Iterator[int]] = (iter(monotonic), iter(wall))
    found = KernelStamps(lambda: next(sayings[0]), lambda: next(sayings[1]))
    found.look()
    return found


@given(st.integers(0, 10**15), st.integers(0, 10**9))
def test_a_stamp_is_of_the_monotonic_clock(arrived_ns: int, later_ns: int) -> None:
    found = stamps([arrived_ns, arrived_ns], [BOOTED_NS + arrived_ns])
    assert found.arrival_ns(said(BOOTED_NS + arrived_ns), 0, arrived_ns + later_ns) == arrived_ns


@pytest.mark.parametrize(
    ("arrived_ns", "stamp_ns"),
    [
        (500 * MS, 500 * MS),
        (399 * MS, 400 * MS),  # the clocks' distance is known to a hair only: nothing arrives before what came before it
        (601 * MS, 600 * MS),  # nor after it was read
        (398 * MS, None),  # the wall clock was set meanwhile
        (602 * MS, None),
    ],
)
def test_what_cannot_be_is_not_believed(arrived_ns: int, stamp_ns: int | None) -> None:
    found = stamps([0, 0], [BOOTED_NS])
    assert found.arrival_ns(said(BOOTED_NS + arrived_ns), 400 * MS, 600 * MS) == stamp_ns


@pytest.mark.parametrize("ancillary", [[], [(_socket.SOL_SOCKET, 36, b"x" * 16)], [(_socket.SOL_SOCKET, 35, b"short")], [(6, 35, b"x" * 16)]])
def test_where_the_kernel_says_nothing(ancillary: list[tuple[int, int, bytes]]) -> None:
    assert stamps([0, 0], [BOOTED_NS]).arrival_ns(ancillary, 0, 10) is None


def test_a_look_that_was_interrupted_is_repeated() -> None:
    found = stamps([0, 8 * MS, 10 * MS, 10 * MS + 100], [BOOTED_NS + 7 * MS, BOOTED_NS + 10 * MS + 50])
    assert found.arrival_ns(said(BOOTED_NS + 3 * MS), 0, 20 * MS) == 3 * MS


def test_when_each_look_is_interrupted_the_shortest_counts() -> None:
    times = [(0, 9 * MS), (10 * MS, 11 * MS), (20 * MS, 25 * MS), (30 * MS, 36 * MS), (40 * MS, 47 * MS)]
    found = stamps([time_ns for pair in times for time_ns in pair], [BOOTED_NS + sum(pair) // 2 + (pair != times[1]) * MS for pair in times])
    assert found.arrival_ns(said(BOOTED_NS + 3 * MS), 0, 50 * MS) == 3 * MS


def test_bytes_have_the_moment_of_their_arrival_however_late_they_are_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        reader: Any = one
        ask_for(reader)
        other, _ = listener.accept()
        with other:
            found, before_ns = KernelStamps(), time.perf_counter_ns()
            other.sendall(b"token")
            sent_ns = time.perf_counter_ns()
            time.sleep(0.02)
            found.look()
            received, ancillary, _, _ = one.recvmsg(100, ANCILLARY_BYTES)
            read_ns = time.perf_counter_ns()
    assert received == b"token"
    arrived_ns = found.arrival_ns(ancillary, 0, read_ns)
    assert arrived_ns is not None
    # The clocks are compared to within microseconds; twenty milliseconds lie between.
    assert before_ns - MS < arrived_ns < sent_ns + MS < read_ns


def test_a_kernel_without_stamps_is_no_fault() -> None:
    class Socket:
        def setsockopt(self, *_: int) -> None:
            raise OSError(92, "Protocol not available")

    refusing: Any = Socket()
    ask_for(refusing)
