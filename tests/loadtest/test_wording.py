"""Values as all reports of a load test write them."""

from __future__ import annotations

import pytest

from kivactl.loadtest.wording import decided_text, level_text, limit_text, measured_text, time_text


@pytest.mark.parametrize(
    ("value_s", "text"),
    [
        (0.0, "0.00 ms"),
        (0.000_43, "0.43 ms"),
        (0.020_44, "20.4 ms"),
        (0.009_996, "10.0 ms"),
        (0.187_4, "187 ms"),
        (0.999_4, "999 ms"),
        (0.999_6, "1.00 s"),
        (2.0, "2.00 s"),
        (15.04, "15.0 s"),
        (3600, "3600 s"),
        (-0.0123, "-12.3 ms"),
    ],
)
def test_a_time_has_three_figures(value_s: float, text: str) -> None:
    assert time_text(value_s) == text


@pytest.mark.parametrize(("value_s", "text"), [(0.005, "5 ms"), (0.1, "100 ms"), (0.0025, "2.5 ms"), (2.0, "2 s"), (1.5, "1.5 s"), (900, "900 s")])
def test_a_limit_has_no_noughts_that_say_nothing(value_s: float, text: str) -> None:
    assert limit_text(value_s) == level_text("ttft_p95", value_s) == text


@pytest.mark.parametrize(
    ("name", "value", "limit", "text"),
    [
        ("ttft_p95", 0.25, 0.2, "250 ms"),
        ("ttft_p95", 0.2002, 0.2, "200.2 ms"),
        ("ttft_p95", 0.2, 0.2, "200 ms"),
        ("ttft_p95", 2.0000001, 2.0, "2.0000001 s"),
        ("ttft_p95", None, 0.2, "-"),
        ("error_ratio", 0.5, 0.01, "50.00 %"),
    ],
)
def test_what_misses_a_limit_by_little_does_not_look_as_if_it_kept_it(name: str, value: float | None, limit: float, text: str) -> None:
    assert measured_text(name, value, limit) == text


@pytest.mark.parametrize(
    ("runs", "says"),
    [((), False), (((1.0, ""), (2.0, "")), False), (((1.0, ""), (2.0, ""), (1.0, "")), True), (((1.0, "sent late"), (1.0, "")), False)],
)
def test_why_a_run_alone_did_not_decide_is_said_where_it_matters(runs: tuple[tuple[float, str], ...], says: bool) -> None:
    assert bool(decided_text({"load": load, "invalid": invalid} for load, invalid in runs)) is says
