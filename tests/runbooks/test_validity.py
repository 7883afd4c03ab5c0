"""What keeps a measurement from being believed."""

from __future__ import annotations

import pytest

from kivactl.flows.background_load import Heard
from kivactl.loadtest.metrics import Distribution
from kivactl.runbooks import validity
from kivactl.runbooks.figures import Gap, Phase, Story
from kivactl.runbooks.format import Objectives
from kivactl.runbooks.notes import Note

GOOD = {"started_s": 0.0, "answered": 100, "lag_p99_ms": 2.0, "lag_worst_ms": 40.0, "complete": True}
NONE = Objectives()


def objectives(**limits):
    return Objectives.model_validate(limits)


def test_a_generator_in_time_is_believed():
    assert validity.doubt_about_load(Heard(**GOOD), objectives(detection="15s", lost_requests=0)) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"broken": "no space left on the disk"}, "no space left"),
        ({"complete": False}, "stopped before the end"),
        ({"lag_worst_ms": None}, "did not say how late"),
        ({"lag_worst_ms": 1500.0}, "late by 1500 ms"),
    ],
)
def test_a_generator_that_failed_or_was_late_is_not(change, told):
    assert told in validity.doubt_about_load(Heard(**(GOOD | change)), NONE)


@pytest.mark.parametrize(
    ("limits", "allowed_ms"),
    [
        ({}, 1000),
        ({"lost_requests": 0}, 1000),
        ({"detection": "15s"}, 1000),
        ({"detection": "5s", "recovery": "10m"}, 500),
        ({"outage": "100ms"}, 100),
        ({"outage": "0s"}, 1000),
    ],
)
def test_the_shortest_time_that_is_asked_for_says_how_late_the_generator_may_be(limits, allowed_ms):
    assert validity.allowed_lag_ms(objectives(**limits)) == allowed_ms
    late = Heard(**(GOOD | {"lag_worst_ms": allowed_ms + 1.0}))
    assert "late" in validity.doubt_about_load(late, objectives(**limits))


def test_too_long_without_a_look_is_too_long():
    assert validity.doubt_about_looks([], 100, "") is None
    assert validity.doubt_about_looks([Gap(110, 120), Gap(130, 140)], 100, "OSError: gone") is None
    found = validity.doubt_about_looks([Gap(104, 108), Gap(112, 123)], 100, "OSError: gone")
    assert found == "the components could not be looked at for 11.0 s, from second 12 on: OSError: gone"


@pytest.mark.parametrize(
    ("counted", "uncounted", "open_"),
    [
        pytest.param({"detection": 9, "degraded": 20, "recovery": 30}, {"detection": 9, "degraded": 16, "recovery": 12}, "", id="met even so"),
        pytest.param({"detection": 9, "degraded": 22, "recovery": 30}, {"detection": 9, "degraded": 18, "recovery": 12}, "degraded", id="met without"),
        pytest.param(
            {"detection": 12, "degraded": 20, "recovery": 33}, {"detection": 12, "degraded": 20, "recovery": 33}, "detection and recovery", id="at its end"
        ),
        pytest.param({"detection": 15, "degraded": 29, "recovery": 39}, {"detection": 15, "degraded": 25, "recovery": 35}, "", id="missed in any case"),
        pytest.param({"detection": 9, "degraded": 19}, {"detection": 9, "degraded": 18}, "", id="never back"),
        pytest.param({"detection": 9, "degraded": 19}, {"detection": 9, "degraded": 18, "recovery": 20}, "recovery", id="unseen until the end"),
        pytest.param({"degraded": 19}, {"degraded": 18}, "detection and recovery", id="never noticed"),
    ],
)
def test_a_verdict_stands_unless_what_was_not_seen_decides_it(counted, uncounted, open_):
    asked = objectives(detection="10s", degraded="20s", recovery="30s")
    found = validity.doubt_about_gaps([Gap(112, 116)], 100, counted, uncounted, asked, "OSError: gone")
    told = f"the components could not be looked at for 4.0 s, from second 12 on, and what happened meanwhile decides whether {open_} met the objective"
    assert found == (f"{told}: OSError: gone" if open_ else None)
    assert validity.doubt_about_gaps([], 100, counted, uncounted, asked, "") is None
    assert validity.doubt_about_gaps([Gap(112, 116)], 100, counted, uncounted, objectives(lost_requests=0), "") is None


def test_detection_and_recovery_need_a_fault():
    without = Story(0, 20, None, None, None, 0)
    assert "no fault to measure detection and recovery" in validity.doubt_about_story(without, objectives(detection="1s", recovery="1s"))
    assert validity.doubt_about_story(without, objectives(degraded="1s", lost_requests=0)) is None
    assert validity.doubt_about_story(Story(0, 20, 1, None, None, 0), objectives(detection="1s")) is None


def test_too_few_answers_before_are_nothing_to_compare_with():
    assert validity.doubt_about_phases([Phase("before", 0, 1, 10, 0, 0, None, None)]) is None
    assert "only 9" in validity.doubt_about_phases([Phase("before", 0, 1, 9, 0, 0, None, None)])
    assert "only 0" in validity.doubt_about_phases([])


def test_a_lag_that_only_blurs_times_to_the_first_token_is_noted():
    times = Distribution(100, 0.02, 0.02, 0.02, 0.02, 0.02)
    phases = [Phase("before", 0, 1, 100, 0, 0, times, times)]
    late = Note("late", {"ms": 5.0})
    assert validity.notes_on(Heard(**(GOOD | {"lag_p99_ms": 5.0})), phases, [], 0) == [late]
    assert validity.notes_on(Heard(**GOOD), phases, [], 0) == []


def test_each_gap_is_noted_with_and_without_a_load():
    unseen = Note("unseen", {"for_s": 4.2, "since_s": 12})
    assert validity.notes_on(None, [], [Gap(112.04, 116.26)], 100) == [unseen]
    assert validity.notes_on(Heard(**GOOD), [], [Gap(112.04, 116.26), Gap(120, 125)], 100) == [unseen, Note("unseen", {"for_s": 5, "since_s": 20})]
