"""The picture as a file."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import PreconditionError
from kivactl.tools.plot import Bars, Dots, Moment, Strip, Timeline, bins, draw, require

PICTURE = Timeline(
    title="A drill <&>",
    subtitle="3 users",
    x_label="Time (s)",
    start_s=-10.0,
    end_s=10.0,
    bin_s=5.0,
    bars_label="Requests per second",
    good=Bars("answered", (3.0, 2.0, 1.0, 3.0)),
    bad=Bars("failed", (0.0, 0.0, 1.0, 0.0)),
    dots_label="Time to first token (s)",
    dots=(Dots("answered", ((-5.0, 0.01), (5.0, 0.02))), Dots("failed", ((1.0, 3.0),))),
    strips=(Strip("m-0", ((-10.0, 1.0, True), (1.0, 5.0, False), (5.0, 10.0, True))),),
    well="serving",
    unwell="not serving",
    moments=(Moment("fault", 0.0), Moment("noticed", 0.1), Moment("full capacity", 9.9)),
)


def test_a_picture_is_an_svg_of_its_own_and_always_the_same(tmp_path):
    draw(PICTURE, tmp_path / "one.svg")
    draw(PICTURE, tmp_path / "two.svg")
    text = (tmp_path / "one.svg").read_text()
    assert ET.fromstring(text).tag.endswith("svg")
    assert text == (tmp_path / "two.svg").read_text()
    assert "http" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace("http://creativecommons.org", "")


@pytest.mark.parametrize(
    "picture",
    [
        replace(PICTURE, dots=(Dots("answered", ()), Dots("failed", ())), strips=(), moments=()),
        replace(PICTURE, dots=(Dots("answered", ((0.0, 0.0),)),)),
        replace(PICTURE, good=Bars("answered", (0.0,)), bad=Bars("failed", (0.0,)), bin_s=20.0),
    ],
)
def test_a_picture_of_nearly_nothing_is_one(picture, tmp_path):
    draw(picture, tmp_path / "one.svg")
    assert ET.parse(tmp_path / "one.svg").getroot().tag.endswith("svg")


def test_thousands_of_requests_do_not_weigh_megabytes(tmp_path):
    many = Dots("answered", tuple((index / 500 - 10, 0.01 + index / 1e5) for index in range(9000)))
    draw(replace(PICTURE, dots=(many,)), tmp_path / "one.svg")
    assert (tmp_path / "one.svg").stat().st_size < 300_000


def test_without_matplotlib_the_next_command_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(PreconditionError, match="matplotlib"):
        require()


def test_stamps_are_counted_per_second():
    assert bins([0.0, 0.4, 0.6, 2.2, 5.0], 0.0, 2.2, 1.0) == (3.0, 1 / 1.2000000000000002)


@given(st.lists(st.floats(-5, 30), max_size=50), st.floats(0.1, 20), st.floats(0.5, 5))
def test_no_stamp_within_is_left_out(stamps, end_s, bin_s):
    values = bins(stamps, 0.0, end_s, bin_s)
    widths = [*(bin_s for _ in values[1:]), end_s - (len(values) - 1) * bin_s]
    assert all(width > 0 for width in widths)
    assert sum(value * width for value, width in zip(values, widths, strict=True)) == pytest.approx(sum(0 <= stamp <= end_s for stamp in stamps))
