from __future__ import annotations

import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.loadtest.lag import LagHistogram
from kivactl.loadtest.metrics import Conditions, Distribution, Summary, Window, distribution_of, percentile, summary_for, verdicts_for
from kivactl.loadtest.record import FailureKind, Record
from kivactl.loadtest.report import report_for
from kivactl.spec.platform import ServiceLevels

MS = 1_000_000
S = 1000 * MS
LEVELS = ServiceLevels.model_validate({"ttft_p95": "500ms", "tpot_p95": "50ms", "error_ratio": 0.1})
WINDOW = Window(10 * S, 20 * S)
floats = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


def answered(index: int, start_ns: int, ttft_ms: int = 100, gap_ms: int = 20, tokens: int = 11) -> Record:
    first = start_ns + ttft_ms * MS
    stamps = tuple(first + number * gap_ms * MS for number in range(tokens))
    return Record(index, start_ns, stamps[-1], sent_ns=start_ns, token_ns=stamps, completion_tokens=tokens, prompt_tokens=3, status=200, finish_reason="length")


def failed(index: int, start_ns: int, kind: FailureKind = FailureKind.STATUS, reason: str = "status 500: no") -> Record:
    return Record(index, start_ns, start_ns + MS, sent_ns=start_ns, status=500, failure=kind, reason=reason)


def judge(records: list[Record], window: Window | None = WINDOW, levels: ServiceLevels = LEVELS, lag_ms: float | None = None, **known: object) -> Summary:
    return summary_for(records, window, levels, Conditions("smoke", "m", 2, generator_lag_p99_ms=lag_ms, **known))  # type: ignore[arg-type]


@given(floats)
def test_percentiles_agree_with_the_standard_library(values: list[float]) -> None:
    ordered = sorted(values)
    assert percentile(ordered, 0) == ordered[0]
    assert percentile(ordered, 100) == ordered[-1]
    assert percentile(ordered, 50) == pytest.approx(statistics.median(ordered))
    if len(ordered) > 1:
        cuts = statistics.quantiles(ordered, n=100, method="inclusive")
        assert [percentile(ordered, percent) for percent in (90, 95, 99)] == pytest.approx([cuts[89], cuts[94], cuts[98]])


@given(floats)
def test_percentiles_rise(values: list[float]) -> None:
    times = distribution_of(values)
    assert times is not None
    assert times.count == len(values)
    assert min(values) <= times.p50 <= times.p90 <= times.p95 <= times.p99 <= max(values)


def test_nothing_has_no_distribution() -> None:
    assert distribution_of([]) is None


def test_only_what_began_in_the_window_is_measured_and_to_its_end() -> None:
    early, late = answered(0, 9 * S, ttft_ms=900), answered(3, 20 * S, ttft_ms=900)
    across = answered(2, 20 * S - MS, ttft_ms=300)  # ends after the window
    summary = judge([early, answered(1, 10 * S), across, late])
    assert (summary.requests, summary.succeeded) == (2, 2)
    assert summary.ttft_s is not None
    assert summary.ttft_s.mean == pytest.approx(0.2)
    assert summary.tpot_s is not None
    assert summary.tpot_s.mean == pytest.approx(0.02)
    assert summary.icl_s is not None
    assert summary.icl_s.count == 20


def test_rates_count_what_came_in_the_window() -> None:
    # Begun before: its eleven tokens come at 10.1 .. 10.3 and the rest after 20 s would not count.
    before = answered(0, 10 * S - 50 * MS)
    across = answered(1, 20 * S - 200 * MS)  # tokens at 19.9, 19.92 .. 19.98: five of eleven
    summary = judge([before, across])
    assert summary.output_tokens_per_s == pytest.approx((11 + 5) / 10)
    assert summary.requests_per_s == pytest.approx(1 / 10)
    assert (summary.output_tokens, summary.prompt_tokens) == (11, 3)


def test_failures_count_and_their_times_do_not() -> None:
    records = [answered(0, 10 * S), failed(1, 11 * S), failed(2, 12 * S, reason="status 503: no"), failed(3, 13 * S, FailureKind.TIMEOUT, "late")]
    summary = judge(records)
    assert summary.failures == {"status": 2, "timeout": 1}
    assert summary.failure_examples == {"status": "status 500: no", "timeout": "late"}
    assert summary.error_ratio == 0.75
    assert summary.ttft_s is not None
    assert summary.ttft_s.count == 1


def test_what_was_cut_is_neither_success_nor_failure() -> None:
    summary = judge([answered(0, 10 * S), Record(1, 11 * S, 12 * S, sent_ns=11 * S, is_cut=True)])
    assert (summary.requests, summary.cut, summary.error_ratio) == (1, 1, 0.0)


def test_service_levels_met_and_missed() -> None:
    assert all(verdict.met for verdict in judge([answered(0, 10 * S)]).service_levels)
    slow = judge([answered(0, 10 * S, ttft_ms=501, gap_ms=51), failed(1, 11 * S)])
    assert [(verdict.name, verdict.met) for verdict in slow.service_levels] == [("ttft_p95", False), ("tpot_p95", False), ("error_ratio", False)]
    assert slow.service_levels[0].measured == pytest.approx(0.501)
    assert slow.invalid is None


def test_without_success_no_time_is_met() -> None:
    assert [verdict.met for verdict in judge([failed(0, 10 * S)]).service_levels] == [False, False, False]


def test_answers_of_one_token_have_no_tpot_to_miss() -> None:
    verdicts = judge([answered(0, 10 * S, tokens=1)]).service_levels
    assert [(verdict.measured, verdict.met) for verdict in verdicts[1:2]] == [(None, True)]


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 1))
def test_a_verdict_says_what_it_compared(ttft: float, tpot: float, errors: float) -> None:
    times = [Distribution(1, value, value, value, value, value) for value in (ttft, tpot)]
    for verdict in verdicts_for(LEVELS, times[0], times[1], errors, succeeded=1):
        assert verdict.measured is not None
        assert verdict.met == (verdict.measured <= verdict.limit)


def test_nothing_measured_is_invalid() -> None:
    assert judge([], window=None).invalid == "no request was measured"
    assert "measure for longer" in (judge([answered(0, 9 * S)]).invalid or "")


def test_a_broken_run_is_invalid() -> None:
    assert judge([answered(0, 10 * S)], broken="the generator died").invalid == "the generator died"


def test_a_late_generator_warns_then_invalidates() -> None:
    record = answered(0, 10 * S, ttft_ms=100)
    assert not any("late" in warning for warning in judge([record], lag_ms=4.0).warnings)
    warned = judge([record], lag_ms=9.0)
    assert any("9.0 ms late" in warning for warning in warned.warnings)
    assert warned.invalid is None
    assert "over a tenth" in (judge([record], lag_ms=10.5).invalid or "")


def test_warnings() -> None:
    warnings = judge([answered(number, 10 * S + number) for number in range(20)]).warnings
    assert warnings == ()
    assert "only 1 requests" in judge([answered(0, 10 * S)]).warnings[0]
    joined = Record(0, 10 * S, 11 * S, sent_ns=10 * S, token_ns=(10 * S + MS, 10 * S + 2 * MS), completion_tokens=8, finish_reason="length")
    assert any("4.00 tokens per event" in warning for warning in judge([joined]).warnings)
    uncounted = Record(0, 10 * S, 11 * S, sent_ns=10 * S, token_ns=(10 * S + MS,), finish_reason="length")
    assert any("did not count" in warning for warning in judge([uncounted]).warnings)


def test_the_token_that_says_stop_is_no_joined_one() -> None:
    record = Record(0, 10 * S, 11 * S, sent_ns=10 * S, token_ns=(10 * S + MS, 10 * S + 2 * MS), completion_tokens=3, finish_reason="stop")
    assert judge([record]).tokens_per_event == 1.0


def test_the_summary_is_json() -> None:
    summary = judge([answered(0, 10 * S), failed(1, 11 * S)])
    assert json.loads(json.dumps(summary.as_dict()))["service_levels"][2]["name"] == "error_ratio"


@pytest.mark.parametrize(
    ("summary", "sentence"),
    [
        (judge([answered(0, 10 * S)]), "All service levels met."),
        (judge([answered(0, 10 * S, ttft_ms=501)]), "Service levels missed: ttft_p95."),
        (judge([], window=None), "Invalid: no request was measured."),
        (judge([answered(0, 10 * S)], is_interrupted=True), "Interrupted; until then: all service levels met."),
    ],
)
def test_the_report_begins_with_the_verdict(summary: Summary, sentence: str) -> None:
    assert report_for(summary).split("\n\n")[1] == sentence


def test_the_report_shows_figures_and_failures() -> None:
    report = report_for(judge([answered(0, 10 * S), failed(1, 11 * S, reason="a | b\nc")]))
    assert "| ttft_p95 | 500.0 ms | 100.0 ms | yes |" in report
    assert "| error_ratio | 10.00 % | 50.00 % | **no** |" in report
    assert "| status | 1 | a \\| b c |" in report
    assert "| Time per further token (TPOT) | 20.0 ms |" in report


@given(st.lists(st.integers(-(10**6), 3 * 10**9), min_size=1))
def test_lag_percentiles_are_exact_to_the_step(lags_ns: list[int]) -> None:
    lag = LagHistogram()
    for lag_ns in lags_ns:
        lag.add(lag_ns)
    whole = lag.percentile_ms(100)
    assert whole is not None
    assert whole == pytest.approx(min(max(max(lags_ns), 0) / 1e6, 2000), abs=0.051)


def test_no_probe_has_no_lag() -> None:
    assert LagHistogram().percentile_ms(99) is None
