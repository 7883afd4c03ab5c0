"""matplotlib: draws what happened over time as an SVG that prints well, also without colours, and charts for a page. Only this module imports it.

Colours are those of Okabe and Ito, which everybody can tell apart; what matters differs in shape or hatching too.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kivactl.errors import PreconditionError
from kivactl.tools.chart import Chart, Tone
from kivactl.tools.chart_axes import draw_panel
from kivactl.tools.inline_svg import inline_svg

_BLUE, _VERMILLION, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#E69F00", "#009E73", "#555555"
_WIDE_INCH, _PANELS_INCH, _STRIP_INCH = 9.0, 4.6, 0.3
_LOG_FROM_RATIO = 20.0
_ROW_POINTS = 10
_MOST_DOTS = 500
"""More become a picture within the picture: as outlines they would weigh megabytes."""
_LINES = ("-", "--", ":")


@dataclass(frozen=True, slots=True)
class Bars:
    """Counts per second in equal bins, from the begin of the picture on."""

    label: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Dots:
    """One value for each of many events: time and value."""

    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Strip:
    """When something was well: a line of its own below the others.

    Attributes:
        label: What it is about.
        spans: Begin, end and whether it was well, without gaps.
    """

    label: str
    spans: tuple[tuple[float, float, bool], ...]


@dataclass(frozen=True, slots=True)
class Moment:
    """Something to be marked over the whole height."""

    label: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """A picture: counts above, values of single events in the middle, strips below.

    Attributes:
        title: What it shows.
        subtitle: Conditions, in one line.
        x_label: What 0 is, with the unit.
        start_s: Left edge.
        end_s: Right edge.
        bin_s: Width of a bin.
        bars_label: Axis of the counts.
        good: Counts to be glad of.
        bad: Counts to be sorry for, stacked upon them.
        dots_label: Axis of the values.
        dots: Values of single events; more than one series differ in shape.
        strips: Top first.
        well: Legend of a strip's good parts.
        unwell: Legend of the others.
        moments: In order.
        decimal: Decimal sign of the language.
    """

    title: str
    subtitle: str
    x_label: str
    start_s: float
    end_s: float
    bin_s: float
    bars_label: str
    good: Bars
    bad: Bars
    dots_label: str
    dots: tuple[Dots, ...]
    strips: tuple[Strip, ...]
    well: str
    unwell: str
    moments: tuple[Moment, ...]
    decimal: str = "."


def require() -> None:
    """Make sure that pictures can be drawn.

    Raises:
        PreconditionError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise PreconditionError("matplotlib, which draws the pictures, is not installed", "pip install 'kivactl[local]'")


def draw(picture: Timeline, path: Path) -> None:
    """Write a picture; the ending of the path says the format (`.svg`, `.png`).

    The same picture gives the same bytes. Letters become outlines, so that no font is missing where it is read.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    height = _PANELS_INCH + _STRIP_INCH * len(picture.strips)
    style = {"svg.fonttype": "path", "svg.hashsalt": "kivactl", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "hatch.linewidth": 0.6}
    with mpl.rc_context(style):
        figure = Figure(figsize=(_WIDE_INCH, height), layout="constrained")
        ratios = [2.2, 2.2, 0.35 + _STRIP_INCH * len(picture.strips)]
        above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=ratios)
        figure.suptitle(picture.title, fontsize=12, fontweight="bold", x=0.01, ha="left")
        rows = _name_moments(above, picture)
        above.set_title(picture.subtitle, fontsize=8.5, color=_GREY, loc="left", pad=8 + _ROW_POINTS * rows)
        _bars(above, picture)
        _dots(middle, picture)
        _strips(below, picture)
        for axes in (above, middle, below):
            axes.set_xlim(picture.start_s, picture.end_s)
            for moment, line in zip(picture.moments, _LINES, strict=False):
                axes.axvline(moment.at_s, color="black", linewidth=1.1, linestyle=line, zorder=5)
            axes.xaxis.set_major_formatter(lambda value, _: _number(value, picture.decimal))
        below.set_xlabel(picture.x_label)
        figure.align_ylabels()
        figure.savefig(path, metadata={"Date": None, "Creator": "kivactl", "Title": picture.title} if path.suffix == ".svg" else None, dpi=150)


def inline(chart: Chart) -> str:
    """A chart as an element of a page: an SVG whose colours the page's style may set, with its texts as texts.

    The same chart gives the same text.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    rows = -(-len(chart.panels) // chart.columns)
    # A name with a dollar is no formula, and a line of dots must keep each of them.
    style: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": chart.name, "text.parse_math": False, "path.simplify": False, "font.size": 8.5}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none", "figure.facecolor": "none", "axes.linewidth": 0.8}
    style |= dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), str(Tone.INK))
    drawn = io.StringIO()
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # signs that its own font lacks: the reader's fonts have them
        figure = Figure(figsize=(_WIDE_INCH, chart.row_inch * rows), layout="constrained")
        places: list[Any] = list(figure.subplots(rows, chart.columns, squeeze=False).flat)
        for axes, panel in zip(places, chart.panels, strict=False):
            draw_panel(axes, panel)
        for axes in places[len(chart.panels) :]:
            axes.set_axis_off()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return inline_svg(drawn.getvalue(), chart.name, chart.description)


def _bars(axes: Any, picture: Timeline) -> None:
    lefts = [picture.start_s + index * picture.bin_s for index in range(len(picture.good.values))]
    widths = [*(picture.bin_s for _ in lefts[1:]), picture.end_s - lefts[-1]]
    style = {"align": "edge", "linewidth": 0}
    axes.bar(lefts, picture.good.values, widths, color=_BLUE, label=picture.good.label, **style)
    axes.bar(lefts, picture.bad.values, widths, picture.good.values, color=_VERMILLION, hatch="////", edgecolor="white", label=picture.bad.label, **style)
    axes.set_ylabel(picture.bars_label)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: _number(value, picture.decimal))
    _legend(axes)


def _dots(axes: Any, picture: Timeline) -> None:
    values = [value for series in picture.dots for _, value in series.points]
    for series, color, marker in zip(picture.dots, (_BLUE, _VERMILLION), ("o", "x"), strict=False):
        if series.points:
            size = 9 if marker == "o" else 26
            look = {"s": size, "color": color, "marker": marker, "linewidths": 1.2 if marker == "x" else 0, "rasterized": len(series.points) > _MOST_DOTS}
            axes.scatter(*zip(*series.points, strict=True), label=series.label, **look)
    if values and min(values) > 0 and max(values) / min(values) > _LOG_FROM_RATIO:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: _number(value, picture.decimal))
    axes.set_ylabel(picture.dots_label)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    if values:
        _legend(axes)


def _strips(axes: Any, picture: Timeline) -> None:
    named: set[bool] = set()
    for row, strip in enumerate(picture.strips):
        for start_s, end_s, well in strip.spans:
            label = None if well in named else picture.well if well else picture.unwell
            named.add(well)
            look = {"color": _GREEN, "alpha": 0.75} if well else {"facecolor": _ORANGE, "hatch": "xxx", "edgecolor": "white"}
            axes.barh(row, end_s - start_s, left=start_s, height=0.7, linewidth=0, label=label, **look)
    axes.set_yticks(range(len(picture.strips)), [strip.label for strip in picture.strips])
    axes.set_ylim(len(picture.strips) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    if named:
        _legend(axes)


def _legend(axes: Any) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8, handlelength=1.4)


def _name_moments(axes: Any, picture: Timeline) -> int:
    """Names above the lines; one that would cover its neighbour goes up a row. Returns how many rows there are."""
    width_s = picture.end_s - picture.start_s
    ends: list[float] = []
    for moment in picture.moments:
        taken = 0.0105 * len(moment.label) * width_s
        right = moment.at_s + taken > picture.end_s
        start_s = moment.at_s - taken if right else moment.at_s
        row = next((row for row, end_s in enumerate(ends) if end_s < start_s), len(ends))
        ends[row : row + 1] = [start_s + taken]
        axes.annotate(
            moment.label,
            (moment.at_s, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3 if right else 3, 2 + _ROW_POINTS * row),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=8,
            annotation_clip=False,
        )
    return len(ends)


def _number(value: float, decimal: str) -> str:
    return f"{value:g}".replace(".", decimal).replace("-", "−")


def bins(stamps_s: Sequence[float], start_s: float, end_s: float, bin_s: float) -> tuple[float, ...]:
    """How many stamps there are per second, in each bin from start to end; the last bin is up to half as wide again, or half as wide."""
    counts = [0] * max(1, round((end_s - start_s) / bin_s))
    for stamp_s in stamps_s:
        if start_s <= stamp_s <= end_s:
            counts[min(int((stamp_s - start_s) / bin_s), len(counts) - 1)] += 1
    last_s = end_s - start_s - (len(counts) - 1) * bin_s
    return tuple(count / width_s for count, width_s in zip(counts, [*(bin_s for _ in counts[1:]), last_s], strict=True))
