"""What the pictures of a page show, before they are drawn."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loadtest_material import MS, WINDOW, S, answered, failed, material, probe, samples, some_records, summary_of

from kivactl.loadtest.material import Material
from kivactl.loadtest.page_course import Course, Points, course_of
from kivactl.loadtest.page_engines import engines_chart, engines_table
from kivactl.loadtest.page_plots import pictures_for
from kivactl.loadtest.page_probes import capacity_of, knee_of, knee_sentences, load_chart, probes_table
from kivactl.loadtest.record import FailureKind, Record
from kivactl.tools.chart import Chart, Look


def course(records: list[Record], window=WINDOW) -> Course:
    return course_of(Material(summary_of(records, window).as_dict(), records, window))


def area(points: Points) -> float:
    return sum(value * (after - at) for (at, value), (after, _) in pairwise(points))


def chart(run: Material, name: str) -> Chart:
    return next(chart for chart in pictures_for(run) if chart.name == name)


moments = st.lists(st.tuples(st.integers(-5000, 15_000), st.integers(1, 4000), st.integers(1, 40)), min_size=1, max_size=40)


@given(moments)
def test_no_request_and_no_token_is_lost_over_time(times) -> None:
    records = [answered(number, 10 * S + at_ms * MS, ttft_ms, 7, tokens) for number, (at_ms, ttft_ms, tokens) in enumerate(times)]
    seen = course(records)
    assert area(seen.rate(record.moment_ns for record in records)) == pytest.approx(len(records))
    assert area(seen.rate(record.end_ns for record in records)) == pytest.approx(len(records))
    assert area(seen.tokens()) == pytest.approx(sum(record.tokens for record in records))
    assert seen.start_s <= 0 <= seen.end_s
    assert all(later > earlier for earlier, later in pairwise(seen.edges))
    assert max(value for _, value in seen.under_way()) == summary_of(records).most_under_way


@given(moments, st.integers(1, 12))
def test_each_measured_request_is_in_one_part(times, count) -> None:
    records = [answered(number, 10 * S + at_ms * MS) for number, (at_ms, _, _) in enumerate(times)]
    seen = course(records)
    parts = seen.slices(count)
    assert sum(len(part) for _, _, part in parts) == len(seen.measured)
    for begin_s, end_s, part in parts:
        assert all(begin_s - 1e-6 <= seen.at_s(record.moment_ns) <= end_s + 1e-6 for record in part)


def test_a_stretch_begins_where_the_measured_phase_does() -> None:
    assert any(abs(edge) < 1e-9 for edge in course(some_records()).edges)


def test_failures_are_crosses_and_limits_are_marked() -> None:
    panel = chart(material(), "latency").panels[0]
    assert {series.look: len(series.points) for series in panel.series if series.points}[Look.CROSSES] == 12
    assert [(mark.label, mark.at) for mark in panel.limits] == [("p95 ≤ 0.5 s", 0.5)]
    assert panel.spans[0].label == "warm-up"
    assert panel.spans[0].end == 0.0


def test_an_open_loop_is_seen_from_when_requests_were_due() -> None:
    records = [answered(0, 11 * S + 400 * MS, scheduled_ns=11 * S)]
    panel = chart(Material(summary_of(records).as_dict(), records, WINDOW), "latency").panels[0]
    assert panel.series[0].points == ((1.0, 0.5),)


def test_of_very_many_dots_the_slowest_are_all_there() -> None:
    records = [answered(number, 10 * S + number * S // 4000, 900 if number % 333 == 7 else 50, tokens=1) for number in range(30_000)]
    dots = chart(Material(summary_of(records).as_dict(), records, WINDOW), "latency").panels[0].series[0]
    assert len(dots.points) < 12_000
    assert "1 of 3" in dots.label
    assert sum(value > 0.5 for _, value in dots.points) == sum(number % 333 == 7 for number in range(30_000))


def test_cumulative_curves_rise_to_one() -> None:
    panels = chart(material(), "distributions").panels
    assert [panel.y_label[-5:] for panel in panels] == ["TTFT)", "TPOT)", "(ITL)", "(E2E)"]
    for panel in panels:
        curve = panel.series[0].points
        assert list(curve) == sorted(curve)
        assert curve[-1][1] == pytest.approx(1.0)
    assert [mark.at for mark in panels[0].moments] == [500.0]  # ms


def test_each_kind_of_failure_has_a_panel() -> None:
    records = [failed(0, 11 * S), failed(1, 12 * S, FailureKind.TIMEOUT, "late"), answered(2, 13 * S)]
    panels = chart(Material(summary_of(records).as_dict(), records, WINDOW), "errors").panels
    assert [panel.y_label for panel in panels] == ["Failures per second: status", "Failures per second: timeout"]
    assert all(area(panel.series[0].points) == pytest.approx(1) for panel in panels)


def test_counters_of_engines_become_rates() -> None:
    found = engines_chart(samples(), course(some_records()))
    assert found is not None
    by_name = {panel.y_label: panel for panel in found.panels}
    assert {value for _, value in by_name["Prompt tokens per second"].series[0].points} == {900.0}
    assert {value for _, value in by_name["Prefix cache hit rate"].series[0].points} == {0.5}
    assert [series.label for series in found.panels[0].series] == ["m-0", "m-1"]


def test_an_engine_that_says_little_has_few_panels() -> None:
    few = tuple(replace(sample, kv_cache_ratio=None, waiting=None, prefix_hits=None) for sample in samples(("a",)))
    found = engines_chart(few, course(some_records()))
    assert found is not None
    assert not {"KV cache in use", "Requests waiting", "Prefix cache hit rate"} & {panel.y_label for panel in found.panels}
    assert engines_chart((), course(some_records())) is None


def test_many_replicas_share_a_colour() -> None:
    found = engines_chart(samples(tuple(f"m-{number}" for number in range(9))), course(some_records()))
    assert found is not None
    assert len({series.tone for series in found.panels[0].series}) == 1
    assert found.panels[0].series[0].label == "each of 9 replicas"


def test_the_table_of_engines() -> None:
    table = engines_table(samples(), WINDOW)
    assert table is not None
    assert table.rows[0].cells == ("m-0", "4.9", "1", "50%", "9", "50%", "900", "400", "200 ms")
    assert engines_table((), WINDOW) is None


SATURATED = tuple(probe(load, None, min(load, 16) * 50.0) for load in (1, 2, 4, 8, 16, 32, 64))


@pytest.mark.parametrize(
    ("probes", "capacity", "knee"),
    [
        ((), None, None),
        (SATURATED, None, 16),
        ((probe(4, True), probe(8, True), probe(16, False)), 8, None),
        ((probe(4, True), probe(8, True), probe(8, False)), 4, None),  # what met once did not hold
        ((probe(8, False), probe(8, True), probe(16, None)), 8, None),
        ((probe(4, False), probe(2, False)), None, None),
        (tuple(probe(load, True, load * 10.0) for load in (1, 2, 3, 4, 5)), 5, None),  # a line has no knee
        (tuple(probe(load, True, 10.0) for load in (1, 2, 3, 4, 5)), 5, None),
    ],
)
def test_capacity_and_knee(probes, capacity, knee) -> None:
    assert (capacity_of(probes), knee_of(probes)) == (capacity, knee)
    assert ("Capacity:" in " ".join(knee_sentences(probes))) == (capacity is not None)


def test_the_knee_does_not_depend_on_the_order() -> None:
    assert knee_of(SATURATED[::-1]) == 16


def test_repeats_of_a_load_are_one_place_of_the_curve() -> None:
    found = load_chart(replace(material(), probes=(probe(4, True, 100.0), probe(4, None, 300.0), probe(8, False, 400.0))))
    assert found is not None
    both = found.panels[2]
    assert [x for x, _ in both.series[0].points] == [200.0, 400.0]
    assert [note.label for note in both.notes] == ["4", "8"]
    assert sum(len(series.points) for series in both.series[1:]) == 3


def test_what_is_no_measurement_is_in_the_table_and_in_no_curve() -> None:
    invalid = replace(probe(16, None, 900.0), invalid="requests were sent late")
    probes = (probe(4, True, 100.0), invalid, probe(8, False, 400.0))
    found = load_chart(replace(material(), probes=probes))
    assert found is not None
    assert [x for x, _ in found.panels[1].series[0].points] == [4, 8]
    assert [row.cells[-1] for row in probes_table(probes).rows] == ["✔ met", "! no measurement", "✘ missed"]
    assert "16" not in " ".join(knee_sentences(probes))


def test_what_came_of_each_load_has_a_shape() -> None:
    found = load_chart(material())
    assert found is not None
    shapes = {
        series.label: series.look for panel in found.panels for series in panel.series if series.points and series.label in ("met", "missed", "undecided")
    }
    assert shapes == {"met": Look.DOTS, "missed": Look.CROSSES, "undecided": Look.RINGS}
    assert [mark.at for mark in found.panels[0].moments] == [4, 8]
    assert load_chart(material(probes=(probe(2, True), probe(2, False)))) is None


def test_the_table_of_loads() -> None:
    row = probes_table((probe(8, False, 700, None),)).rows[0]
    assert row.cells[:6] == ("8", "95 of 100", "88.0 to 98.0 %", "100 ms / -", "20.0 / 30.0 ms", "1.50 s")
    assert (row.cells[-1], row.mark) == ("✘ missed", "bad")
