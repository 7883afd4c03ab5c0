"""What a terminal shows of steps: which are worth a line when they have ended, and which are worth more while they run."""

import io
import re

import pytest

from kivactl.cli.progress import Live, unremarkable
from kivactl.plan import Outcome, Status


@pytest.mark.parametrize(
    ("outcome", "hidden"),
    [
        (Outcome("a", Status.DONE, "ready"), False),
        (Outcome("a", Status.DONE, "changed", data={"changed": True}), False),
        (Outcome("a", Status.DONE, "ok", data={"changed": False}), True),
        (Outcome("a", Status.SKIPPED, "skipped"), True),
        (Outcome("a", Status.SKIPPED, "unchanged since yesterday"), False),
        (Outcome("a", Status.FAILED, "no", data={"changed": False}), False),
    ],
)
def test_what_did_nothing_gets_no_line(outcome, hidden):
    assert unremarkable(outcome) is hidden


class Terminal(io.StringIO):
    def isatty(self):
        return True


BEGUN = {"kind": "load", "warm_up_s": 0.0, "duration_s": 10.0, "requests": 0, "is_streamed": False, "levels": {}, "series": None}
FACTS = {"phase": "measuring", "elapsed_s": 5.0, "requests": 8, "failures": 0, "under_way": 3, "requests_per_s": 4.0, "due_rps": 4.0}
FACTS |= {"generator_lag_p99_ms": 0.4, "itl_p50_ms": None}


def frames(monkeypatch, outcomes):
    """What is on the screen after each outcome, and what is left at the end; without codes."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    seen = []
    with Live(terminal) as live:
        live._live.auto_refresh = False  # drawn when asked for
        for outcome in outcomes:
            live.show(outcome)
            terminal.truncate(0)
            terminal.seek(0)
            live._live.refresh()
            seen.append(terminal.getvalue())
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame) for frame in seen], terminal.getvalue()


def test_a_load_test_is_drawn_below_its_line_until_it_has_ended(monkeypatch):
    outcomes = [
        Outcome("load test chat", Status.STARTED, "4 users", data=BEGUN),
        Outcome("load test chat", Status.PROGRESS, "measuring: 8 requests", 5.0, FACTS),
        Outcome("load test chat", Status.DONE, "80 requests", 10.0),
    ]
    (before, during, after), _ = frames(monkeypatch, outcomes)
    assert "load test chat: 4 users" in before
    assert "starting" in before
    assert "load test chat: 4 users" in during
    assert "measuring: 8 requests" not in during  # the view says it
    assert re.search(r"measuring +━+─+ +50%, 5 s left", during)
    assert re.search(r"requests/s 4 +of 4 due", during)
    assert "load test" not in after


def test_a_step_of_another_kind_is_a_line(monkeypatch):
    for data in ({}, {"kind": "unheard of"}):
        (_, during), _ = frames(monkeypatch, [Outcome("a", Status.STARTED, "begins", data=data), Outcome("a", Status.PROGRESS, "goes on", data=FACTS)])
        assert "a: goes on" in during
        assert "requests/s" not in during


def test_each_frame_is_shown_at_once(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with Live(terminal) as live:
        live.show(Outcome("a", Status.STARTED))
    assert terminal.getvalue().count("\x1b[?2026h") == terminal.getvalue().count("\x1b[?2026l") > 0
    assert terminal.getvalue().endswith("\x1b[?2026l")


def test_without_colours_nothing_is_coloured(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    with Live(terminal) as live:
        live.show(Outcome("load test chat", Status.STARTED, "4 users", data={**BEGUN, "is_streamed": True, "levels": {"ttft_p95": 0.1}}))
        live.show(Outcome("load test chat", Status.PROGRESS, "", 5.0, {**FACTS, "ttft_p95_ms": 200.0, "itl_p95_ms": 1.0, "tokens_per_s": 1.0}))
        live._live.refresh()
    assert "> 100 ms" in terminal.getvalue()
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", terminal.getvalue())
