from __future__ import annotations

import math
from dataclasses import replace
from itertools import count
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queueing import searched as searched_on_a_queue

from kivactl.loadtest.capacity import Finding, Search, Share, finding_of, settling_s, shares_of
from kivactl.loadtest.levels import levels_from
from kivactl.loadtest.record import FailureKind, Record

MS = 1_000_000


def share(good: int, due: int = 20) -> Share:
    return Share("ttft_p95", good, due, 0.95)


def searched(search: Search, truth_rps: float) -> tuple[float, int]:
    """What a search finds on a platform that keeps its levels up to a rate exactly, and after how many probes."""
    for probes in count():
        rate = search.next_rps()
        if rate is None:
            return search.met_rps, probes
        assert probes < 60
        search.tell(rate, met=rate <= truth_rps)
    raise AssertionError


@given(st.floats(0.2, 500), st.floats(0.1, 10), st.floats(0.01, 0.3))
def test_the_capacity_is_found_as_precisely_as_asked_for(truth_rps: float, start_rps: float, precision: float) -> None:
    search = Search(start_rps, 10_000, precision)
    found, probes = searched(search, truth_rps)
    if truth_rps < start_rps / 64:
        assert found == 0
    else:
        assert found <= truth_rps <= found * (1 + precision) * (1 + 1e-9)
        assert search.confirmed_rps == found
        assert probes <= 4 + math.ceil(abs(math.log2(truth_rps / start_rps))) + math.ceil(math.log2(math.log(2) / math.log1p(precision)))


@pytest.mark.parametrize(("answer_s", "warm_up_s"), [(None, 5.0), (3.0, 5.0), (8.2, 9.0), (100.0, 40.0)])
def test_a_probe_warms_up_for_as_long_as_answers_take(answer_s: float | None, warm_up_s: float) -> None:
    assert settling_s(5.0, answer_s, 40.0) == warm_up_s


def test_a_rate_is_tried_for_longer_where_that_is_needed() -> None:
    search = Search(1, 100, 0.05)
    assert search.next_probe() == (1, 1)
    assert search.take([share(18)]) is None  # too few to say, and not as promised
    assert search.next_probe() == (1, 2)
    assert search.take([share(38, 40)]) is None  # a little below
    assert search.next_probe() == (1, 4)
    assert search.take([share(79, 80)])  # no more than before can say, but as promised
    assert search.next_probe() == (2, 1)
    assert search.take([share(20)])  # too few to say: a higher rate says more
    assert search.next_probe() == (4, 1)
    assert search.take([share(5)]) is False
    assert (search.surely_met_rps, search.surely_missed_rps) == (0, 4)
    assert search.next_probe() == (math.sqrt(8), 1)
    assert search.take([share(20)]) is None  # here it matters
    assert search.next_probe() == (math.sqrt(8), 2)
    assert search.take([share(600, 600)])
    assert search.surely_missed_rps == 4
    assert search.surely_met_rps == math.sqrt(8)


def test_what_few_requests_cannot_say_those_at_neighbouring_rates_help_to() -> None:
    search = Search(0.5, 100, 0.05, met=[0.5, 1, 2])
    search.seen = {0.5: (share(21, 21),), 1: (share(52, 52),), 2: (share(74, 76),), 4: (share(36, 40),), 8: (share(36, 40),), 16: (share(0, 1),)}
    assert search.surely_met_rps == 0.5
    assert search.surely_missed_rps == 8
    search.seen = {0.5: (share(20),), 4: (share(18),)}
    assert (search.surely_met_rps, search.surely_missed_rps) == (0, None)


def test_what_is_found_is_confirmed_for_longer() -> None:
    search = Search(1, 1, 0.05)
    assert search.take([share(100, 100)])
    assert search.next_probe() == (1, 4)
    assert search.take([share(400, 400)])
    assert search.next_probe() is None
    assert search.confirmed_rps == 1


def test_a_search_on_a_queue_ends_near_the_truth_and_knows_how_near() -> None:
    found = [searched_on_a_queue(seed, probe_s=40, precision=0.03) for seed in range(20)]
    assert abs(mean(one.error for one in found)) < 0.02
    assert all(abs(one.error) < 0.07 for one in found)
    assert sum(one.holds for one in found) >= 17


def test_a_platform_that_keeps_nothing_has_none() -> None:
    assert searched(Search(1, 100, 0.05), 0) == (0, 7)


def test_nothing_above_the_limit_is_tried() -> None:
    search = Search(1, 10, 0.05)
    assert searched(search, 1000) == (10, 6)
    assert search.confirmed_rps == 10


def test_what_does_not_hold_once_more_is_given_up() -> None:
    search = Search(1, 100, 0.5)
    for rate, met in ((1, True), (2, True), (4, False), (math.sqrt(8), False), (2, False)):
        assert search.next_rps() == pytest.approx(rate)
        search.tell(rate, met=met)
    assert (search.met_rps, search.missed_rps, search.confirmed_rps) == (1, 2, None)
    search.tell(math.sqrt(2), met=True)
    assert search.next_rps() == math.sqrt(2)
    search.tell(math.sqrt(2), met=True)
    assert search.next_rps() is None


@pytest.mark.parametrize(
    ("good", "due", "finding"),
    [
        (100, 100, Finding.MET),
        (96, 100, Finding.UNDECIDED),
        (95, 100, Finding.UNDECIDED),
        (85, 100, Finding.MISSED),
        (20, 20, Finding.UNDECIDED),
        (0, 0, Finding.UNDECIDED),
    ],
)
def test_a_share_is_met_missed_or_not_sure(good: int, due: int, finding: Finding) -> None:
    assert Share("ttft_p95", good, due, 0.95).finding is finding


def test_one_level_that_is_missed_decides_and_errors_count_as_they_were_seen() -> None:
    met, undecided, missed = Share("ttft_p95", 100, 100, 0.95), Share("tpot_p95", 20, 20, 0.95), Share("e2e_p50", 0, 100, 0.5)
    assert finding_of([met]) is Finding.MET
    assert finding_of([met, undecided]) is Finding.UNDECIDED
    assert finding_of([met, undecided, missed]) is Finding.MISSED
    assert finding_of([met, Share("error_ratio", 100, 100, 0.99)]) is Finding.MET
    assert finding_of([met, Share("error_ratio", 98, 100, 0.99)]) is Finding.MISSED


def test_probes_of_one_rate_count_together() -> None:
    assert Share("ttft_p95", 20, 20, 0.95) + Share("ttft_p95", 70, 80, 0.95) == Share("ttft_p95", 90, 100, 0.95)


def answered(ttft_ms: int, scheduled_ns: int = 0) -> Record:
    stamps = (scheduled_ns + ttft_ms * MS, scheduled_ns + (ttft_ms + 10) * MS)
    return Record(0, scheduled_ns, stamps[-1], sent_ns=scheduled_ns, token_ns=stamps, completion_tokens=2, scheduled_ns=scheduled_ns, finish_reason="length")


def test_levels_as_shares_of_those_who_were_answered() -> None:
    measured = [answered(100), answered(300), Record(2, 0, 1, failure=FailureKind.STATUS)]
    levels = levels_from({"ttft_p95": 0.2, "error_ratio": 0.1, "attainment": 0.9})
    assert tuple(replace(share, parts=()) for share in shares_of(measured, 4, levels)) == (
        Share("ttft_p95", 1, 3, 0.95),
        Share("error_ratio", 2, 4, 0.9),
        Share("attainment", 1, 4, 0.9),
    )
