from __future__ import annotations

import json
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.loadtest.distribution import distribution_of, percentile
from kivactl.loadtest.levels import Level, levels_from
from kivactl.loadtest.metrics import Conditions, Summary, Window, summary_for
from kivactl.loadtest.record import FailureKind, Record
from kivactl.loadtest.report import report_for

MS = 1_000_000
S = 1000 * MS
LEVELS = levels_from({"ttft_p95": 0.5, "tpot_p95": 0.05, "error_ratio": 0.1})
WINDOW = Window(10 * S, 20 * S)
floats = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


def answered(index: int, start_ns: int, ttft_ms: int = 100, gap_ms: int = 20, tokens: int = 11) -> Record:
    first = start_ns + ttft_ms * MS
    stamps = tuple(first + number * gap_ms * MS for number in range(tokens))
    return Record(index, start_ns, stamps[-1], sent_ns=start_ns, token_ns=stamps, completion_tokens=tokens, prompt_tokens=3, status=200, finish_reason="length")


def failed(index: int, start_ns: int, kind: FailureKind = FailureKind.STATUS, reason: str = "status 500: no") -> Record:
    return Record(index, start_ns, start_ns + MS, sent_ns=start_ns, status=500, failure=kind, reason=reason)


def judge(records: list[Record], window: Window | None = WINDOW, levels: tuple[Level, ...] = LEVELS, lag_ms: float | None = None, **known: object) -> Summary:
    return summary_for(records, window, levels, Conditions("smoke", "m", 2, "2 users", generator_lag_p99_ms=lag_ms, **known))  # type: ignore[arg-type]


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


def test_nothing_measured_is_invalid() -> None:
    assert judge([], window=None).invalid == "no request was measured"
    assert "measure for longer" in (judge([answered(0, 9 * S)]).invalid or "")


def test_a_broken_run_is_invalid() -> None:
    assert judge([answered(0, 10 * S)], broken="the generator died").invalid == "the generator died"


def test_a_late_generator_measures_itself() -> None:
    record = answered(0, 10 * S, gap_ms=10)
    assert judge([record], lag_ms=4.9).invalid is None  # a tenth of the 50 ms that are promised
    assert judge([record], lag_ms=1.9).warnings == judge([record]).warnings
    assert "times between tokens are too long" in judge([record], lag_ms=4.9).warnings[0]
    assert "late by 5.10 ms (p99), more than 5 ms, a tenth of the time between tokens" in (judge([record], lag_ms=5.1).invalid or "")


def test_where_the_kernel_stamps_a_late_loop_falsifies_only_what_it_joins() -> None:
    record = replace(answered(0, 10 * S, gap_ms=10), by_kernel=True)
    late = judge([record], lag_ms=24.9)
    assert (late.invalid, late.stamps_by_kernel) == (None, True)
    assert judge([record], lag_ms=4.9).warnings == judge([record]).warnings
    assert "24.9 ms late (p99): tokens that came meanwhile count as one event here and there" in late.warnings[0]
    assert "late by 25.1 ms (p99), more than 25 ms, half of the time between tokens" in (judge([record], lag_ms=25.1).invalid or "")


@pytest.mark.parametrize(("others", "by_kernel"), [(0, True), (1, True), (2, False)])
def test_a_stamp_here_and_there_may_be_the_generators(others: int, by_kernel: bool) -> None:
    records = [replace(answered(number, 10 * S), by_kernel=number >= others) for number in range(100)]
    assert judge(records).stamps_by_kernel is by_kernel
    assert judge([]).stamps_by_kernel is False


def test_without_a_promise_the_measured_time_between_tokens_counts() -> None:
    record, levels = answered(0, 10 * S, gap_ms=50), levels_from({"ttft_p95": 1.0})
    assert judge([record], levels=levels, lag_ms=4.9).invalid is None
    assert "more than 5 ms" in (judge([record], levels=levels, lag_ms=5.1).invalid or "")
    assert "more than 2 ms" in (judge([answered(0, 10 * S, gap_ms=1)], levels=levels, lag_ms=2.1).invalid or "")


def due(index: int, at_ns: int, late_ms: int = 0, **changes: int) -> Record:
    return replace(answered(index, at_ns + late_ms * MS, **changes), scheduled_ns=at_ns)


def test_an_open_loop_is_judged_from_when_requests_were_due() -> None:
    summary = judge([due(0, 10 * S, late_ms=450)])
    assert summary.ttft_s is not None
    assert summary.ttft_due_s is not None
    assert (summary.ttft_s.p95, summary.ttft_due_s.p95) == (pytest.approx(0.1), pytest.approx(0.55))
    assert summary.service_levels[0].measured == pytest.approx(0.55)
    assert not summary.service_levels[0].met
    assert summary.attainment.good == 0


def test_what_was_due_in_the_window_and_sent_after_it_counts() -> None:
    summary = judge([due(0, 19 * S, late_ms=2000), due(1, 9 * S, late_ms=2000)])
    assert summary.requests == 1


@pytest.mark.parametrize(
    ("late_ms", "limit_s", "invalid"),
    [
        (4, 0.5, None),
        (26, 0.5, "requests were sent 26.0 ms late (p99), more than 25 ms"),
        (6, 0.05, "requests were sent 6.00 ms late (p99), more than 5 ms"),
    ],
)
def test_requests_that_were_sent_late_are_no_open_loop(late_ms: int, limit_s: float, invalid: str | None) -> None:
    levels = levels_from({"ttft_p95": limit_s})
    found = judge([due(number, 10 * S + number, late_ms) for number in range(10)], levels=levels).invalid
    assert found == invalid if invalid is None else (found or "").startswith(invalid)


def test_requests_that_were_never_sent_are_named_and_count_as_bad() -> None:
    summary = judge([due(number, 10 * S + number * MS) for number in range(8)], due=10)
    assert (summary.due, summary.attainment.due, summary.attainment.ratio) == (10, 10, 0.8)
    assert (summary.invalid or "").startswith("2 of 10 requests that were due were never sent: this generator reached")
    assert judge([due(0, 10 * S)], due=10, is_interrupted=True).invalid is None


def test_attainment_asks_each_request_for_every_limit() -> None:
    records = [answered(0, 10 * S), answered(1, 10 * S, ttft_ms=501), answered(2, 10 * S, gap_ms=51), failed(3, 10 * S)]
    attainment = judge(records).attainment
    assert (attainment.good, attainment.due, attainment.thresholds) == (1, 4, {"ttft": 0.5, "tpot": 0.05})
    assert attainment.low < 0.25 < attainment.high
    assert judge(records).goodput_rps == pytest.approx(0.1)
    kept = judge(records, levels=levels_from({"attainment": 0.2}))
    assert [(verdict.name, verdict.met) for verdict in kept.service_levels] == [("attainment", True)]


def test_joined_tokens_have_gaps_but_no_time_between_tokens_unless_the_engine_counts_each() -> None:
    stamps = tuple(10 * S + number * 40 * MS for number in range(1, 4))
    joined = Record(0, 10 * S, 11 * S, sent_ns=10 * S, token_ns=stamps, completion_tokens=12, finish_reason="length")
    assert judge([joined]).itl_s is None
    assert judge([joined]).icl_s is not None
    counted = judge([replace(joined, token_counts=(4, 4, 4))])
    assert counted.itl_s is not None
    assert (counted.itl_s.count, counted.itl_s.p50) == (8, pytest.approx(0.01))
    assert counted.tpot_s is not None
    assert counted.tpot_s.p50 == pytest.approx(0.08 / 8)  # the first event's four tokens were there when the clock began


def test_a_mix_has_its_figures_by_kind() -> None:
    summary = judge([replace(answered(0, 10 * S), group="chat"), replace(failed(1, 10 * S), group="rag")])
    assert {name: (group["requests"], group["succeeded"]) for name, group in summary.groups.items()} == {"chat": (1, 1), "rag": (1, 0)}


def test_the_most_requests_at_the_same_time() -> None:
    assert judge([answered(0, 10 * S), answered(1, 10 * S + MS), answered(2, 15 * S)]).most_under_way == 2


def test_cached_prompt_tokens() -> None:
    assert judge([replace(answered(0, 10 * S), cached_tokens=2), answered(1, 11 * S)]).cached_ratio == pytest.approx(2 / 6)
    assert judge([answered(0, 10 * S)]).cached_ratio is None


def test_warnings() -> None:
    warnings = judge([answered(number, 10 * S + number) for number in range(20)]).warnings
    assert warnings == ()
    assert "only 1 requests" in judge([answered(0, 10 * S)]).warnings[0]
    joined = Record(0, 10 * S, 11 * S, sent_ns=10 * S, token_ns=(10 * S + MS, 10 * S + 2 * MS), completion_tokens=8, finish_reason="length")
    assert any("4.00 tokens per event" in warning for warning in judge([joined]).warnings)
    uncounted = Record(0, 10 * S, 11 * S, sent_ns=10 * S, token_ns=(10 * S + MS,), finish_reason="length")
    assert any("did not count" in warning for warning in judge([uncounted]).warnings)
    assert any("as many words as tokens" in warning for warning in judge([answered(0, 10 * S)], is_calibrated=False).warnings)


@pytest.mark.parametrize(("warm_up_s", "is_warned"), [(None, False), (0.0, True), (1.0, True), (2.0, False)])
def test_a_warm_up_shorter_than_answers_take(warm_up_s: float | None, is_warned: bool) -> None:
    records = [Record(n, 10 * S + n, 12 * S + n, sent_ns=10 * S + n, token_ns=(11 * S, 11 * S + 500 * MS), completion_tokens=2) for n in range(20)]
    warnings = judge(records, warm_up_s=warm_up_s).warnings
    assert (any("--warm-up 2s" in warning for warning in warnings)) == is_warned


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
    assert "| ttft_p95 | 500 ms | 100 ms | yes |" in report
    assert "| error_ratio | 10.00 % | 50.00 % | **no** |" in report
    assert "| status | 1 | a \\| b c |" in report
    assert "| Time per further token (TPOT) | 20.0 ms |" in report
