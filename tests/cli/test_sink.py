"""What the sink writes, to whom, in each of its modes."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest

from kivactl.cli.output import Mode, OutputClosed, Sink
from kivactl.cli.plan_text import lines_for
from kivactl.cli.progress import line_for, seconds_text
from kivactl.errors import ToolError, UsageError
from kivactl.plan import Change, Difference, Outcome, Plan, Status, Verb

PLAN = Plan(
    "deploy kiva on local",
    (
        Change(Verb.CREATE, "gateway", (Difference("port", None, "4000"),)),
        Change(Verb.REPLACE, "engine m-0", (Difference("max_length", "1024", "2048"), Difference("dtype", "bfloat16", None)), "drains for up to 1m"),
        Change(Verb.STOP, "engine m-1"),
    ),
    ("the model is prepared first",),
)
OUTCOMES = [
    Outcome("gateway", Status.STARTED),
    Outcome("gateway", Status.DONE, "listens", 0.01),
    Outcome("engine m-0", Status.STARTED, "starting"),
    Outcome("engine m-0", Status.PROGRESS, "loading weights", 1.0),
    Outcome("engine m-0", Status.PROGRESS, "loading weights", 2.0),
    Outcome("engine m-0", Status.DONE, "ready", 75.2, {"pid": 7}),
    Outcome("engine m-1", Status.SKIPPED, "unchanged"),
    Outcome("engine m-2", Status.FAILED, "died", 3.0),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def streams():
    return io.StringIO(), io.StringIO()


def sink(streams, mode=Mode.HUMAN, stdin=None):
    return Sink(mode, out=streams[0], err=streams[1], stdin=stdin or io.StringIO())


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_result_is_text_for_people_and_json_for_programs(streams):
    sink(streams).result({"a": 1}, "one")
    assert streams[0].getvalue() == "one\n"
    programs = (io.StringIO(), io.StringIO())
    sink(programs, Mode.JSON).result({"a": "ä"}, "one")
    assert json.loads(programs[0].getvalue()) == {"a": "ä"}
    assert programs[1].getvalue() == ""


def test_a_result_can_draw_itself(streams):
    people = sink(streams)
    people.result({}, lambda: people.table(("NAME", "PID"), [("a", 1), ("long name", 4711), ("none", None)], {"a": "green"}))
    assert streams[0].getvalue() == "NAME        PID\na             1\nlong name  4711\nnone\n"


def test_programs_get_no_text_and_no_table(streams):
    programs = sink(streams, Mode.JSON)
    programs.text("x")
    programs.table(("A",), [("b",)])
    assert streams[0].getvalue() == ""


def test_a_table_is_coloured_on_a_terminal_only_when_wanted(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    Sink(out=terminal, err=io.StringIO()).table(("NAME", "HEALTH"), [("a", "serving")], {"serving": "green"})
    assert "\x1b[32mserving\x1b[0m" in terminal.getvalue()
    assert without_codes(terminal.getvalue()) == "NAME  HEALTH\na     serving\n"
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    Sink(out=plain, err=io.StringIO()).table(("NAME",), [("serving",)], {"serving": "green"})
    assert "\x1b" not in plain.getvalue()


def test_a_plan_is_a_readable_diff():
    assert [text for text, _ in lines_for(PLAN)] == [
        "deploy kiva on local:",
        "    + create gateway",
        "        port  4000",
        "  -/+ replace engine m-0",
        "        max_length  1024 -> 2048",
        "        dtype       bfloat16 -> (removed)",
        "        drains for up to 1m",
        "    - stop engine m-1",
        "note: the model is prepared first",
        "1 to create, 1 to replace, 1 to stop",
    ]


def test_an_empty_plan_says_so_and_keeps_its_notes(streams):
    sink(streams).plan(Plan("deploy kiva on local", notes=("unchanged since noon",)), result=True)
    assert streams[0].getvalue() == "deploy kiva on local: nothing to change.\nnote: unchanged since noon\n"


def test_a_plan_is_data_when_asked_for_and_talk_otherwise(streams):
    sink(streams).plan(PLAN)
    assert (streams[0].getvalue(), streams[1].getvalue()[:20]) == ("", "deploy kiva on local")
    programs = (io.StringIO(), io.StringIO())
    sink(programs, Mode.JSON).plan(PLAN, result=True)
    assert json.loads(programs[0].getvalue())["changes"][0]["subject"] == "gateway"
    sink(programs, Mode.JSON).plan(PLAN)
    assert json.loads(programs[1].getvalue())["plan"]["title"] == PLAN.title


def test_outcomes_are_lines_away_from_a_terminal(streams):
    assert sink(streams).outcomes(iter(OUTCOMES)) == OUTCOMES
    assert streams[0].getvalue() == ""
    assert streams[1].getvalue().splitlines() == [
        "… gateway",
        "✔ gateway: listens",
        "… engine m-0: starting",
        "… engine m-0: loading weights",
        "✔ engine m-0: ready (1 m 15 s)",
        "– engine m-1: unchanged",
        "✘ engine m-2: died (3.0 s)",
    ]


def test_outcomes_are_json_lines_for_programs(streams):
    sink(streams, Mode.JSON).outcomes(OUTCOMES)
    lines = [json.loads(line) for line in streams[1].getvalue().splitlines()]
    assert [line["status"] for line in lines] == [outcome.status.value for outcome in OUTCOMES]
    assert lines[5]["data"] == {"pid": 7}


def test_outcomes_move_on_a_terminal_and_leave_their_lines(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    Sink(out=io.StringIO(), err=terminal).outcomes(OUTCOMES)
    shown = without_codes(terminal.getvalue())
    for line in ("✔ gateway: listens", "✔ engine m-0: ready (1 m 15 s)", "– engine m-1: unchanged", "✘ engine m-2: died (3.0 s)"):
        assert line in shown
    assert terminal.getvalue().rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in terminal.getvalue()  # the cursor is back


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_an_error_passes_through_and_the_flow_is_closed(stream, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    closed = []

    def flow():
        try:
            yield Outcome("engine", Status.STARTED, "starting")
            raise ToolError("the engine died")
        finally:
            closed.append(True)

    err = stream()
    with pytest.raises(ToolError, match="the engine died"):
        Sink(out=io.StringIO(), err=err).outcomes(flow())
    assert closed == [True]
    assert "engine: starting" in without_codes(err.getvalue())


def test_a_flow_is_closed_when_showing_fails():
    closed = []

    def flow():
        try:
            yield Outcome("engine", Status.STARTED)
        finally:
            closed.append(True)

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        Sink(out=io.StringIO(), err=Full()).outcomes(flow())
    assert closed == [True]


@pytest.mark.parametrize(("answer", "agreed"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False), ("maybe\n", False)])
def test_a_question_is_asked_on_stderr(streams, answer, agreed):
    assert sink(streams, stdin=Terminal(answer)).confirm("Go on?") is agreed
    assert (streams[0].getvalue(), streams[1].getvalue()) == ("", "Go on? [y/N] ")


@pytest.mark.parametrize(("mode", "stdin"), [(Mode.HUMAN, io.StringIO("y\n")), (Mode.JSON, Terminal("y\n"))])
def test_without_someone_to_ask_yes_must_be_said(streams, mode, stdin):
    with pytest.raises(UsageError) as caught:
        sink(streams, mode, stdin).confirm("Go on?")
    assert "--yes" in caught.value.hint
    assert sink(streams, mode, stdin).confirm("Go on?", assume_yes=True) is True


def test_talk_goes_to_stderr(streams):
    sink(streams).note("look")
    sink(streams).warn("careful")
    assert (streams[0].getvalue(), streams[1].getvalue()) == ("", "look\nwarning: careful\n")
    programs = (io.StringIO(), io.StringIO())
    sink(programs, Mode.JSON).warn("careful")
    assert json.loads(programs[1].getvalue()) == {"warning": "careful"}


def test_a_closed_output_is_a_kind_of_its_own():
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(OutputClosed):
        Sink(out=Closed(), err=io.StringIO()).text("x")


@pytest.mark.parametrize(("elapsed_s", "text"), [(0.04, "0.0 s"), (4.25, "4.2 s"), (60, "1 m 00 s"), (75.9, "1 m 15 s")])
def test_seconds_are_written_for_people(elapsed_s, text):
    assert seconds_text(elapsed_s) == text


def test_a_step_without_a_message_is_its_name():
    assert line_for(Outcome("gateway", Status.DONE, "", 1.0)) == "✔ gateway (1.0 s)"


def test_rich_stays_away_from_plain_output(streams):
    sys.modules.pop("rich.live", None)
    sink(streams).outcomes(OUTCOMES)
    sink(streams).table(("A",), [("b",)])
    assert "rich.live" not in sys.modules
