"""An observation whose load and platform follow a script: what it writes, what it doubts, what it leaves behind."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from kivactl.errors import NotReadyError, ToolError
from kivactl.flows.background_load import Heard
from kivactl.loadtest.assignment import Folder
from kivactl.loadtest.record import FailureKind, Record
from kivactl.runbooks import observation, sampling
from kivactl.runbooks.actions.action import Site
from kivactl.runbooks.binding import bind
from kivactl.runbooks.figures import Look
from kivactl.runbooks.format import Load, Objectives
from kivactl.runbooks.notes import Note
from kivactl.stack.layout import Layout
from kivactl.targets.local import LocalTarget
from kivactl.tools import plot
from kivactl.tools.clock import Clock

UP = {"gateway": ("serving", 1), "m-0": ("serving", 2), "m-1": ("serving", 3)}
DOWN, BACK = UP | {"m-0": ("restarting", 0)}, UP | {"m-0": ("serving", 9)}
BEGAN_S = 1000.0
ENOUGH = Heard(started_s=BEGAN_S, answered=50, lag_p99_ms=1.0, lag_worst_ms=5.0, complete=True)


class Seconds:
    """Time that passes only by waiting."""

    def __init__(self):
        self.now_s = BEGAN_S

    def sleep(self, duration_s):
        self.now_s += duration_s


class ScriptedLoad:
    """A load that answers ten requests a second, and says what it is told to."""

    def __init__(self, folder, seconds, heard=ENOUGH, fault=None):
        self.files = Folder(folder / "measurements" / "load")
        self.assignment = SimpleNamespace(name="smoke", model="m", users=2, kinds=[SimpleNamespace(output=SimpleNamespace(longest=8))])
        self.heard, self.alive, self.abandoned = heard, True, False
        self.records = []
        self._seconds, self._fault = seconds, fault

    def begin(self):
        if self._fault:
            raise self._fault
        self.files.path.mkdir(parents=True)

    def end(self):
        self.alive = False
        self.records = [
            Record(index, round((BEGAN_S + index / 10) * 1e9), round((BEGAN_S + index / 10 + 0.1) * 1e9), status=200, has_body=True)
            for index in range(int((self._seconds.now_s - BEGAN_S) * 10) - 1)
        ]
        self.records.append(Record(9999, round((BEGAN_S + 9) * 1e9), round((BEGAN_S + 11) * 1e9), status=200, has_body=True, failure=FailureKind.TRUNCATED))
        return self.heard

    def abandon(self):
        self.alive, self.abandoned = False, True


@pytest.fixture
def seconds():
    return Seconds()


@pytest.fixture
def site(tmp_path, seconds):
    clock = Clock(lambda: seconds.now_s, lambda duration_s: seconds.sleep(duration_s))
    deployment = SimpleNamespace(
        clock=clock,
        platform=SimpleNamespace(target="local", models=[SimpleNamespace(name="m")]),
        target=LocalTarget(Layout(tmp_path / "state", tmp_path / "cache"), clock),
    )
    return Site(deployment, tmp_path / "run", "failover-killed-20260101T120000Z-1")


@pytest.fixture
def bound():
    return replace(bind("failover-killed", None, {}), during=())


DRAW = plot.draw


@pytest.fixture
def observe(site, bound, seconds, monkeypatch):
    """An observation that has begun; its looks are written by the test, and no pictures are drawn, as they take the longest."""
    made = []
    monkeypatch.setattr(plot, "draw", lambda picture, path: path.touch())

    def observe(runbook=bound, **options):
        monkeypatch.setattr(sampling, "components_of", lambda *_: Look(BEGAN_S - 1, UP))
        load = ScriptedLoad(site.folder, seconds, **options)
        one = observation.Observation(site, runbook, load)
        made.append(one)
        one.start()
        return one, load

    yield observe
    for one in made:
        one.abandon()
    assert not [thread for thread in threading.enumerate() if thread.name == "health" or thread.name.startswith("check ")]


def seen(one, seconds, *, blind=(0.0, 0.0)):
    """Ten seconds under load, a fault, its discovery, the way back, ten more seconds; but for those seconds nobody looks at."""
    one._sampler.stop()
    for number in range(81):
        at_s = BEGAN_S + number * 0.5
        if not BEGAN_S + blind[0] < at_s < BEGAN_S + blind[1]:
            one._sampler.looks.append(Look(at_s, UP if at_s < BEGAN_S + 11 else DOWN if at_s < BEGAN_S + 15 else BACK))
    seconds.now_s = BEGAN_S + 20
    one.mark("fault", BEGAN_S + 10)


def test_it_waits_for_the_load_before_the_first_step_and_after_the_last(observe, seconds):
    one, load = observe()
    assert seconds.now_s >= BEGAN_S + 10
    assert one.healthy() is None
    seen(one, seconds)
    one.end()
    assert seconds.now_s >= BEGAN_S + 30
    assert not load.alive


def test_figures_pictures_and_timeline_are_written(observe, seconds, monkeypatch):
    one, _ = observe()
    monkeypatch.setattr(plot, "draw", DRAW)
    seen(one, seconds)
    figures = one.end()
    assert one.healthy() is None
    assert {name: figures[name] for name in ("degraded", "detection", "recovery", "lost_requests", "cut_streams")} == {
        "degraded": 5.0,
        "detection": 1.0,
        "recovery": 5.0,
        "lost_requests": 0,
        "cut_streams": 1,
    }
    assert figures["outage"] == pytest.approx(0.2, abs=0.02)
    assert figures["error_ratio"] == pytest.approx(1 / 300, abs=1e-4)
    summary = json.loads((one.folder / "summary.json").read_text())
    assert summary["figures"] == figures
    assert summary["invalid"] is None
    assert summary["moments"]["noticed"] == 11
    assert [phase["name"] for phase in summary["phases"]] == ["before", "during", "after"]
    assert [json.loads(line)["at_s"] for line in (one.folder / "timeline.jsonl").read_text().splitlines()] == [-1, 11, 15]
    pictures = {path.name: path.read_text() for path in one.folder.glob("*.svg")}
    assert pictures.keys() == {"load.en.svg", "load.de.svg"}
    assert all("</svg>" in picture for picture in pictures.values())


@pytest.mark.parametrize(
    ("heard", "told"),
    [
        (replace(ENOUGH, lag_worst_ms=1700.0), "late by 1700 ms"),
        (replace(ENOUGH, complete=False), "stopped before the end"),
        (replace(ENOUGH, broken="the records could not be written"), "could not be written"),
    ],
)
def test_a_generator_that_was_late_or_failed_makes_it_invalid_though_the_figures_look_well(heard, told, observe, seconds):
    one, _ = observe(heard=heard)
    seen(one, seconds)
    assert one.end()["lost_requests"] == 0
    assert told in one.healthy()
    assert told in json.loads((one.folder / "summary.json").read_text())["invalid"]


def within(bound, **limits):
    """The runbook with other objectives."""
    return replace(bound, runbook=bound.runbook.model_copy(update={"objectives": Objectives.model_validate(limits)}))


def test_looks_that_are_missing_count_against_the_platform_and_it_may_pass_even_so(observe, bound, seconds):
    one, _ = observe(within(bound, detection="5s", degraded="10s", recovery="10s"))
    seen(one, seconds, blind=(14, 18.5))
    figures = one.end()
    assert one.healthy() is None
    assert {name: figures[name] for name in ("detection", "degraded", "recovery")} == {"detection": 1, "degraded": 8.5, "recovery": 8.5}
    notes = json.loads((one.folder / "summary.json").read_text())["notes"]
    assert notes == [Note("unseen", {"for_s": 4.5, "since_s": 14}).as_dict()]


def test_looks_that_are_missing_make_it_invalid_where_they_decide(observe, bound, seconds):
    one, _ = observe(within(bound, recovery="7s"))
    seen(one, seconds, blind=(14, 18.5))
    assert one.end()["recovery"] == 8.5
    assert "could not be looked at for 4.5 s, from second 14 on" in one.healthy()
    assert one.healthy() == json.loads((one.folder / "summary.json").read_text())["invalid"]


def test_a_long_time_without_looks_makes_it_invalid_whatever_was_seen(observe, bound, seconds):
    one, _ = observe(within(bound, degraded="1h"))
    seen(one, seconds, blind=(4, 14.5))
    one.end()
    assert "could not be looked at for 10.5 s" in one.healthy()


def test_a_run_taken_up_after_its_fault_is_no_measurement(observe, seconds):
    one, _ = observe()
    seen(one, seconds)
    one._marks.clear()
    one.end()
    assert "no fault" in one.healthy()


def test_a_load_that_dies_is_noticed_at_once(observe):
    one, load = observe()
    load.alive, load.heard = False, replace(ENOUGH, broken="Locust was ended by SIGKILL")
    assert one.healthy() == "Locust was ended by SIGKILL"


def test_a_load_that_does_not_start_leaves_nothing_behind(observe):
    with pytest.raises(ToolError, match="did not start"):
        observe(fault=ToolError("the load generator did not start"))


def test_a_platform_that_does_not_answer_is_not_broken_further(observe):
    with pytest.raises(NotReadyError, match="nothing was begun: 9 requests were answered, 3 failed"):
        observe(heard=replace(ENOUGH, answered=9, failed=3))


def test_an_interrupt_while_waiting_leaves_nothing_behind(observe, seconds, monkeypatch):
    monkeypatch.setattr(seconds, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        observe()


def test_an_interrupt_at_the_end_leaves_nothing_behind(observe, monkeypatch):
    one, load = observe()
    monkeypatch.setattr(one, "_wait", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        one.end()
    assert load.abandoned


def test_continuous_checks_tell_changes_only(observe, site, bound, monkeypatch):
    values = iter([True, True, False, False, True])
    check = bind("failover-killed", None, {}).during[0]
    check = replace(check, check=check.check.model_copy(update={"every": 0.001}), probe=replace(check.probe, read=lambda *_: next(values, True)))
    one, _ = observe(replace(bound, during=(check,)))
    told = []
    until_s = time.monotonic() + 20
    while len(told) < 3 and time.monotonic() < until_s:
        told += one.changes()
    assert [change.seen.met for change in told] == [True, False, True]
    assert one.changes() == []


def test_a_check_that_breaks_is_a_check_that_is_not_met(observe, bound):
    check = bind("failover-killed", None, {}).during[0]
    check = replace(check, check=check.check.model_copy(update={"every": 0.001}), probe=replace(check.probe, read=lambda *_: 1 / 0))
    one, _ = observe(replace(bound, during=(check,)))
    until_s = time.monotonic() + 20
    while not (told := one.changes()) and time.monotonic() < until_s:
        pass
    assert (told[0].seen.met, told[0].seen.message) == (False, "ZeroDivisionError: division by zero")


def test_the_model_under_load_is_what_the_runbook_is_about(site, bound):
    assert observation.model_under_load(bound, site) == "m"
    assert observation.model_under_load(replace(bound, parameters={"replica": "big-model-1"}), site) == "big-model"


def test_without_load_there_are_figures_of_health_and_no_picture(site, bound, seconds, monkeypatch):
    monkeypatch.setattr(sampling, "components_of", lambda *_: Look(BEGAN_S - 1, UP))
    health_only = bound.runbook.model_copy(update={"load": None, "objectives": Objectives.model_validate({"degraded": "9s"})})
    one = observation.Observation(site, replace(bound, runbook=health_only), None)
    one.start()
    one._sampler.stop()
    one._sampler.looks += [Look(BEGAN_S + at_s, DOWN if 4 <= at_s < 6 else UP) for at_s in range(20)]
    seconds.now_s = BEGAN_S + 20
    assert one.end() == {"degraded": 2.0}
    assert one.healthy() is None
    assert list(one.folder.glob("*.svg")) == []


def test_numbers_may_be_parameters():
    load = Load(users="${users}", max_tokens="${tokens}")
    assert observation._count(load.users, {"users": 3}) == 3
    assert observation._optional(load, {"tokens": 9}) == 9
    assert observation._optional(Load(), {}) is None


def test_each_part_of_a_run_has_records_of_its_own(tmp_path):
    names = []
    for _ in range(3):
        folder = observation._unused(tmp_path)
        folder.mkdir()
        names.append(folder.name)
    assert names == ["load", "load-2", "load-3"]
