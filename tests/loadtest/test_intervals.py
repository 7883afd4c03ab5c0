from __future__ import annotations

import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queueing import in_time

from kivactl.loadtest.distribution import percentile
from kivactl.loadtest.intervals import effect_of, interval_of, parts_of, share_interval, wilson


@pytest.mark.parametrize(("good", "total", "low", "high"), [(0, 0, 0, 1), (50, 100, 0.4038, 0.5962), (95, 100, 0.8882, 0.9785), (10, 10, 0.7225, 1.0)])
def test_wilson(good: int, total: int, low: float, high: float) -> None:
    assert wilson(good, total) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_wilsons_interval_holds_the_share(good: int, bad: int) -> None:
    low, high = wilson(good, good + bad)
    share = good / (good + bad) if good + bad else 0.5
    assert 0 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.sampled_from([50, 90, 95, 99]))
def test_a_percentiles_interval_holds_it(values: list[float], percent: int) -> None:
    ordered = sorted(values)
    low, high = interval_of(ordered, percent)
    assert ordered[0] <= low <= percentile(ordered, percent) + 1e-9
    assert low <= high <= ordered[-1]


def test_requests_in_order_make_five_parts() -> None:
    assert parts_of([True, False, True, True, False, True, True]) == ((1, 1), (0, 1), (2, 2), (0, 1), (2, 2))
    assert parts_of([True, False]) == ((1, 1), (0, 1))
    assert parts_of([]) == ()


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda pair: (pair[0], sum(pair))), max_size=12))
def test_an_effect_is_at_least_one(parts: list[tuple[int, int]]) -> None:
    assert effect_of(parts) >= 1


def test_parts_that_differ_by_chance_alone_have_none_and_a_bad_stretch_has_one() -> None:
    assert effect_of([(19, 20), (18, 20), (20, 20), (19, 20), (19, 20)]) == 1
    assert effect_of([(20, 20), (20, 20), (20, 20), (20, 20), (15, 20)]) == pytest.approx(2 * 5.263, abs=0.01)
    assert effect_of([(100, 100), (0, 100)]) == 1  # of two parts nothing can be said


def coverage(rate_rps: float, seconds: float, *, in_parts: bool) -> float:
    """How often an interval of one run holds what the long run shows, near a queue's limit."""
    source = random.Random(1)
    long = mean(in_time(rate_rps, 20_000, source))
    held = 0
    for _ in range(100):
        good = in_time(rate_rps, seconds, source)
        low, high = share_interval(sum(good), len(good), parts_of(good) if in_parts else ())
        held += low <= long <= high
    return held / 100


def test_near_the_limit_of_a_queue_its_requests_are_no_independent_ones() -> None:
    assert coverage(20, 40, in_parts=True) >= 0.9
    assert coverage(31, 120, in_parts=False) < 0.3
    assert coverage(31, 120, in_parts=True) >= 0.8
