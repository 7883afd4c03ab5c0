"""`kivactl usage`: reports from the ledger, with or without a platform."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from usage_lines import NOON_S, access_line, append, count_line, orders, refused_line

from kivactl.errors import PreconditionError, UsageError
from kivactl.flows.usage import budgets_of, report_of
from kivactl.stack.layout import Layout
from kivactl.usage.database import LedgerUnavailable
from kivactl.usage.limits import State
from kivactl.usage.meter import Meter, World
from kivactl.usage.report import By


def meter(folder: Path) -> Meter:
    return Meter(folder / "usage/meter.json", World(now_s=lambda: NOON_S, say=lambda _: None, reopen_logs=lambda _: True))


def account(budget=None, cost_centre=None):
    return {"cost_centre": cost_centre, "contact": None, "limits": {"chat": None}, "monthly_budget": budget}


@pytest.fixture
def layout(tmp_path):
    """A platform with some use in two months."""
    state = tmp_path / ".kiva"
    layout = Layout(state, state)
    content = orders(state, tenants={"lab": account("0.12", "4711"), "hall": account(), "idle": account("5")})
    layout.meter_orders.write_text(json.dumps(content))
    append(layout.access_log, access_line("a"), access_line("b", tenant="hall"), access_line("c", at_s=NOON_S - 30 * 86_400), refused_line("d", tenant="hall"))
    append(layout.access_log, refused_line("e", 401, tenant=None))
    append(layout.usage / "m-0.jsonl", count_line("a"), count_line("b"), count_line("c"))
    one = meter(state)
    one.run_pass()
    one.close()
    (tmp_path / "kiva.yaml").write_text("name: kiva\nmodels: []\n")
    return layout


def test_by_tenant(layout):
    report = report_of(layout, "kiva")
    assert [(line.name, line.sums.requests, line.sums.failed, line.amount) for line in report.lines] == [
        ("hall", 2, 1, Decimal("0.102")),
        ("lab", 2, 0, Decimal("0.204")),
        ("", 1, 1, Decimal(0)),
    ]
    assert [(line.sums.requests, line.amount, line.currency) for line in report.total] == [(5, Decimal("0.306"), "EUR")]


@pytest.mark.parametrize(
    ("by", "month", "names"),
    [
        (By.COST_CENTRE, None, ["4711", ""]),
        (By.MODEL, None, ["m", ""]),
        (By.DAY, None, ["2026-10-24", "2026-11-23"]),
        (By.DAY, "2026-11", ["2026-11-23"]),
        (By.TENANT, "2026-10", ["lab"]),
        (By.TENANT, "2025-01", []),
    ],
)
def test_other_groups_and_months(layout, by, month, names):
    assert [line.name for line in report_of(layout, "kiva", by, month).lines] == names


@pytest.mark.parametrize("month", ["", "2026", "2026-13", "2026-00", "26-11", "2026-11-01", "last", "2026-1", "２０２６-11"])
def test_what_is_no_month(layout, month):
    with pytest.raises(UsageError, match="is not a month"):
        report_of(layout, "kiva", By.TENANT, month)


def test_budgets(layout):
    budgets = {one.tenant: one for one in budgets_of(layout, "kiva", datetime(2026, 11, 23, tzinfo=UTC))}
    assert [(one.tenant, one.budget, one.spent, one.percent, one.state) for one in budgets.values()] == [
        ("lab", Decimal("0.12"), Decimal("0.102"), Decimal("85.0"), State.NEAR),
        ("hall", None, Decimal("0.102"), None, State.UNLIMITED),
        ("idle", Decimal(5), Decimal(0), Decimal("0.0"), State.WITHIN),
    ]
    assert [warned.level for warned in budgets["lab"].warnings] == [80]
    assert budgets_of(layout, "kiva", datetime(2026, 12, 1, tzinfo=UTC))[0].state is State.WITHIN


def test_a_report_while_the_meter_runs(layout):
    running = meter(layout.state)
    running.run_pass()
    append(layout.access_log, access_line("f"))
    running.run_pass()
    assert report_of(layout, "kiva").total[0].sums.requests == 6
    running.close()


@pytest.mark.parametrize("spoil", [lambda layout: layout.ledger.unlink(), lambda layout: layout.meter_orders.unlink()])
def test_no_ledger_yet(layout, spoil):
    spoil(layout)
    with pytest.raises(PreconditionError, match="nothing has been metered for 'kiva' yet") as caught:
        report_of(layout, "kiva")
    assert caught.value.hint == "kivactl deploy"


def test_orders_that_cannot_be_read(layout):
    layout.meter_orders.write_text("{")
    with pytest.raises(PreconditionError, match=r"meter\.json cannot be read"):
        budgets_of(layout, "kiva")


def test_a_ledger_that_is_none(layout):
    layout.ledger.write_text("no database at all, but long enough to look like a file with a header" * 10)
    for path in layout.usage.glob("ledger.db-*"):
        path.unlink()
    with pytest.raises(LedgerUnavailable, match="cannot be used"):
        report_of(layout, "kiva")


def test_as_a_table(layout, kivactl):
    seen = kivactl("usage", "report", "--month", "2026-11")
    assert (seen.code, seen.stderr) == (0, "")
    assert seen.stdout == (
        "TENANT  REQUESTS  FAILED  PROMPT  CACHED  COMPLETION  AMOUNT  CURRENCY\n"
        "hall           2       1     100      20          10  0.1020  EUR\n"
        "lab            1       0     100      20          10  0.1020  EUR\n"
        "(none)         1       1       0       0           0  0.0000  EUR\n"
        "total          4       2     200      40          20  0.2040  EUR\n"
    )


def test_as_csv(layout, kivactl):
    seen = kivactl("usage", "report", "--by", "model", "--format", "csv")
    assert list(csv.reader(io.StringIO(seen.stdout))) == [
        ["model", "requests", "failed", "prompt_tokens", "cached_tokens", "completion_tokens", "amount", "currency"],
        ["m", "3", "0", "300", "60", "30", "0.306000", "EUR"],
        ["", "2", "2", "0", "0", "0", "0", "EUR"],
    ]


def test_as_json(layout, kivactl):
    seen = json.loads(kivactl("-o", "json", "usage", "report", "--by", "cost-centre").stdout)
    assert (seen["by"], seen["month"], len(seen["rows"]), seen["unreadable_lines"]) == ("cost-centre", None, 2, {})
    assert seen["rows"][0] == {
        "name": "4711",
        "requests": 2,
        "failed": 0,
        "prompt_tokens": 200,
        "cached_tokens": 40,
        "completion_tokens": 20,
        "amount": "0.204000",
        "currency": "EUR",
    }


def test_budgets_as_table_and_json(layout, kivactl):
    lines = kivactl("usage", "budgets").stdout.splitlines()
    assert lines[0].split() == ["TENANT", "BUDGET", "SPENT", "PERCENT", "CURRENCY", "STATE"]
    assert [line.split()[0] for line in lines[1:]] == ["lab", "hall", "idle"]
    assert [one["tenant"] for one in json.loads(kivactl("usage", "budgets", "-o", "json").stdout)] == ["lab", "hall", "idle"]


def test_unreadable_lines_are_mentioned(layout, kivactl):
    append(layout.access_log, "garbage\n")
    one = meter(layout.state)
    one.run_pass()
    one.close()
    assert kivactl("usage", "report").stderr == f"warning: lines of the logs that could not be read: 1 of {layout.access_log}\n"


def test_before_anything_was_metered(tmp_path, kivactl):
    (tmp_path / "kiva.yaml").write_text("name: kiva\nmodels: []\n")
    seen = kivactl("usage", "report")
    assert (seen.code, seen.stdout) == (3, "")
    assert seen.stderr == "error: nothing has been metered for 'kiva' yet: there is no ledger\nhint: kivactl deploy\n"


@pytest.mark.parametrize("argv", [("--by", "colour"), ("--format", "pdf"), ("--month", "soon")])
def test_wrong_command_lines(layout, kivactl, argv):
    assert kivactl("usage", "report", *argv).code == 2
