from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.loadtest.histogram import Histogram

durations = st.lists(st.integers(-(10**6), 10**12), min_size=1, max_size=200)


def histogram_of(durations_ns: list[int]) -> Histogram:
    histogram = Histogram()
    for duration_ns in durations_ns:
        histogram.add(duration_ns)
    return histogram


@given(durations, st.sampled_from([50, 90, 95, 99]))
def test_a_percentile_is_true_to_its_step(durations_ns: list[int], percent: int) -> None:
    truth_ms = sorted(durations_ns)[math.ceil(len(durations_ns) * percent / 100) - 1] / 1e6
    found = histogram_of(durations_ns).percentile_ms(percent)
    assert found is not None
    assert truth_ms - 1e-6 <= found <= max(0.001, truth_ms * 1.0201) or found == pytest.approx(max(durations_ns) / 1e6)


@given(durations, durations)
def test_joined_ones_are_one_of_all(one: list[int], other: list[int]) -> None:
    joined = histogram_of(one)
    joined.join(Histogram.from_dict(json.loads(json.dumps(histogram_of(other).as_dict()))))
    both = histogram_of(one + other)
    assert joined.as_dict() == both.as_dict()
    assert [joined.percentile_ms(percent) for percent in (50, 99, 100)] == [both.percentile_ms(percent) for percent in (50, 99, 100)]


def test_its_memory_does_not_grow_with_what_it_counts() -> None:
    histogram = histogram_of([number * 1_000 for number in range(100_000)])
    assert histogram.total == 100_000
    assert len(histogram.as_dict()) < 1000


def test_nothing_has_no_percentile() -> None:
    assert Histogram().percentile_ms(99) is None
