"""Who is above a limit, and who is warned."""

from decimal import Decimal

import pytest
from usage_lines import NOON_S, access_line, count_line

from kivactl.stack.gateway.quota import EVERY_MODEL, Reason
from kivactl.stack.metering import Account
from kivactl.usage.join import StreamAverages, joined
from kivactl.usage.limits import State, Window, exceeded_by, levels_reached, state_of, warnings_due
from kivactl.usage.records import parse_access, parse_count

NOW_MS = round(NOON_S * 1000)
D = Decimal


def entry(request_id="r1", **changes):
    return joined(None, parse_access(access_line(request_id, **changes)), parse_count(count_line(request_id)), None, StreamAverages({}))


def test_tokens_leave_the_window_after_a_minute():
    window = Window()
    window.replace(None, entry(duration_ms=0))
    window.replace(None, entry("r2", at_s=NOON_S + 30, duration_ms=0))
    assert window.tokens(NOW_MS) == {("lab", "chat"): 220}
    assert window.tokens(NOW_MS + 59_000) == {("lab", "chat"): 220}
    assert window.tokens(NOW_MS + 60_000) == {("lab", "chat"): 110}
    assert window.tokens(NOW_MS + 90_000) == {}


def test_a_long_answer_counts_when_it_ends():
    window = Window()
    window.replace(None, entry(at_s=NOON_S - 300, duration_ms=300_000))
    assert window.tokens(NOW_MS + 1000) == {("lab", "chat"): 110}


def test_a_correction_takes_the_place_of_an_estimate():
    window, estimate = Window(), entry()._replace(prompt_tokens=0, completion_tokens=50)
    window.replace(None, estimate)
    window.replace(estimate, entry())
    assert window.tokens(NOW_MS) == {("lab", "chat"): 110}


def test_what_no_tenant_asked_for_is_nobodys():
    window = Window([("lab", "chat", int(NOON_S), 7)])
    window.replace(None, entry()._replace(tenant=None))
    assert window.tokens(NOW_MS) == {("lab", "chat"): 7}


@pytest.mark.parametrize(
    ("spent", "budget", "levels", "state"),
    [
        ("0", "10", (), State.WITHIN),
        ("7.999999", "10", (), State.WITHIN),
        ("8", "10", (80,), State.NEAR),
        ("9.5", "10", (80, 90), State.NEAR),
        ("10", "10", (80, 90, 100), State.USED_UP),
        ("99", "10", (80, 90, 100), State.USED_UP),
        ("0", "0", (), State.WITHIN),
        ("0.000001", "0", (80, 90, 100), State.USED_UP),
    ],
)
def test_levels_of_a_budget(spent, budget, levels, state):
    assert (levels_reached(D(spent), D(budget)), state_of(D(spent), D(budget))) == (levels, state)


def test_without_a_budget():
    assert state_of(D(10**9), None) is State.UNLIMITED


def test_who_is_above_a_limit():
    accounts = {
        "lab": Account(None, None, {"chat": 100, "m": 100, "other": None}, D(5)),
        "hall": Account(None, None, {"chat": 100}, D(5)),
        "poor": Account(monthly_budget=D(1)),
    }
    window = {("lab", "chat"): 100, ("lab", "m"): 99, ("lab", "other"): 10**9, ("stranger", "chat"): 10**9}
    exceeded = exceeded_by(accounts, window, {"lab": D("4.99"), "hall": D(5), "poor": D(0), "stranger": D(99)})
    assert exceeded == {"hall": {EVERY_MODEL: Reason.BUDGET}, "lab": {"chat": Reason.TOKENS}}


def test_warnings_are_given_once():
    accounts = {"lab": Account(monthly_budget=D(10)), "hall": Account()}
    due = warnings_due(accounts, {"lab": D("9.1"), "hall": D(99)}, {("lab", 80)}, month="2026-11", currency="EUR", now_ms=NOW_MS)
    assert [(warned.tenant, warned.level, warned.spent) for warned in due] == [("lab", 90, D("9.1"))]
