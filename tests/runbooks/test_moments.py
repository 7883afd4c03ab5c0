"""Times between moments of a run, whatever happened to its process, its machine and its clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.runbooks.moments import begin_of, elapsed_s, time_of

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def entry(event, step="", after_s=0.0, boot="a", **more):
    return {"event": event, "step": step, "at": (NOON + timedelta(seconds=after_s)).isoformat(), "monotonic_s": 1000 + after_s, "boot": boot, **more}


OPENED = entry("opened")


@pytest.mark.parametrize(
    ("events", "began"),
    [
        ([], None),
        ([("begun", "fetch")], None),
        ([("begun", "strike")], 0),
        ([("begun", "strike"), ("failed", "strike"), ("begun", "strike")], 0),
        ([("begun", "strike"), ("done", "strike"), ("undone", "strike")], None),
        ([("begun", "strike"), ("done", "strike"), ("undone", "strike"), ("begun", "strike")], 3),
        ([("begun", "strike"), ("undone", "put-back"), ("begun", "put-back")], 0),
    ],
)
def test_a_disaster_counts_from_its_first_begin_unless_it_was_undone(events, began):
    entries = [entry(event, step, index) for index, (event, step) in enumerate(events)]
    assert begin_of([OPENED, *entries], "strike") == (None if began is None else entries[began])


def test_without_a_disaster_the_run_itself_counts_also_when_it_was_taken_up_again():
    assert begin_of([OPENED, entry("begun", "fetch", 1), entry("undone", "fetch", 2), entry("resumed", "", 3)], None) is OPENED
    assert begin_of([entry("torn")], None) is None


def test_a_clock_that_was_set_changes_nothing():
    late = {**entry("begun", after_s=5), "at": (NOON - timedelta(days=3)).isoformat()}
    assert elapsed_s(OPENED, late) == 5.0


def test_after_a_reboot_the_clock_counts_and_never_backwards():
    assert elapsed_s(OPENED, entry("begun", after_s=90, boot="b")) == 90.0
    assert elapsed_s(OPENED, {**entry("begun", boot="b"), "at": (NOON - timedelta(hours=1)).isoformat()}) == 0.0
    assert elapsed_s({**OPENED, "boot": ""}, {**entry("begun", after_s=7, boot=""), "monotonic_s": 1}) == 7.0


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.booleans())
def test_it_is_never_negative_and_grows_with_time(first_s, second_s, same_boot):
    early, late = sorted((first_s, second_s))
    boot = "a" if same_boot else "b"
    times = [elapsed_s(OPENED, entry("x", after_s=moment, boot=boot)) for moment in (early, late)]
    assert 0 <= times[0] <= times[1]
    assert time_of(entry("x")).tzinfo is not None
