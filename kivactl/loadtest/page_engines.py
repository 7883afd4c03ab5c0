"""What the engines said of themselves during a run, as a picture and as a table; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from kivactl.loadtest.engine_samples import EngineSample, growth
from kivactl.loadtest.metrics import Window
from kivactl.loadtest.page_course import Course, Points
from kivactl.loadtest.page_parts import Row, Table
from kivactl.loadtest.wording import time_text
from kivactl.tools.chart import REPLICAS, Chart, Look, Panel, Series, Span, Tone

Value = Callable[[EngineSample, EngineSample], float | None]
"""Of a sample and the one before it."""


def by_replica(samples: Sequence[EngineSample]) -> dict[str, list[EngineSample]]:
    """The samples of each replica, by time."""
    found: dict[str, list[EngineSample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.at_ns):
        found.setdefault(sample.replica, []).append(sample)
    return dict(sorted(found.items()))


def engines_chart(samples: Sequence[EngineSample], course: Course) -> Chart | None:
    """The engines' figures over time, a line for each replica; of many replicas thin lines of one colour.

    Args:
        samples: In any order.
        course: Of the run.
    """
    replicas = by_replica(samples)
    parts: tuple[tuple[str, Value, bool], ...] = (
        ("Requests running", lambda _, now: now.running, False),
        ("Requests waiting", lambda _, now: now.waiting, False),
        ("KV cache in use", lambda _, now: now.kv_cache_ratio, True),
        ("Preemptions per second", _rate("preemptions"), False),
        ("Prefix cache hit rate", _hit_ratio, True),
        ("Prompt tokens per second", _rate("prompt_tokens"), False),
        ("Generated tokens per second", _rate("generation_tokens"), False),
        ("Mean wait in the queue (ms)", _mean_queue_ms, False),
    )
    spans = (Span("warm-up", course.start_s, 0.0),) if course.start_s < 0 else ()
    panels: list[Panel] = []
    for title, value, is_share in parts:
        lines = {name: _line(seen, course, value) for name, seen in replicas.items()}
        if any(lines.values()):
            series = tuple(_series(lines, is_named=not panels))
            top = 1.03 if is_share else None
            shaded = spans if not panels else tuple(replace(span, label="") for span in spans)
            panels.append(Panel(title, "", series, spans=shaded, x_range=(course.start_s, course.end_s), y_top=top, is_share=is_share))
    if not panels:
        return None
    columns = 2
    panels = [replace(panel, x_label="Time (s)") if number >= len(panels) - columns else panel for number, panel in enumerate(panels)]
    description = f"The engines' own figures over time for {len(replicas)} replicas: {', '.join(panel.y_label.lower() for panel in panels)}."
    return Chart("engines", description, tuple(panels), columns=columns, row_inch=1.6)


def engines_table(samples: Sequence[EngineSample], window: Window | None) -> Table | None:
    """The engines' figures during the measured phase, a row for each replica; None without samples.

    Args:
        samples: In any order.
        window: The measured phase; None for all samples.
    """
    rows = []
    for name, seen in by_replica(samples).items():
        within = [sample for sample in seen if window is None or window.holds(sample.at_ns)]
        if within:
            rows.append(Row((name, *_cells(within))))
    head = ("Replica", "running, mean", "waiting, most", "KV cache, most", "preemptions", "prefix hits", "prompt tokens/s", "generated tokens/s", "queue, mean")
    return Table("The engines during the measured phase", head, tuple(rows), numbers=tuple(range(1, len(head)))) if rows else None


def _cells(seen: Sequence[EngineSample]) -> Iterator[str]:
    span_s = (seen[-1].at_ns - seen[0].at_ns) / 1e9
    running = [sample.running for sample in seen if sample.running is not None]
    yield f"{sum(running) / len(running):.1f}" if running else "-"
    waiting = [sample.waiting for sample in seen if sample.waiting is not None]
    yield f"{max(waiting):.0f}" if waiting else "-"
    known = [sample.kv_cache_ratio for sample in seen if sample.kv_cache_ratio is not None]
    yield f"{max(known):.0%}" if known else "-"
    preemptions = growth(seen, "preemptions")
    yield "-" if preemptions is None else f"{preemptions:.0f}"
    hits, queries = growth(seen, "prefix_hits"), growth(seen, "prefix_queries")
    yield f"{hits / queries:.0%}" if hits is not None and queries else "-"
    for name in ("prompt_tokens", "generation_tokens"):
        grown = growth(seen, name)
        yield f"{grown / span_s:.0f}" if grown is not None and span_s else "-"
    queue_s, count = growth(seen, "queue_s"), growth(seen, "queue_count")
    yield time_text(queue_s / count) if queue_s is not None and count else "-"


def _series(lines: dict[str, Points], *, is_named: bool) -> Iterator[Series]:
    """The first panel names the replicas."""
    if len(lines) > len(REPLICAS):
        for number, points in enumerate(lines.values()):
            yield Series(f"each of {len(lines)} replicas" if is_named and not number else "", points, Look.LINE, Tone.GREY, 0.7)
        return
    for (name, points), tone in zip(lines.items(), REPLICAS, strict=False):
        yield Series(name if is_named else "", points, Look.LINE, tone, 1.2)


def _line(seen: Sequence[EngineSample], course: Course, value: Value) -> Points:
    """Of each stretch of time the highest value: a peak is what matters, and a day of samples is too much for a picture."""
    highest: dict[int, tuple[float, float]] = {}
    before = seen[0]
    for sample in seen:
        at_s = course.at_s(sample.at_ns)
        found = value(before, sample)
        before = sample
        if found is None or not course.start_s <= at_s <= course.end_s:
            continue
        stretch = int((at_s - course.start_s) / course.bin_s)
        if stretch not in highest or found > highest[stretch][1]:
            highest[stretch] = (at_s, found)
    return tuple(highest.values())


def _rate(name: str) -> Value:
    """Growth of a counter per second."""

    def rate(before: EngineSample, now: EngineSample) -> float | None:
        grown, span_s = growth((before, now), name), (now.at_ns - before.at_ns) / 1e9
        return grown / span_s if grown is not None and span_s > 0 else None

    return rate


def _hit_ratio(before: EngineSample, now: EngineSample) -> float | None:
    hits, queries = growth((before, now), "prefix_hits"), growth((before, now), "prefix_queries")
    return min(1.0, hits / queries) if hits is not None and queries else None


def _mean_queue_ms(before: EngineSample, now: EngineSample) -> float | None:
    waited_s, count = growth((before, now), "queue_s"), growth((before, now), "queue_count")
    return waited_s / count * 1e3 if waited_s is not None and count else None
