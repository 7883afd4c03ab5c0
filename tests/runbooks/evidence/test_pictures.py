"""Pictures become a part of the page: nothing of them may run, load or reach out."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.runbooks.evidence.pictures import Span, harmless, steps_picture
from kivactl.runbooks.evidence.wording import Voice

SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9" height="9" viewBox="0 0 9 9">{}</svg>'


@pytest.mark.parametrize(
    "part",
    [
        "<script>alert(1)</script>",
        '<g onload="alert(1)"/>',
        '<g ONLOAD="alert(1)"/>',
        '<use xlink:href="https://evil.example/x.svg#a"/>',
        '<use href="data:text/html,evil"/>',
        '<a href="https://evil.example"><path d="M0 0"/></a>',
        '<foreignObject><body xmlns="http://www.w3.org/1999/xhtml"><iframe src="https://evil.example"/></body></foreignObject>',
        '<image xlink:href="https://evil.example/x.png"/>',
        "<style>@import url(https://evil.example);</style>",
        '<path style="fill: url(https://evil.example)"/>',
        "<path style=\"fill: url( 'https://evil.example')\"/>",
        "<!-- evil.example -->",
        '<animate attributeName="href" to="javascript:evil"/>',
        "<metadata>evil</metadata>",
    ],
)
def test_what_runs_or_loads_is_gone(part):
    clean = harmless(SVG.format(part).encode(), "x")
    assert clean.startswith("<svg")
    assert not any(word in clean.lower() for word in ("evil", "alert", "script", "onload"))


def test_what_draws_stays():
    part = '<defs><path id="a" d="M0 0L9 9"/></defs><use xlink:href="#a" style="fill: url(#h)"/><image xlink:href="data:image/png;base64,AAAA"/>'
    root = ET.fromstring(harmless(SVG.format(part).encode(), 'of "requests"'))
    assert [element.tag.rpartition("}")[2] for element in root.iter()] == ["svg", "defs", "path", "use", "image"]
    assert root[1].attrib["style"] == "fill: url(#h)"
    assert root[2].attrib["{http://www.w3.org/1999/xlink}href"].startswith("data:image/png")
    assert root.attrib["aria-label"] == 'of "requests"'
    assert "width" not in root.attrib


@pytest.mark.parametrize("content", [b"", b"no picture", b"<svg", b"<html/>", b"\xff\xfe\x00", b"<svg xmlns='http://www.w3.org/2000/svg'>&unknown;</svg>"])
def test_what_is_no_picture_is_left_out(content):
    assert harmless(content, "x") == ""


def test_entities_that_grow_are_refused():
    layers = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    assert harmless(f'<!DOCTYPE svg [<!ENTITY a0 "ha">{layers}]>{SVG.format("<text>&a11;</text>")}'.encode(), "x") == ""


def test_a_step_that_was_tried_twice_has_one_row():
    spans = [Span("Stop", 0, 1, "failed"), Span("Stop", 2, 5, "done"), Span("Start", 5, 6, "begun")]
    root = ET.fromstring(steps_picture(spans, Voice("de")))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("Stop") == 1
    assert "Zeit seit Beginn des Durchlaufs" in texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}rect"))) == 3


def test_without_steps_there_is_no_picture():
    assert steps_picture([], Voice("en")) == ""


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["C"]), max_size=60), st.floats(0, 1e7), st.floats(0, 1e7)), min_size=1, max_size=20))
def test_bars_lie_within_the_picture(parts):
    spans = [Span(label, min(one, other), max(one, other), "done") for label, one, other in parts]
    root = ET.fromstring(steps_picture(spans, Voice("en")))
    width = float(root.attrib["viewBox"].split()[2])
    for bar in root.iter("{http://www.w3.org/2000/svg}rect"):
        assert 0 <= float(bar.attrib["x"]) <= float(bar.attrib["x"]) + float(bar.attrib["width"]) <= width
    assert len(list(root.iter("{http://www.w3.org/2000/svg}line"))) <= 9
