from __future__ import annotations

import random
from dataclasses import asdict
from typing import Any

import pytest

from kivactl.loadtest.comparison import Estimate, Side, compare, difference_of, doubts
from kivactl.loadtest.metrics import Window, attainment_of
from kivactl.loadtest.record import FailureKind, Record

MS, S = 1_000_000, 1_000_000_000
WINDOW = Window(0, 10 * S)


def side(seed: int, ttft_ms: float, count: int = 400, failures: int = 0, **summary: Any) -> Side:
    source = random.Random(seed)
    records = []
    for index in range(count):
        start_ns = index * 10 * S // count
        first_ns = start_ns + round(source.lognormvariate(0, 0.3) * ttft_ms * MS)
        stamps = tuple(first_ns + number * 20 * MS for number in range(5))
        failure = FailureKind.STATUS if failures and index % (count // failures) == 0 else None
        records.append(Record(index, start_ns, stamps[-1], sent_ns=start_ns, token_ns=stamps, completion_tokens=5, failure=failure))
    told = {"scenario": "chat", "model": "m", "load": "8 users", "processes": 1, "attainment": asdict(attainment_of(records, count, ())), **summary}
    return Side(told, records, WINDOW)


def verdicts(first: Side, second: Side) -> dict[str, str]:
    return {found.name: found.verdict for found in compare(first, second)}


def test_runs_of_the_same_platform_do_not_differ() -> None:
    false_alarms = 0
    for seed in range(20):
        found = verdicts(side(seed, 100), side(seed + 1000, 100))
        false_alarms += found["ttft_p50"] != "same"
    assert false_alarms <= 3  # an interval of 95 % errs once in twenty times


def test_a_slower_platform_is_worse_and_a_faster_one_better() -> None:
    assert verdicts(side(1, 100), side(2, 150))["ttft_p50"] == "worse"
    assert verdicts(side(1, 150), side(2, 100))["ttft_p95"] == "better"


def test_failures_and_attainment() -> None:
    found = verdicts(side(1, 100), side(2, 100, failures=80))
    assert (found["error_ratio"], found["attainment"]) == ("worse", "worse")
    assert (found["requests_per_s"], found["tpot_p50"]) == ("worse", "same")


def test_few_requests_have_wide_intervals() -> None:
    few = next(found for found in compare(side(1, 100, 10), side(2, 120, 10)) if found.name == "ttft_p50")
    many = next(found for found in compare(side(1, 100, 1000), side(2, 120, 1000)) if found.name == "ttft_p50")
    assert few.high - few.low > 3 * (many.high - many.low)
    assert (few.verdict, many.verdict) == ("same", "worse")


def test_gaps_of_one_answer_are_no_independent_ones() -> None:
    found = {one.name: one for one in compare(side(1, 100), side(2, 100))}
    assert found["itl_p50"].verdict == "same"


def test_a_difference_has_the_interval_of_both() -> None:
    found = difference_of("x", Estimate(10, 9, 11), Estimate(20, 18, 22), is_more_better=False)
    assert (found.low, found.high) == pytest.approx((10 - 5**0.5, 10 + 5**0.5))
    assert found.change_ratio == 1.0
    assert found.as_dict()["verdict"] == "worse"
    assert difference_of("x", Estimate(0, 0, 0), Estimate(0, 0, 1), is_more_better=False).change_ratio is None


def test_a_change_that_nobody_would_act_on_is_none() -> None:
    assert difference_of("x", Estimate(100, 100, 100), Estimate(100.9, 100.9, 100.9), is_more_better=False).verdict == "same"


def test_doubts() -> None:
    told = side(1, 1).summary
    assert list(doubts(told, told)) == []
    found = list(doubts({**told, "invalid": "it was late"}, {**told, "load": "9 users", "interrupted": True}))
    assert found == ["the load differs: '8 users' and '9 users'", "the first run is no measurement: it was late", "the second run was interrupted"]


def test_a_run_without_answers_has_no_times() -> None:
    empty = Side(side(1, 1).summary, [], WINDOW)
    assert {found.name for found in compare(empty, side(1, 100))} == {"attainment", "requests_per_s", "output_tokens_per_s"}
