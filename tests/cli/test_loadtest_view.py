"""What a terminal shows of a load test while it runs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.cli.loadtest_view import lines_for, sparkline

BEGUN = {
    "kind": "load",
    "warm_up_s": 5.0,
    "duration_s": 60.0,
    "requests": 0,
    "is_streamed": True,
    "levels": {"ttft_p95": 0.2, "tpot_p95": 0.1, "error_ratio": 0.01},
    "series": None,
}
FACTS = {
    "phase": "measuring",
    "elapsed_s": 26.0,
    "requests": 84,
    "failures": 0,
    "under_way": 3,
    "requests_per_s": 4.0,
    "tokens_per_s": 512.0,
    "ttft_p50_ms": 120.0,
    "ttft_p95_ms": 187.0,
    "itl_p50_ms": 20.4,
    "itl_p95_ms": 31.0,
    "generator_lag_p99_ms": 0.43,
    "due_rps": 4.0,
}


def facts(**changes: Any) -> dict[str, Any]:
    return {**FACTS, **changes}


def shown(begun: dict[str, Any], course: list[dict[str, Any]], width: int = 80, height: int = 24) -> list[str]:
    lines = [line.plain for line in lines_for(begun, course, width, height)]
    assert all(len(line) <= width for line in lines)
    return lines


def red(begun: dict[str, Any], last: dict[str, Any]) -> set[str]:
    """What stands out in the lines."""
    lines = lines_for(begun, [last], 100, 24)
    return {line.plain[span.start : span.end].strip() for line in lines for span in line.spans if span.style == "bold red"}


def line_of(label: str, begun: dict[str, Any], last: dict[str, Any], width: int = 60) -> str:
    return next(line.strip() for line in shown(begun, [last], width) if line.strip().startswith(label))


def test_all_of_it_on_a_wide_terminal() -> None:
    course = [facts(elapsed_s=float(second), requests_per_s=float(second % 4), tokens_per_s=100.0 * second) for second in range(17, 27)]
    assert shown(BEGUN, course) == [
        "  measuring  ━━━━━━━━━━━━━━━━━━━━───────────────────────────────  40%, 39 s left",
        "  requests/s 1.5           of 4 due                   ▄▆▇▄",
        "  TTFT       p50  120 ms   p95  187 ms ≤ 200 ms       ▇▇▇▇",
        "  ITL        p50 20.4 ms   p95 31.0 ms ≤ 100 ms TPOT  ▇▇▇▇",
        "  tokens/s   2,150                                    ▅▆▆▇",
        "  in flight  3                                        ▇▇▇▇",
        "  failed     0 of 84",
        "  lag        0.43 ms ≤ 10 ms  of the generator",
    ]


def test_before_the_first_second_everything_has_its_place() -> None:
    lines = shown(BEGUN, [])
    assert lines[0].startswith("  starting   ───")
    assert [line.split()[0] for line in lines] == ["starting", "requests/s", "TTFT", "ITL", "tokens/s", "in", "failed", "lag"]


@pytest.mark.parametrize(
    ("begun", "last", "words"),
    [
        ({}, {"phase": "warm-up", "elapsed_s": 1.2}, "2%, 1:04 left"),
        ({}, {"elapsed_s": 80.0}, "100%, 0 s left"),
        ({"duration_s": 86400.0}, {}, "0%, 23:59:39 left"),
        ({}, {"phase": "finishing"}, "the last answers"),
        ({"requests": 1000}, {"phase": "warm-up", "elapsed_s": 2.0}, "3 s, then 1,000 requests"),
        ({"requests": 1000}, {"requests": 0}, "0 of 1,000 requests"),
        ({"requests": 168}, {}, "84 of 168 requests, about 21 s left"),
        ({"requests": 80}, {}, "80 of 80 requests, about 0 s left"),
    ],
)
def test_how_far_it_is(begun: dict[str, Any], last: dict[str, Any], words: str) -> None:
    assert shown({**BEGUN, **begun}, [facts(**last)])[0].endswith(words)


@pytest.mark.parametrize(
    ("levels", "last", "line", "red_ones"),
    [
        ({}, {}, "TTFT       p50  120 ms   p95  187 ms", set()),
        ({"ttft_p95": 0.1}, {}, "TTFT       p50  120 ms > 100 ms p95  p95  187 ms > 100 ms", {"p50  120 ms > 100 ms p95", "p95  187 ms > 100 ms"}),
        ({"ttft_p50": 0.2}, {}, "TTFT       p50  120 ms ≤ 200 ms  p95  187 ms", set()),
        ({"ttft_p99": 0.2}, {}, "TTFT       p50  120 ms   p95  187 ms", set()),
        ({"ttft_p99": 0.15}, {}, "TTFT       p50  120 ms   p95  187 ms > 150 ms p99", {"p95  187 ms > 150 ms p99"}),
        ({"itl_p95": 0.03}, {}, "ITL        p50 20.4 ms   p95 31.0 ms > 30 ms", {"p95 31.0 ms > 30 ms"}),
        ({"tpot_p95": 0.03}, {}, "ITL        p50 20.4 ms   p95 31.0 ms > 30 ms TPOT", set()),
        ({"itl_p95": 0.05, "tpot_p95": 0.03}, {}, "ITL        p50 20.4 ms   p95 31.0 ms ≤ 50 ms", set()),
        ({"error_ratio": 0.01}, {"failures": 2}, "failed     2 of 84       2.38 % > 1.00 %", {"2 of 84", "2.38 % > 1.00 %"}),
        ({"error_ratio": 0.1}, {"failures": 2}, "failed     2 of 84       2.38 % ≤ 10.00 %", set()),
        ({}, {"failures": 2}, "failed     2 of 84", set()),
        ({}, {"generator_lag_p99_ms": 2.5}, "lag        2.50 ms > 2.04 ms  of the generator: invalid", {"2.50 ms > 2.04 ms", "of the generator: invalid"}),
        ({}, {"generator_lag_p99_ms": 2.5, "stamps_by_kernel": True}, "lag        2.50 ms ≤ 10.2 ms  of the generator", set()),
        ({"itl_p95": 1.0}, {"generator_lag_p99_ms": 2.5}, "lag        2.50 ms ≤ 100 ms  of the generator", set()),
        ({}, {"generator_lag_p99_ms": None}, "lag        -             of the generator", set()),
        ({}, {"due_rps": None}, "requests/s 4", set()),
    ],
)
def test_limits_stand_beside_what_they_are_of(levels: dict[str, float], last: dict[str, Any], line: str, red_ones: set[str]) -> None:
    begun = {**BEGUN, "levels": levels}
    assert line_of(line.split(maxsplit=1)[0], begun, facts(**last), 75).rstrip("▇ ") == line
    assert red(begun, facts(**last)) == red_ones


def test_a_narrow_terminal_gets_less() -> None:
    assert line_of("ITL", BEGUN, facts(), 60).rstrip("▇ ") == "ITL        p50 20.4 ms   p95 31.0 ms"
    assert line_of("TTFT", BEGUN, facts(), 60).rstrip("▇ ") == "TTFT       p50  120 ms   p95  187 ms ≤ 200 ms"
    assert shown(BEGUN, [facts()], 36)[0] == "  measuring  40%, 39 s left"
    assert [line[:12] for line in shown(BEGUN, [facts()], 80, 3)] == ["  measuring ", "  requests/s", "  TTFT      "]
    assert shown(BEGUN, [facts()], 80, -1) == []


def test_what_does_not_stream_has_no_times_of_tokens() -> None:
    assert not any(line.strip().startswith(("TTFT", "ITL", "tokens")) for line in shown({**BEGUN, "is_streamed": False}, [facts()]))


@pytest.mark.parametrize(
    ("series", "line"),
    [
        ({"number": 1, "of": None, "load": 0.5, "unit": "requests/s", "met": None, "missed": None}, "probe 1    0.5 requests/s"),
        ({"number": 7, "of": None, "load": 22.6274, "unit": "requests/s", "met": 16, "missed": 32}, "probe 7    22.63 requests/s  kept at 16, missed at 32"),
        ({"number": 2, "of": 6, "load": 2, "unit": "users", "met": 1, "missed": None}, "run 2/6    2 users       kept at 1"),
    ],
)
def test_a_run_of_several_says_which_and_what_is_known(series: dict[str, Any], line: str) -> None:
    assert shown({**BEGUN, "series": series}, [facts()])[1].strip() == line


@pytest.mark.parametrize(
    ("course", "width", "bars"),
    [
        ([], 60, ""),
        ([(1, 1.0)], 0, ""),
        ([(1, 0.0), (2, 0.0)], 60, "▁▁"),
        ([(1, 0.0), (2, 3.0), (3, 6.0), (4, None), (5, 6.0)], 60, "▁▄▇ ▇"),
        ([(second, float(second)) for second in range(60)], 60, "▁▁▁▁▁▂▂▂▂▂▂▂▂▂▂▃▃▃▃▃▃▃▃▃▃▄▄▄▄▄▄▄▄▄▄▅▅▅▅▅▅▅▅▅▅▆▆▆▆▆▆▆▆▆▆▇▇▇▇▇"),
        ([(second, float(second)) for second in range(60)], 4, "▆▆▇▇"),
        ([(1, 1.0), (100, 1.0)], 20, " " * 19 + "▇"),
    ],
)
def test_sparklines(course: list[tuple[int, float | None]], width: int, bars: str) -> None:
    assert sparkline(course, width) == bars


optional = st.none() | st.floats(0, 1e6)


@given(
    width=st.integers(1, 200),
    height=st.integers(0, 40),
    ratio=st.floats(0, 1e5),
    counts=st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)),
    times=st.tuples(optional, optional, optional),
    wanted=st.integers(0, 10**6),
)
def test_whatever_is_told_it_fits(width: int, height: int, ratio: float, counts: Any, times: Any, wanted: int) -> None:
    ttft, itl, lag = times
    last = facts(elapsed_s=ratio, requests=sum(counts), failures=counts[0], under_way=counts[1], ttft_p95_ms=ttft, itl_p50_ms=itl, generator_lag_p99_ms=lag)
    assert len(shown({**BEGUN, "requests": wanted}, [facts(elapsed_s=0.0), last], width, height)) <= height
