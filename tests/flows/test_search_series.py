"""What whoever watches a search is told of its runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from loadtest_material import probe

from kivactl.flows.search import _interval_words, _Series
from kivactl.loadtest.assignment import RATE, USERS
from kivactl.loadtest.levels import Level


@pytest.mark.parametrize(
    ("known", "met", "missed"),
    [
        ([], None, None),
        ([(2, True), (4, None)], 2, None),
        ([(2, True), (4, True), (8, False)], 4, 8),
        ([(2, True), (4, True), (8, False), (4, False)], 2, 4),
        ([(2, False)], None, 2),
    ],
)
def test_between_which_loads_the_answer_lies(known: list[tuple[float, bool | None]], met: float | None, missed: float | None) -> None:
    series = _Series(cast("Any", None), (), Path(), cast("Any", None), probes=[probe(load, kept) for load, kept in known])
    assert series._place(3.0, "requests/s") == {"number": len(known) + 1, "of": None, "load": 3.0, "unit": "requests/s", "met": met, "missed": missed}


@pytest.mark.parametrize(
    ("known", "chosen"),
    [
        ([(2, True), (4, True), (8, False)], 1),
        ([(2, True), (4, True), (8, False), (4, True)], 3),
        ([(2, True), (4, True), (8, False), (4, None)], 1),  # interrupted while it was tried once more
        ([(2, True), (4, None), (4, True), (8, False)], 2),
        ([(2, False), (1, False)], 1),
    ],
)
def test_which_run_an_answer_stands_on(known: list[tuple[float, bool | None]], chosen: int) -> None:
    series = _Series(cast("Any", None), (), Path(), cast("Any", None), probes=[probe(load, kept) for load, kept in known])
    assert series.last_that_kept(4) == chosen


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (2.0, 2.38, "between 2 and 2.38"),
        (0.0, 2.38, "surely below 2.38"),
        (2.0, None, "at least 2"),
        (0.0, None, "too few requests to be sure of any rate"),
    ],
)
def test_how_sure_a_capacity_is(low: float, high: float | None, words: str) -> None:
    assert _interval_words(low, high) == words


@pytest.mark.parametrize(
    ("unit", "facts", "is_hopeless"),
    [
        (RATE, {}, False),
        (RATE, {"ttft_p50_ms": 6001.0}, True),
        (RATE, {"ttft_p50_ms": 6001.0, "elapsed_s": 13.0}, False),
        (RATE, {"itl_p50_ms": 601.0}, True),
        (RATE, {"itl_p50_ms": 599.0}, False),
        (RATE, {"itl_p50_ms": 601.0, "requests": 19}, False),
        (USERS, {"ttft_p50_ms": 6001.0, "itl_p50_ms": 601.0}, False),
        (RATE, {"ttft_p50_ms": None, "itl_p50_ms": None, "requests": 0}, False),
    ],
)
def test_what_only_grows_is_not_waited_for(unit: str, facts: dict[str, Any], is_hopeless: bool) -> None:
    levels = (Level("ttft_p95", 2.0), Level("tpot_p95", 0.2), Level("ttft_p99", 4.0), Level("error_ratio", 0.01))
    series = _Series(cast("Any", None), levels, Path(), cast("Any", SimpleNamespace(warm_up_s=5.0)))
    seen = {"elapsed_s": 14.0, "ttft_p50_ms": 5999.0, "itl_p50_ms": 20.0, "requests": 20, **facts}
    assert series._hopeless(unit)(seen) is is_hopeless


def test_nothing_is_hopeless_where_no_time_is_promised() -> None:
    series = _Series(cast("Any", None), (Level("error_ratio", 0.01),), Path(), cast("Any", SimpleNamespace(warm_up_s=5.0)))
    assert not series._hopeless(RATE)({"elapsed_s": 99.0, "ttft_p50_ms": 1e6, "itl_p50_ms": 1e6, "requests": 99})
