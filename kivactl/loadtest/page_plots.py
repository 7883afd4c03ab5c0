"""The pictures of a load test as descriptions: latency over time, distributions, throughput, errors; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

from kivactl.loadtest.distribution import percentile
from kivactl.loadtest.levels import Level
from kivactl.loadtest.material import Material
from kivactl.loadtest.page_course import Course, Points, course_of
from kivactl.loadtest.page_engines import engines_chart
from kivactl.loadtest.page_probes import load_chart
from kivactl.loadtest.record import Record
from kivactl.tools.chart import Chart, Look, Mark, Panel, Series, Span, Tone

SINCE = "Time since the measured phase began (s)"
_FEW, _ENOUGH = 3, 20
"""Values for a median, and for a 95th percentile."""
_MANY, _MOST_DOTS, _SLOWEST = 1500, 12000, 500
"""Dots that are to be small, that a page holds, and that are never left out."""
_STEPS = (*(number / 200 for number in range(199)), *(0.99 + number / 1000 for number in range(11)))
"""Places of a cumulative curve; finer at its end, where the promises are."""


def pictures_for(material: Material) -> tuple[Chart, ...]:
    """All pictures there is something to see in.

    Args:
        material: Of the run.

    Returns:
        In the page's order: `load`, `latency`, `distributions`, `throughput`, `errors`, `engines`.
    """
    course = course_of(material)
    levels = [Level(level["name"], level["limit"]) for level in material.summary["service_levels"]]
    found = [
        load_chart(material),
        _latency(course, levels),
        _distributions(course, levels, knows_itl=material.summary["itl_s"] is not None),
        _throughput(course),
        _errors(course),
        engines_chart(material.engine, course),
    ]
    return tuple(chart for chart in found if chart is not None)


def spans_of(course: Course) -> tuple[Span, ...]:
    """What is not measured: the warm-up, and the end in which what is under way is answered."""
    spans = [Span("warm-up", course.start_s, 0.0)] if course.start_s < 0 else []
    if course.measured and course.end_s > course.measured_s * 1.01:
        spans.append(Span("after", course.measured_s, course.end_s))
    return tuple(spans)


def _latency(course: Course, levels: Sequence[Level]) -> Chart | None:
    panels = [
        panel
        for metric, title in (("ttft", "Time to first token (s)"), ("e2e", "Whole answer (s)"))
        if (panel := _latency_panel(course, levels, metric, title)) is not None
    ]
    if not panels:
        return None
    panels[-1] = replace(panels[-1], x_label=SINCE)
    since = "was due" if course.is_open else "began"
    description = f"Times of single requests over the moment at which each {since}; medians and 95th percentiles as lines, limits dashed, failures as crosses."
    return Chart("latency", description, tuple(panels), row_inch=2.5)


def _latency_panel(course: Course, levels: Sequence[Level], metric: str, title: str) -> Panel | None:
    value = _value(metric, is_open=course.is_open)
    good = tuple((course.at_s(record.moment_ns), known) for record in course.records if record.succeeded and (known := value(record)) is not None)
    bad = tuple((course.at_s(record.moment_ns), (record.end_ns - record.moment_ns) / 1e9) for record in course.records if record.failure is not None)
    if not good and not bad:
        return None
    shown, every = _thinned(good)
    label = "answered" if every == 1 else f"answered (1 of {every}, and the slowest)"
    series = (
        Series(label, shown, Look.DOTS, Tone.BLUE, 2.6 if len(good) < _MANY else 1.8),
        Series("failed, time until then", _thinned(bad)[0], Look.CROSSES, Tone.VERMILLION, 5),
        Series("p50", course.percentiles(value, 50, _FEW), Look.LINE, Tone.INK, 1.6),
        Series("p95", course.percentiles(value, 95, _ENOUGH), Look.DASHES, Tone.ORANGE, 2.0),
    )
    limits = tuple(limits_of(levels, metric))
    return Panel(title, "", series, limits, spans=spans_of(course), x_range=(course.start_s, course.end_s), is_log=True)


def _thinned(points: Points) -> tuple[Points, int]:
    """So few points that a page stays small, and of how many each stands for one; the slowest are all there."""
    every = -(-len(points) // _MOST_DOTS)
    if every <= 1:
        return points, 1
    slow = sorted((value for _, value in points), reverse=True)[_SLOWEST]
    return tuple(point for number, point in enumerate(points) if number % every == 0 or point[1] > slow), every


def limits_of(levels: Iterable[Level], metric: str, unit_s: float = 1.0) -> Iterator[Mark]:
    """What is promised of a time, as marks.

    Args:
        levels: All that is promised.
        metric: `ttft`, `tpot`, `itl` or `e2e`.
        unit_s: Of the axis, in seconds.
    """
    unit = "s" if unit_s == 1 else "ms"
    for level in levels:
        if level.is_time and level.metric == metric:
            yield Mark(f"p{level.percent} ≤ {level.limit / unit_s:g} {unit}", level.limit / unit_s)


def _value(metric: str, *, is_open: bool) -> Callable[[Record], float | None]:
    """A request's time as the service levels count it."""
    chosen = {
        "ttft": (lambda record: record.ttft_due_s) if is_open else (lambda record: record.ttft_s),
        "e2e": (lambda record: record.e2e_due_s) if is_open else (lambda record: record.e2e_s),
        "tpot": lambda record: record.tpot_s,
    }
    return chosen[metric]


def _distributions(course: Course, levels: Sequence[Level], *, knows_itl: bool) -> Chart | None:
    good = [record for record in course.measured if record.succeeded]
    gaps = (record.itls_s if knows_itl else record.gaps_s for record in good)
    known = {metric: [found for record in good if (found := _value(metric, is_open=course.is_open)(record)) is not None] for metric in ("ttft", "tpot", "e2e")}
    parts = (
        ("Time to first token (TTFT)", "ttft", known["ttft"]),
        ("Time per further token (TPOT)", "tpot", known["tpot"]),
        ("Time between tokens (ITL)" if knows_itl else "Gap between token events (ICL)", "itl" if knows_itl else "icl", list(chain.from_iterable(gaps))),
        ("Whole answer (E2E)", "e2e", known["e2e"]),
    )
    panels = tuple(_cumulative(title, sorted(values), levels, metric) for title, metric, values in parts if values)
    description = "Share of requests, or of gaps, that took at most so long; dots at the 50th, 95th and 99th percentile, limits dashed."
    return Chart("distributions", description, panels, columns=2, row_inch=2.1) if panels else None


def _cumulative(title: str, ordered: Sequence[float], levels: Sequence[Level], metric: str) -> Panel:
    unit_s, unit = (1.0, "s") if percentile(ordered, 99) >= 1 else (1e-3, "ms")
    curve = tuple((percentile(ordered, step * 100) / unit_s, step) for step in _STEPS)
    dots = tuple((percentile(ordered, percent) / unit_s, percent / 100) for percent in (50, 95, 99))
    told = ", ".join(f"p{share * 100:.0f} {value:.3g}" for value, share in dots)
    series = (Series("", curve, Look.LINE, Tone.BLUE, 1.8), Series(told, dots, Look.DOTS, Tone.INK, 5))
    return Panel(title, f"Time ({unit})", series, moments=tuple(limits_of(levels, metric, unit_s)), y_top=1.03, is_share=True, is_log_x=True)


def _throughput(course: Course) -> Chart | None:
    if not course.records:
        return None
    due = course.rate(record.moment_ns for record in course.records)
    answered = course.rate(record.end_ns for record in course.records if record.succeeded)
    failed = course.rate(record.end_ns for record in course.records if record.failure is not None)
    requests = [Series("due" if course.is_open else "begun", due, Look.STEP, Tone.GREY, 1.0), Series("answered", answered, Look.STEP, Tone.BLUE)]
    if _is_something(failed):
        requests.append(Series("failed", failed, Look.STEP, Tone.VERMILLION))
    panels = (
        _over_time("Requests per second", requests, course),
        _over_time("Output tokens per second", [Series("", course.tokens(), Look.STEP, Tone.GREEN)], course),
        _over_time("Requests under way, at most", [Series("", course.under_way(), Look.STEP, Tone.PURPLE)], course, SINCE),
    )
    return Chart("throughput", f"Rates over time, in stretches of {course.bin_s:g} s.", panels, row_inch=1.65)


def _errors(course: Course) -> Chart | None:
    kinds = sorted({str(record.failure) for record in course.records if record.failure is not None})
    if not kinds:
        return None
    lines = [Series("", course.rate(record.end_ns for record in course.records if record.failure == kind), Look.STEP, Tone.VERMILLION) for kind in kinds]
    panels = tuple(_over_time(f"Failures per second: {kind}", [line], course) for kind, line in zip(kinds, lines, strict=True))
    panels = (*panels[:-1], replace(panels[-1], x_label=SINCE))
    return Chart("errors", f"Failed requests over time by kind, in stretches of {course.bin_s:g} s.", panels, row_inch=1.25)


def _over_time(title: str, series: Sequence[Series], course: Course, x_label: str = "") -> Panel:
    return Panel(title, x_label, tuple(series), spans=spans_of(course), x_range=(course.start_s, course.end_s))


def _is_something(points: Points) -> bool:
    return any(value for _, value in points)
