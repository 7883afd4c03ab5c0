"""Draws a chart's panels on axes of matplotlib, which `tools.plot` makes; what it draws as many small dots, `tools.inline_svg` makes small."""

from __future__ import annotations

import math
from typing import Any

from kivactl.tools.chart import Look, Mark, Note, Panel, Series, Tone

DOTS, CROSSES = "dots", "crosses"
"""Groups whose path is one stroke of no length for each dot; their names go on with the size in points and a number."""

_LOG_FROM_RATIO = 20.0
_FEW_DECADES = 2.2
_LONGEST_LABEL = 40
_CORNER_PT = 3
_NARROW_RATIO, _HIGH_RATIO = 0.08, 0.88
_NAME_WIDTH_RATIO, _NAME_HEIGHT_RATIO = 0.12, 0.15
_STROKES = {Look.LINE: "-", Look.STEP: "-", Look.DASHES: (0, (4, 2))}


def draw_panel(axes: Any, panel: Panel) -> None:
    """Draw a panel on its axes."""
    _spans(axes, panel)
    handles = [(_series(axes, number, series), series.label) for number, series in enumerate(panel.series) if series.points]
    _scale(axes, panel)
    for mark in panel.limits:
        _limit(axes, mark, panel)
    for number, mark in enumerate(panel.moments):
        _moment(axes, mark, number, panel)
    for note in panel.notes:
        _note(axes, note)
    title = axes.set_title(panel.y_label, loc="left", fontsize=9, pad=6)
    if panel.x_label:
        axes.set_xlabel(panel.x_label)
    axes.grid(axis="y", linewidth=0.5, color=Tone.GREY, alpha=0.3)
    axes.set_axisbelow(True)
    _legend(axes, [(handle, printable(label)) for handle, label in handles if label], title)


def _legend(axes: Any, named: list[tuple[Any, str]], title: Any) -> None:
    """Beside the title, in one row or, where names are long, in several."""
    look = {"frameon": False, "handlelength": 1.6, "columnspacing": 1.4, "handletextpad": 0.5, "borderaxespad": 0.2, "fontsize": 8}
    for columns in range(len(named), 0, -1):
        legend = axes.legend(*zip(*named, strict=True), loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns, **look)
        if legend.get_window_extent().x0 > title.get_window_extent().x1:
            return


def printable(text: str) -> str:
    """A name as it may stand in a picture: on one line, and not too long. matplotlib leaves out what begins with an underscore."""
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    shown = shown if len(shown) <= _LONGEST_LABEL else f"{shown[: _LONGEST_LABEL - 1]}…"
    return f"\u200b{shown}" if shown.startswith("_") else shown


def _spans(axes: Any, panel: Panel) -> None:
    for span in panel.spans:
        axes.axvspan(span.start, span.end, color=Tone.GREY, alpha=0.14, linewidth=0)
        left, right = panel.x_range or axes.get_xlim()
        if span.end - span.start < _NARROW_RATIO * (right - left):
            continue
        place = {"xycoords": ("data", "axes fraction"), "xytext": (3, -3), "textcoords": "offset points", "va": "top", "fontsize": 7.5}
        axes.annotate(printable(span.label), (span.start, 1.0), color=Tone.GREY, annotation_clip=False, **place)


def _series(axes: Any, number: int, series: Series) -> Any:
    xs, ys = zip(*series.points, strict=True)
    if series.look in _STROKES:
        style = {"drawstyle": "steps-post"} if series.look is Look.STEP else {}
        return axes.plot(xs, ys, linestyle=_STROKES[series.look], color=series.tone, linewidth=series.size, **style)[0]
    marker = {Look.DOTS: "o", Look.CROSSES: "x", Look.RINGS: "o"}[series.look]
    look = {"linestyle": "none", "color": series.tone, "markerfacecolor": "none" if series.look is Look.RINGS else series.tone}
    shape = {"marker": marker, "markersize": max(series.size, 4.0), "markeredgewidth": 0 if series.look is Look.DOTS else 1.2}
    if series.look is Look.RINGS:
        return axes.plot(xs, ys, **look, **shape)[0]
    gap = math.nan
    strokes = ([place for x in xs for place in (x, x, gap)], [value for y in ys for value in (y, y, gap)])
    group = f"{DOTS if series.look is Look.DOTS else CROSSES}-{max(1, round(series.size))}-{number}"
    width = series.size if series.look is Look.DOTS else 1.1
    axes.plot(*strokes, color=series.tone, linewidth=width, solid_capstyle="round", gid=group, alpha=0.75 if len(xs) > 1000 else 1.0)
    return axes.plot([], [], **look, **shape)[0]


def _scale(axes: Any, panel: Panel) -> None:
    if panel.x_range is not None:
        axes.set_xlim(*panel.x_range)
    places = [x for series in panel.series for x, _ in series.points]
    values = [y for series in panel.series for _, y in series.points]
    if panel.is_log_x and _is_wide(places):
        axes.set_xscale("log")
        _ticks(axes.xaxis, *axes.get_xlim())
    if panel.is_log and _is_wide(values):
        axes.set_yscale("log")
        _ticks(axes.yaxis, *axes.get_ylim())
    else:
        # A panel of noughts has no height of its own; nor has one without values.
        axes.set_ylim(0, panel.y_top or (max(values, default=0) * 1.06 or 1))
    shown = percent if panel.is_share else number
    axes.yaxis.set_major_formatter(lambda value, _: shown(value))
    axes.xaxis.set_major_formatter(lambda value, _: number(value))


def _is_wide(values: list[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) / min(values) > _LOG_FROM_RATIO


def _ticks(axis: Any, low: float, high: float) -> None:
    """Round numbers, as many as can be read."""
    steps = (1, 2, 5) if math.log10(high / low) < _FEW_DECADES else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    axis.set_ticks([step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high])
    axis.set_ticks([], minor=True)


def _limit(axes: Any, mark: Mark, panel: Panel) -> None:
    """A line across; one that lies beyond the picture is told at its edge, so that it does not squash what is in it."""
    _, high = axes.get_ylim()
    if mark.at > high:
        axes.annotate(
            f"{printable(mark.label)} ↑", (1.0, 1.0), xycoords="axes fraction", xytext=(-3, -3), textcoords="offset points", ha="right", va="top", fontsize=7.5
        )
        return
    axes.axhline(mark.at, color=Tone.INK, linewidth=1.0, linestyle=(0, (5, 3)), zorder=4)
    is_high = axes.transAxes.inverted().transform(axes.transData.transform((1, mark.at)))[1] > _HIGH_RATIO
    is_right = _crowd(axes, panel, mark.at, 1.0) <= _crowd(axes, panel, mark.at, 0.0)
    place = {"xycoords": ("axes fraction", "data"), "xytext": (-3 if is_right else 3, -2 if is_high else 2), "textcoords": "offset points"}
    look = {"ha": "right" if is_right else "left", "va": "top" if is_high else "bottom", "fontsize": 7.5, "zorder": 6}
    axes.annotate(printable(mark.label), (float(is_right), mark.at), annotation_clip=False, **look, **place)


def _crowd(axes: Any, panel: Panel, at: float, end: float) -> int:
    """How many values there are where the name of a limit would stand."""
    points = [point for series in panel.series for point in series.points]
    if not points:
        return 0
    to_axes = axes.transData + axes.transAxes.inverted()
    (_, height), places = to_axes.transform((1, at)), to_axes.transform(points)
    return sum(abs(x - end) < _NAME_WIDTH_RATIO and abs(y - height) < _NAME_HEIGHT_RATIO for x, y in places)


def _moment(axes: Any, mark: Mark, row: int, panel: Panel) -> None:
    low, high = axes.get_xlim()
    if not low <= mark.at <= high:
        axes.annotate(
            f"{printable(mark.label)} →", (1.0, 0.03), xycoords="axes fraction", xytext=(-3, 9 * row), textcoords="offset points", ha="right", fontsize=7.5
        )
        return
    axes.axvline(mark.at, color=Tone.INK, linewidth=1.0, linestyle=(0, (5, 3)) if row == 0 else (0, (1, 1.5)), zorder=4)
    # Of neighbours one is named at its left and one at its right, so that no name lies across another's line.
    places = [other.at for other in panel.moments]
    is_last = len(places) > 1 and mark.at == max(places)
    is_first = len(places) > 1 and mark.at == min(places)
    turns_at = 0.85 if is_last else 0.25 if is_first else 0.6
    ends_right = axes.transAxes.inverted().transform(axes.transData.transform((mark.at, 0)))[0] > turns_at
    place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "xytext": (-_CORNER_PT if ends_right else _CORNER_PT, 4 + 9 * row)}
    axes.annotate(printable(mark.label), (mark.at, 0.0), ha="right" if ends_right else "left", va="bottom", fontsize=7.5, zorder=6, **place)


def _note(axes: Any, note: Note) -> None:
    axes.annotate(printable(note.label), (note.x, note.y), xytext=(4, -2), textcoords="offset points", va="top", fontsize=7.5, zorder=6)


def number(value: float) -> str:
    """A number on an axis."""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:g}".replace("-", "−")


def percent(value: float) -> str:
    """A ratio on an axis."""
    return f"{value * 100:g} %"
