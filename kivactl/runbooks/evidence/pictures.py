"""Pictures for a report: those of the measurements, made harmless, and one of the steps over time. Pure: SVG in, SVG out.

They become a part of the HTML file, so nothing of them may run, load, or reach out of the picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from kivactl.runbooks.evidence.wording import Voice
from kivactl.stack.redaction import redacted

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_SHAPES = {"path", "use", "rect", "circle", "line", "polyline", "polygon", "ellipse", "text", "tspan", "image"}
_KEPT = _SHAPES | {"svg", "g", "defs", "clipPath", "pattern", "symbol", "mask", "linearGradient", "radialGradient", "stop", "title", "desc"}
_OUTSIDE = re.compile(r"url\(\s*['\"]?(?!#)|@import|expression|javascript:", re.IGNORECASE)
_DATA = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=\s]+")
_WITHOUT_STYLE = {"stroke-linejoin": "round", "stroke-linecap": "butt"}
"""What matplotlib says in a style sheet, which would hold for the whole page."""

COLORS = {"done": "#009E73", "failed": "#D55E00", "undone": "#E69F00", "begun": "#777777"}
_WIDTH, _LABELS, _ROW, _TOP, _BOTTOM = 720.0, 250.0, 22.0, 6.0, 40.0
_LONGEST_LABEL = 38
_NARROWEST = 2.0
_TICKS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400)
_MOST_TICKS = 7


@dataclass(frozen=True, slots=True)
class Span:
    """Something that a step did over time.

    Attributes:
        label: The step's title.
        start_s: Since the run began.
        end_s: The same.
        kind: `done`, `failed`, `undone`, or `begun` when it never ended.
    """

    label: str
    start_s: float
    end_s: float
    kind: str


def harmless(svg: bytes, alternative: str) -> str:
    """A picture without anything that runs or loads; empty when it is no picture.

    Args:
        svg: As it was drawn.
        alternative: What it shows, for those who cannot see it.
    """
    try:
        root = ET.fromstring(svg)  # noqa: S314  (expat bounds the growth of entities; what comes out is picked from a list)
    except (ET.ParseError, ValueError):
        return ""
    if root.tag != f"{{{_SVG}}}svg":
        return ""
    _strip(root)
    for key, value in _WITHOUT_STYLE.items():
        root.set(key, value)
    return _written(root, alternative)


def steps_picture(spans: Sequence[Span], voice: Voice) -> str:
    """The steps as bars over time, one row a step in the order of their first begin; empty without any."""
    if not spans:
        return ""
    rows = list(dict.fromkeys(span.label for span in spans))
    whole_s = max(0.001, *(span.end_s for span in spans))
    height = _TOP + _ROW * len(rows) + _BOTTOM
    root = ET.Element(f"{{{_SVG}}}svg", {"viewBox": f"0 0 {_WIDTH:g} {height:g}", "font-family": "sans-serif", "font-size": "11"})
    bottom = _TOP + _ROW * len(rows)
    scale = (_WIDTH - _LABELS - 20) / whole_s
    for tick_s in _ticks(whole_s):
        x = _LABELS + tick_s * scale
        _add(root, "line", x1=x, x2=x, y1=_TOP, y2=bottom, stroke="#dddddd")
        _text(root, voice.seconds(tick_s), x, bottom + 14, "middle", "#444444")
    for row, label in enumerate(rows):
        shown = redacted(label)
        shown = shown if len(shown) <= _LONGEST_LABEL else f"{shown[: _LONGEST_LABEL - 1]}…"
        _text(root, shown, _LABELS - 8, _TOP + _ROW * row + 15, "end", "#111111")
    for span in spans:
        y, x = _TOP + _ROW * rows.index(span.label) + 4, _LABELS + max(span.start_s, 0) * scale
        width = max((span.end_s - max(span.start_s, 0)) * scale, _NARROWEST)
        _add(root, "rect", x=x, y=y, width=width, height=_ROW - 8, fill=COLORS[span.kind], stroke="#111111", stroke_width=0.4)
        if span.kind == "failed":  # told apart without colours, too
            _add(root, "path", d=f"M{x:.2f} {y:.2f}l{width:.2f} {_ROW - 8:g}M{x:.2f} {y + _ROW - 8:.2f}l{width:.2f} {8 - _ROW:g}", stroke="#ffffff")
        if span.kind == "undone":
            _add(root, "line", x1=x, x2=x + width, y1=y + (_ROW - 8) / 2, y2=y + (_ROW - 8) / 2, stroke="#ffffff", stroke_dasharray="3 2")
    _text(root, voice.word("since_begin"), _LABELS + (_WIDTH - _LABELS) / 2, bottom + 31, "middle", "#444444")
    return _written(root, voice.word("steps_picture"))


def _strip(element: ET.Element) -> None:
    for child in list(element):
        name = child.tag.removeprefix(f"{{{_SVG}}}") if isinstance(child.tag, str) else ""
        if name not in _KEPT:
            element.remove(child)
        else:
            _strip(child)
    for key, value in list(element.attrib.items()):
        link = key in {"href", f"{{{_XLINK}}}href"}
        if key.lower().startswith("on") or (key.startswith("{") and not link) or _OUTSIDE.search(value) or (link and not _stays(value)):
            del element.attrib[key]
    element.text = redacted(element.text) if element.text else element.text
    element.tail = redacted(element.tail) if element.tail else element.tail


def _stays(link: str) -> bool:
    return link.startswith("#") or _DATA.fullmatch(link) is not None


def _written(root: ET.Element, alternative: str) -> str:
    for key in ("width", "height"):  # it is as wide as the page allows
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", redacted(alternative))
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    return ET.tostring(root, encoding="unicode")


def _ticks(whole_s: float) -> list[float]:
    step_s = next((step for step in (0.1, 0.2, 0.5, *_TICKS_S) if whole_s / step <= _MOST_TICKS), whole_s / _MOST_TICKS)
    return [index * step_s for index in range(int(whole_s / step_s) + 1)]


def _add(parent: ET.Element, name: str, **attributes: float | str) -> None:
    written = {key.replace("_", "-"): value if isinstance(value, str) else f"{value:.2f}" for key, value in attributes.items()}
    ET.SubElement(parent, f"{{{_SVG}}}{name}", written)


def _text(parent: ET.Element, text: str, x: float, y: float, anchor: str, color: str) -> None:
    element = ET.SubElement(parent, f"{{{_SVG}}}text", {"x": f"{x:.2f}", "y": f"{y:.2f}", "text-anchor": anchor, "fill": color})
    element.text = text
