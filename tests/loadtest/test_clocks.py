"""Two clocks held against each other, and records shifted from one into the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.loadtest.clocks import Exchange, Offset, error_after, offset_from
from kivactl.loadtest.record import Record

S, MS = 1_000_000_000, 1_000_000
DAY_NS = 86_400 * S
clocks_ns = st.integers(-1000 * DAY_NS, 1000 * DAY_NS)
delays_ns = st.integers(0, 10 * S)


@pytest.mark.parametrize(
    ("exchanges", "offset"),
    [
        ([Exchange(1000, 6005, 1010)], Offset(5000, 5)),
        ([Exchange(1000, 6005, 1011)], Offset(5000, 6)),
        ([Exchange(0, 700, 400), Exchange(1000, 1505, 1010), Exchange(2000, 2900, 2800)], Offset(500, 5)),
        ([Exchange(9000, 10, 9000)], Offset(-8990, 0)),
    ],
)
def test_the_quickest_exchange_tells_the_offset(exchanges: list[Exchange], offset: Offset) -> None:
    assert offset_from(exchanges) == offset


def test_without_an_exchange_nothing_is_known() -> None:
    with pytest.raises(ValueError):
        offset_from([])


@given(clocks_ns, st.lists(st.tuples(clocks_ns, delays_ns, delays_ns), min_size=1))
def test_the_true_offset_lies_within_the_error(true_ns: int, ways: list[tuple[int, int, int]]) -> None:
    """However unlike the way there and the way back are."""
    exchanges = [Exchange(sent_ns, sent_ns + there_ns + true_ns, sent_ns + there_ns + back_ns) for sent_ns, there_ns, back_ns in ways]
    found = offset_from(exchanges)
    assert abs(found.offset_ns - true_ns) <= found.error_ns
    assert found.error_ns <= min(exchange.round_trip_ns for exchange in exchanges) / 2 + 1


@given(clocks_ns, st.integers(-S, S), delays_ns, delays_ns, delays_ns, delays_ns)
def test_a_drift_is_within_the_error_that_is_told_later(
    true_ns: int, drift_ns: int, there_ns: int, back_ns: int, later_there_ns: int, later_back_ns: int
) -> None:
    begun = offset_from([Exchange(0, there_ns + true_ns, there_ns + back_ns)])
    later = Exchange(DAY_NS, DAY_NS + later_there_ns + true_ns + drift_ns, DAY_NS + later_there_ns + later_back_ns)
    error_ns = error_after(begun, [later])
    assert abs(begun.offset_ns - (true_ns + drift_ns)) <= error_ns
    assert error_ns >= begun.error_ns == error_after(begun, [])


stamps = st.integers(0, 1000 * DAY_NS)
records = st.builds(
    Record,
    index=st.integers(0),
    start_ns=stamps,
    end_ns=stamps,
    sent_ns=st.none() | stamps,
    connect_ns=st.integers(0, S),
    token_ns=st.lists(stamps).map(tuple),
    completion_tokens=st.none() | st.integers(1, 1000),
    scheduled_ns=st.none() | stamps,
    first_output_ns=st.none() | stamps,
    is_streamed=st.booleans(),
)
DURATIONS = ("ttft_s", "ttft_due_s", "ttfo_s", "e2e_s", "e2e_due_s", "tpot_s", "gaps_s", "itls_s", "send_lag_s", "connect_ns", "tokens")


@given(records, clocks_ns, st.lists(stamps, min_size=2, max_size=2))
def test_a_shift_changes_no_duration_and_no_membership(record: Record, by_ns: int, window: list[int]) -> None:
    shifted = record.shifted(by_ns)
    assert [getattr(shifted, name) for name in DURATIONS] == [getattr(record, name) for name in DURATIONS]
    assert shifted.moment_ns - record.moment_ns == shifted.end_ns - record.end_ns == by_ns
    begin_ns, end_ns = sorted(window)
    assert shifted.tokens_within(begin_ns + by_ns, end_ns + by_ns) == record.tokens_within(begin_ns, end_ns)
    assert shifted.shifted(-by_ns) == record


def test_every_stamp_is_shifted() -> None:
    """A field that is added to a record has to be thought of here: a moment is shifted, a duration is not."""
    record = Record(0, 1, 2, sent_ns=3, connect_ns=4, token_ns=(5, 6), scheduled_ns=7, first_output_ns=8)
    moved = {name for name in Record.__slots__ if getattr(record.shifted(100), name) != getattr(record, name)}
    assert moved == {name for name in Record.__slots__ if name.endswith("_ns")} - {"connect_ns"}
