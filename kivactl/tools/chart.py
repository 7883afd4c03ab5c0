"""What a chart shows, without how it is drawn: panels of series over one axis each, with limits, moments and shaded stretches; pure.

`tools.plot.inline` draws it. Tones are colours that everybody can tell apart (Okabe and Ito); what matters differs in shape or
stroke too, so that a chart says the same in black and white.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Look(StrEnum):
    """How a series is drawn."""

    LINE = "line"
    DASHES = "dashes"
    STEP = "step"
    """Each value holds from its place to the next one's."""
    DOTS = "dots"
    CROSSES = "crosses"
    RINGS = "rings"


class Tone(StrEnum):
    """The colour of a series."""

    BLUE = "#0072b2"
    VERMILLION = "#d55e00"
    GREEN = "#009e73"
    ORANGE = "#e69f00"
    PURPLE = "#cc79a7"
    SKY = "#56b4e9"
    GREY = "#777777"
    INK = "#1a1a1a"


REPLICAS = (Tone.BLUE, Tone.ORANGE, Tone.GREEN, Tone.PURPLE, Tone.SKY, Tone.VERMILLION)
"""Tones of things that stand side by side, in order."""


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one thing.

    Attributes:
        label: In the legend; empty for no place in it.
        points: Place and value.
        look: How they are drawn.
        tone: In what colour.
        size: Of a dot, or width of a line, in points.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    look: Look = Look.LINE
    tone: Tone = Tone.BLUE
    size: float = 1.4


@dataclass(frozen=True, slots=True)
class Mark:
    """A value to be marked over the whole width or height, with its name."""

    label: str
    at: float


@dataclass(frozen=True, slots=True)
class Note:
    """A short text at a point."""

    label: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the horizontal axis that is shaded: name, begin and end."""

    label: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One part of a chart. An axis is logarithmic where its values span more than a factor of 20.

    Attributes:
        y_label: What goes up, with its unit.
        x_label: What goes right, with its unit; empty where the panel below says it.
        series: What is drawn; later ones lie above.
        limits: Values of the vertical axis.
        moments: Values of the horizontal axis.
        spans: Shaded stretches.
        notes: Texts at points.
        x_range: Both ends of the horizontal axis; None for those of the values.
        y_top: Upper end of the vertical axis; None for that of the values.
        is_share: Whether the vertical axis is a ratio in 0..1, to be told in per cent.
        is_log: Whether the vertical axis may be logarithmic.
        is_log_x: Whether the horizontal one may be.
    """

    y_label: str
    x_label: str
    series: tuple[Series, ...]
    limits: tuple[Mark, ...] = ()
    moments: tuple[Mark, ...] = ()
    spans: tuple[Span, ...] = ()
    notes: tuple[Note, ...] = ()
    x_range: tuple[float, float] | None = None
    y_top: float | None = None
    is_share: bool = False
    is_log: bool = False
    is_log_x: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Panels in rows, from left to right.

    Attributes:
        name: Of letters and hyphens; unlike that of any other chart on a page.
        description: What is to be seen, in a sentence, for those who do not see it.
        panels: At least one.
        columns: Panels beside each other.
        row_inch: Height of a row; the whole is nine inches wide.
    """

    name: str
    description: str
    panels: tuple[Panel, ...]
    columns: int = 1
    row_inch: float = 2.0
