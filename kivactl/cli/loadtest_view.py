"""A load test while it runs, as lines for a terminal; pure: what is known becomes what is drawn.

A limit that holds stands behind its value with `≤`, one that is broken with `>` and in red, so that it is seen without colours too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from kivactl.loadtest.levels import ERROR_RATIO, Level
from kivactl.loadtest.validity import allowed_loop_lag_ms
from kivactl.loadtest.wording import limit_text, ratio_text, time_text

_INDENT, _LABEL = 2, 11
_VALUE, _MORE = 14, 16
"""Least widths of the two columns behind the label."""
_TIME = 7
"""A time's text is at most so long; it stands right, so that nothing jumps when it becomes shorter."""
_ROOMY = 72
_LEAST_SPARK, _LEAST_BAR = 6, 8
_SPAN_S = 60
"""A sparkline shows the last minute, where there is room for it."""
_MOST_PER_SIGN_S = 3
_MEAN_OF = 10
"""Rates are means of so many seconds, as the percentiles are of."""
_BARS = "▁▂▃▄▅▆▇"
_OVER, _DOUBT = "bold red", "yellow"


@dataclass(frozen=True, slots=True)
class _Row:
    """A figure.

    Attributes:
        label: Its name.
        value: What it is.
        more: What else there is to say, such as a limit.
        styles: Of value and more.
        course: By second, for a sparkline; empty for none.
    """

    label: str
    value: str
    more: str = ""
    styles: tuple[str, str] = ("", "")
    course: tuple[tuple[int, float | None], ...] = ()


def lines_for(begun: Mapping[str, Any], course: Sequence[Mapping[str, Any]], width: int, height: int) -> list[Text]:
    """What is drawn below the step's line.

    Args:
        begun: The data with which the step started: what was planned and promised.
        course: The data of its progress, one a second, the newest last; may be empty.
        width: Of the terminal, in columns; no line is longer.
        height: Lines there is room for; the most important come first.
    """
    facts = course[-1] if course else {}
    rows = list(_rows(begun, course, facts, is_roomy=width >= _ROOMY))
    value = max([_VALUE, *(len(row.value) + 2 for row in rows if row.course)])
    more = max([_MORE, *(len(row.more) + 2 for row in rows if row.course)])
    room = min(_SPAN_S, width - _INDENT - _LABEL - value - more)
    lines = [_phase(begun, facts, width), *(_line(row, value, more, room) for row in rows)]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines[: max(0, height)]


def sparkline(course: Sequence[tuple[int, float | None]], width: int) -> str:
    """The last minute, or what there is room for, as bars from 0 to the highest value; where there is no value, a blank.

    Args:
        course: Seconds and values, ascending.
        width: Most signs; where it is less than a minute, each stands for the mean of up to three seconds.
    """
    if not course or width < 1:
        return ""
    step = min(_MOST_PER_SIGN_S, math.ceil(_SPAN_S / width))
    groups: dict[int, list[float]] = {}
    for second, value in course:
        groups.setdefault(second // step, []).extend([] if value is None else [value])
    last = max(groups)
    shown = [groups.get(number, []) for number in range(max(min(groups), last - min(width, _SPAN_S // step) + 1), last + 1)]
    means = [sum(values) / len(values) if values else None for values in shown]
    highest = max((mean for mean in means if mean is not None), default=0.0) or 1.0
    return "".join(" " if mean is None else _BARS[round(mean / highest * (len(_BARS) - 1))] for mean in means)


def _rows(begun: Mapping[str, Any], course: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], *, is_roomy: bool) -> Iterator[_Row]:
    if begun.get("series"):
        yield _series(begun["series"])
    due_rps = facts.get("due_rps")
    yield _Row("requests/s", _mean(course, "requests_per_s"), f"of {_number(due_rps)} due" if due_rps else "", course=_of(course, "requests_per_s"))
    levels = [Level(name, limit) for name, limit in begun["levels"].items()]
    if begun["is_streamed"]:
        for label in ("TTFT", "ITL"):
            yield _times(label, levels, course, facts, is_roomy=is_roomy)
        yield _Row("tokens/s", _mean(course, "tokens_per_s"), course=_of(course, "tokens_per_s"))
    yield _Row("in flight", _number(facts.get("under_way")), course=_of(course, "under_way"))
    yield _failed(levels, facts)
    yield _lag(levels, facts)


def _series(series: Mapping[str, Any]) -> _Row:
    """Which run it is, and between which loads the answer lies so far."""
    number, unit = series["number"], series["unit"]
    known = [f"{word} at {series[key]:.4g}" for word, key in (("kept", "met"), ("missed", "missed")) if series[key] is not None]
    return _Row(f"run {number}/{series['of']}" if series["of"] else f"probe {number}", f"{series['load']:.4g} {unit}", ", ".join(known), ("bold", ""))


def _times(label: str, levels: Sequence[Level], course: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], *, is_roomy: bool) -> _Row:
    """A time's median and 95th percentile; where it is narrow, a limit other than the 95th percentile's own is shown only when it is broken."""
    metric = label.lower()
    (value, style), (more, style_of_more) = (_time(facts.get(f"{metric}_p{percent}_ms"), percent, metric, levels, is_roomy=is_roomy) for percent in (50, 95))
    return _Row(label, value, more, (style, style_of_more), _of(course, f"{metric}_p95_ms"))


def _time(value_ms: float | None, percent: int, metric: str, levels: Sequence[Level], *, is_roomy: bool) -> tuple[str, str]:
    """A percentile beside its limit (of another percentile only when it is broken), and the style."""
    limit, over = _limit(metric, percent, levels), _OVER
    if limit is None and metric == "itl":
        # TPOT is an answer's mean, near the time between tokens but not the same: to be over its limit is a hint only.
        limit, over = _limit("tpot", percent, levels), _DOUBT
    text = f"p{percent} {time_text(value_ms / 1e3) if value_ms is not None else '-':>{_TIME}}"
    holds = limit is None or value_ms is None or limit.holds(value_ms / 1e3)
    if limit is None or (holds and not (limit.percent == percent and (is_roomy or limit.name == f"{metric}_p95"))):
        return text, ""
    names = [name for name, differs in (("TPOT", limit.metric != metric), (f"p{limit.percent}", limit.percent != percent)) if differs]
    return f"{text} {_sign(holds)} {' '.join([limit_text(limit.limit), *names])}", "" if holds else over


def _limit(metric: str, percent: int, levels: Sequence[Level]) -> Level | None:
    """What is promised of a percentile; else of the next higher one, which is broken too when this one is above it."""
    known = [level for level in levels if level.metric == metric and (level.percent or 0) >= percent]
    return min(known, key=lambda level: level.percent or 0, default=None)


def _failed(levels: Sequence[Level], facts: Mapping[str, Any]) -> _Row:
    requests, failures = facts.get("requests", 0), facts.get("failures", 0)
    value, style = f"{failures:,} of {requests:,}", _DOUBT if failures else ""
    limit = next((level for level in levels if level.name == ERROR_RATIO), None)
    if limit is None or not requests or not failures:
        return _Row("failed", value, styles=(style, ""))
    ratio = failures / requests
    style = style if limit.holds(ratio) else _OVER
    return _Row("failed", value, f"{ratio_text(ratio)} {_sign(limit.holds(ratio))} {ratio_text(limit.limit)}", (style, style))


def _lag(levels: Sequence[Level], facts: Mapping[str, Any]) -> _Row:
    """How late the generator is (p99), beside what would make the measurement invalid."""
    lag_ms, itl_ms = facts.get("generator_lag_p99_ms"), facts.get("itl_p50_ms")
    if lag_ms is None:
        return _Row("lag", "-", "of the generator")
    allowed_ms = allowed_loop_lag_ms(levels, itl_ms / 1e3 if itl_ms is not None else None, by_kernel=bool(facts.get("stamps_by_kernel")))
    holds = lag_ms <= allowed_ms
    more = "of the generator" if holds else "of the generator: invalid"
    style = "" if holds else _OVER
    return _Row("lag", f"{time_text(lag_ms / 1e3)} {_sign(holds)} {limit_text(allowed_ms / 1e3)}", more, (style, style))


def _phase(begun: Mapping[str, Any], facts: Mapping[str, Any], width: int) -> Text:
    """The phase, how far the run is, and what is left of it."""
    phase, ratio, left = _way(begun, facts)
    line = Text(" " * _INDENT + phase.ljust(_LABEL), style="bold")
    room = min(_SPAN_S, width - len(line) - len(left) - 2)
    if room >= _LEAST_BAR:
        done = round(ratio * room)
        line.append("━" * done, "cyan").append("─" * (room - done), "not bold dim").append("  ")
    return line.append(left, "not bold")


def _way(begun: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[str, float, str]:
    """Phase, share of the way (0..1), and what is left in words; of a number of requests, the time left is what the pace so far says."""
    if not facts:
        return "starting", 0.0, ""
    phase, elapsed_s = str(facts["phase"]), float(facts["elapsed_s"])
    if phase in ("finishing", "finished"):
        return phase, 1.0, "the last answers"
    wanted = begun["requests"]
    if not wanted:
        length_s = begun["warm_up_s"] + begun["duration_s"]
        ratio = min(1.0, elapsed_s / length_s)
        return phase, ratio, f"{ratio:.0%}, {_span(length_s - elapsed_s)} left"
    if phase == "warm-up":
        return phase, 0.0, f"{_span(begun['warm_up_s'] - elapsed_s)}, then {wanted:,} requests"
    ended = min(facts["requests"], wanted)
    measured_s = elapsed_s - begun["warm_up_s"]
    rest = f", about {_span((wanted - ended) / ended * measured_s)} left" if ended else ""
    return phase, ended / wanted, f"{ended:,} of {wanted:,} requests{rest}"


def _span(seconds: float) -> str:
    """`55 s`, `1:05`, `3:05:00`."""
    whole = max(0, math.ceil(seconds))
    hours, minutes = divmod(whole // 60, 60)
    if whole < 60:
        return f"{whole} s"
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def _line(row: _Row, value: int, more: int, room: int) -> Text:
    line = Text(" " * _INDENT).append(row.label.ljust(_LABEL), "dim")
    line.append(row.value, row.styles[0]).append(" " * max(2, value - len(row.value))).append(row.more.ljust(more), row.styles[1])
    if room >= _LEAST_SPARK:
        line.append(sparkline(row.course, room), "cyan")
    line.rstrip()
    return line


def _of(course: Sequence[Mapping[str, Any]], key: str) -> tuple[tuple[int, float | None], ...]:
    return tuple((round(facts["elapsed_s"]), facts[key]) for facts in course)


def _mean(course: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [facts[key] for facts in course[-_MEAN_OF:]]
    return _number(sum(values) / len(values)) if values else "-"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _sign(holds: bool) -> str:
    return "≤" if holds else ">"
