"""The picture of a drill: what it says, in both languages."""

from __future__ import annotations

import pytest

from kivactl.loadtest.record import FailureKind, Record
from kivactl.runbooks.drill_picture import picture_for
from kivactl.runbooks.figures import Look, Story

S = 1_000_000_000
UP, DOWN = {"gateway": ("serving", 1), "m-0": ("serving", 2)}, {"gateway": ("serving", 1), "m-0": ("stopped", 0)}
LOOKS = [Look(99, UP), Look(105, UP), Look(111, DOWN), Look(112, DOWN), Look(115, UP), Look(121, UP)]
STORY = Story(100, 120, 110, 111, 115, 5)
RECORDS = [
    *(Record(index, (100 + index) * S, (101 + index) * S, sent_ns=(100 + index) * S, token_ns=((101 + index) * S,), status=200) for index in range(10)),
    Record(10, 110 * S, 112 * S, failure=FailureKind.CONNECTION),
    Record(11, 119 * S, 120 * S, is_cut=True),
]


def picture(language="en", told=STORY):
    return picture_for(told, RECORDS, LOOKS, title="Drill", run="failover-1", model="m", users=3, language=language)


def test_time_counts_from_the_fault():
    drawn = picture()
    assert (drawn.start_s, drawn.end_s) == (-10, 10)
    assert [(moment.label, moment.at_s) for moment in drawn.moments] == [("fault", 0), ("noticed, +1.0 s", 1), ("full capacity, +5.0 s", 5)]


def test_every_request_is_drawn_once():
    drawn = picture()
    assert sum(drawn.good.values) * drawn.bin_s == pytest.approx(10)
    assert sum(drawn.bad.values) * drawn.bin_s == pytest.approx(1)
    assert [len(series.points) for series in drawn.dots] == [10, 1]


def test_strips_are_whole_from_the_begin_of_the_load_to_its_end():
    assert {strip.label: strip.spans for strip in picture().strips} == {
        "gateway": ((-10, 10, True),),
        "m-0": ((-10, 1, True), (1, 5, False), (5, 10, True)),
    }


def test_in_german_with_german_numbers():
    drawn = picture("de")
    assert drawn.x_label == "Zeit seit der Störung (s)"
    assert [moment.label for moment in drawn.moments] == ["Störung", "bemerkt, +1,0 s", "volle Leistung, +5,0 s"]
    assert drawn.decimal == ","


def test_without_a_fault_time_counts_from_the_begin_of_the_load():
    drawn = picture(told=Story(100, 120, None, None, None, 5))
    assert (drawn.start_s, drawn.end_s, drawn.moments) == (0, 20, ())
    assert drawn.x_label == "Time since the load began (s)"
