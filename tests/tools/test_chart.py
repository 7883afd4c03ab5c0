"""Charts as parts of a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from kivactl.tools.chart import Chart, Look, Mark, Note, Panel, Series, Span, Tone
from kivactl.tools.chart_axes import number, percent, printable
from kivactl.tools.inline_svg import inline_svg
from kivactl.tools.plot import inline

POINTS = ((0.0, 0.1), (1.0, 0.2), (2.0, 4.0))
PANEL = Panel(
    "Time (s)",
    "Load (users)",
    tuple(Series(look.value, POINTS, look, tone, 5) for look, tone in zip(Look, Tone, strict=False)),
    limits=(Mark("p95 ≤ 1 s", 1.0),),
    moments=(Mark("knee", 1.0), Mark("capacity", 1.5)),
    spans=(Span("warm-up", 0.0, 1.0),),
    notes=(Note("8", 1.0, 0.2),),
    x_range=(0.0, 2.0),
    is_log=True,
)
CHART = Chart("sweep", "what is to be seen", (PANEL, replace(PANEL, is_log=False)), columns=2)


def test_a_chart_is_one_element_and_always_the_same():
    text = inline(CHART)
    root = ET.fromstring(text)
    assert (root.tag, root.get("role"), root.get("aria-label")) == ("svg", "img", "what is to be seen")
    assert text == inline(CHART)
    assert "http" not in text
    assert "<style" not in text


def test_texts_stay_texts_and_mean_nothing():
    hostile = '<script>alert("1")</script> $x$ _y & \x00'
    panel = replace(PANEL, y_label=hostile, series=(Series(hostile, POINTS), Series("_hidden", POINTS)), limits=(Mark(hostile, 1.0),))
    text = inline(Chart("hostile", hostile.replace("\x00", ""), (panel,)))
    root = ET.fromstring(text.replace("\x00", ""))
    texts = [element.text or "" for element in root.iter("text")]
    assert any("<script>" in found and "$x$" in found for found in texts)
    assert any(found.endswith("_hidden") for found in texts)
    assert "<script" not in text


def test_colours_are_those_of_the_page():
    text = inline(CHART)
    assert "var(--tone-blue,#0072b2)" in text
    bare = re.sub(r"var\(--tone-\w+,#\w+\)", "", text)
    assert set(re.findall(r"#[0-9a-f]{6}\b", bare)) == set()


def test_two_charts_share_no_names():
    names = [set(re.findall(r' id="([^"]+)"', inline(replace(CHART, name=name)))) for name in ("one", "two")]
    assert all(names)
    assert not names[0] & names[1]
    text = inline(CHART)
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text)) <= set(re.findall(r' id="([^"]+)"', text))


def test_each_of_many_dots_is_there_in_a_few_bytes():
    count = 10_000
    dots = tuple((index / count, 1 + index % 97) for index in range(count))
    text = inline(Chart("many", "", (Panel("y", "x", (Series("all", dots, Look.DOTS), Series("bad", dots[:30], Look.CROSSES, Tone.VERMILLION, 4))),)))
    assert text.count("h0") == count
    assert text.count("m-2-2l4 4m-4 0l4-4") == 30
    assert len(text) < 25 * count


@pytest.mark.parametrize(
    "panel",
    [
        Panel("y", "x", ()),
        Panel("y", "x", (Series("none", ()),), limits=(Mark("limit", 5.0),), moments=(Mark("far", 9.0),)),
        Panel("y", "x", (Series("nought", ((0.0, 0.0),), Look.DOTS),), is_log=True, is_log_x=True),
        Panel("y", "x", (Series("wide", ((1e-6, 1e-6), (1e6, 1e9))),), is_log=True, is_log_x=True, is_share=True),
    ],
)
def test_a_chart_of_nearly_nothing_is_one(panel):
    assert ET.fromstring(inline(Chart("little", "", (panel, panel, panel), columns=2))).tag == "svg"


def test_a_limit_beyond_the_picture_does_not_squash_what_is_in_it():
    near = Panel("y", "x", (Series("", ((0.0, 0.1), (1.0, 0.2))),), limits=(Mark("p95 ≤ 30 s", 30.0),))
    text = inline(Chart("far", "", (near,)))
    assert "p95 ≤ 30 s ↑" in text
    assert ">30<" not in text


def test_numbers_are_rounded_to_a_tenth_of_a_point():
    drawn = '<?xml version="1.0"?>\n<svg viewBox="0 0 9 9" a="b">\n <g id="x"><path d="M 1.2345 -0.0001 \nL 2.00001 3 \n"/></g>\n</svg>'
    assert inline_svg(drawn, "n", "d") == (
        '<svg class="chart" viewBox="0 0 9 9" role="img" aria-label="d" stroke-linejoin="round"><g><path d="M1.2 0L2 3"/></g></svg>'
    )


def test_names_fit():
    assert printable("a\nb") == "a b"
    assert printable("x" * 99) == "x" * 39 + "…"
    assert [number(value) for value in (0.5, -2.0, 12345.0)] == ["0.5", "−2", "12,345"]
    assert percent(0.25) == "25 %"


@pytest.mark.parametrize(("names", "rows"), [(("a", "b"), 1), (("a-model-with-a-long-name-0", "a-model-with-a-long-name-1"), 2)])
def test_a_legend_of_long_names_leaves_room_for_the_title(names, rows):
    panel = Panel("Requests running", "", tuple(Series(name, POINTS) for name in names))
    root = ET.fromstring(inline(Chart("engines", "lines", (panel, panel), columns=2)))
    heights = {text.get("y") for text in root.iter("text") if text.text in names}
    assert len(heights) == rows
