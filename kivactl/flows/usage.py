"""`usage`: what the ledger says, whether or not the platform runs. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from kivactl.errors import PreconditionError, UsageError
from kivactl.flows.deployment import Deployment
from kivactl.stack.layout import Layout
from kivactl.stack.metering import Orders, read_orders
from kivactl.usage.asked import Book
from kivactl.usage.join import Sums
from kivactl.usage.ledger import Ledger, Warned, open_ledger
from kivactl.usage.limits import State, state_of
from kivactl.usage.pricing import price_list_of, spent_by_tenant
from kivactl.usage.report import MONTH, By, Line, lines_for, total_of


@dataclass(frozen=True, slots=True)
class Report:
    """Who used what.

    Attributes:
        by: What the lines add up by.
        month: As `2026-11`; None for all there is.
        lines: In order.
        total: All lines in one; one for each currency.
        unreadable: Lines of the logs that could not be read, ever, by log.
    """

    by: By
    month: str | None
    lines: tuple[Line, ...]
    total: tuple[Line, ...]
    unreadable: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data; amounts are text, for they are exact."""
        return {
            "by": self.by.value,
            "month": self.month,
            "rows": [row_of(line) for line in self.lines],
            "total": [row_of(line) for line in self.total],
            "unreadable_lines": self.unreadable,
        }


@dataclass(frozen=True, slots=True)
class Budget:
    """How a tenant stands to its budget this month.

    Attributes:
        tenant: Its name.
        budget: Amount a month; None is unlimited.
        spent: Amount so far.
        currency: ISO 4217 code.
        state: What that means.
        warnings: Given this month, in order.
    """

    tenant: str
    budget: Decimal | None
    spent: Decimal
    currency: str
    state: State
    warnings: tuple[Warned, ...]

    @property
    def percent(self) -> Decimal | None:
        """Of the budget; None without one, or with one of nothing."""
        return (self.spent * 100 / self.budget).quantize(Decimal("0.1")) if self.budget else None

    def as_dict(self) -> dict[str, Any]:
        """The budget as JSON-ready data."""
        return {
            "tenant": self.tenant,
            "budget": None if self.budget is None else f"{self.budget:f}",
            "spent": f"{self.spent:f}",
            "percent": None if self.percent is None else float(self.percent),
            "currency": self.currency,
            "state": self.state.value,
            "warned_percent": [warned.level for warned in self.warnings],
        }


def report_of(layout: Layout, platform: str, by: By = By.TENANT, month: str | None = None) -> Report:
    """Add up what was used.

    Args:
        layout: Where the ledger is found.
        platform: Whose.
        by: What by.
        month: As `2026-11`; all when absent.

    Raises:
        UsageError: That is no month.
        PreconditionError: There is no ledger yet.
        LedgerUnavailable: It cannot be read just now.
    """
    _refuse_no_month(month)
    with _ledger(layout, platform) as (ledger, _):
        return report_from(ledger, by, month)


def report_in_cluster(deployment: Deployment, by: By = By.TENANT, month: str | None = None) -> Report:
    """The same of a platform in a cluster.

    Raises:
        KivaError: As `report_of`; or nobody is there who can read its ledger.
    """
    from kivactl.flows import ledger

    _refuse_no_month(month)
    with ledger.opened(deployment, month) as (book, _):
        return report_from(book, by, month)


def report_from(book: Book, by: By, month: str | None) -> Report:
    """The report that a ledger makes."""
    lines = lines_for(book.days(month), book.price_lists(), by)
    return Report(by, month, lines, total_of(lines), book.unreadable())


def budgets_in_cluster(deployment: Deployment, now: datetime | None = None) -> tuple[Budget, ...]:
    """As `budgets_of`, of a platform in a cluster.

    Raises:
        KivaError: As `budgets_of`; or nobody is there who can read its ledger.
    """
    from kivactl.flows import ledger

    month = f"{now or datetime.now(UTC):%Y-%m}"
    # Prices of an earlier month may still hold, and they are few; the days are asked for of this one.
    with ledger.opened(deployment, month) as (book, orders):
        return budgets_from(book, orders, month)


def budgets_of(layout: Layout, platform: str, now: datetime | None = None) -> tuple[Budget, ...]:
    """How the tenants of the deployed spec stand to their budgets this month (UTC), in the order of the spec.

    Raises:
        PreconditionError: There is no ledger yet.
        LedgerUnavailable: It cannot be read just now.
    """
    month = f"{now or datetime.now(UTC):%Y-%m}"
    with _ledger(layout, platform) as (ledger, orders):
        return budgets_from(ledger, orders, month)


def budgets_from(book: Book, orders: Orders, month: str) -> tuple[Budget, ...]:
    """How the tenants of some orders stand in a month, by what a ledger says."""
    prices = price_list_of(month, book.price_lists())
    sums: dict[tuple[str, str], Sums] = {}
    for key, more in book.days(month):
        sums[key.tenant, key.version] = sums.get((key.tenant, key.version), Sums()).plus(more)
    spent = spent_by_tenant(sums, prices.tariffs if prices else {})
    warnings = book.warnings(month)
    return tuple(
        Budget(
            tenant,
            account.monthly_budget,
            spent.get(tenant, Decimal(0)),
            orders.currency,
            state_of(spent.get(tenant, Decimal(0)), account.monthly_budget),
            tuple(warned for warned in warnings if warned.tenant == tenant),
        )
        for tenant, account in orders.accounts.items()
    )


def row_of(line: Line) -> dict[str, Any]:
    """A line as JSON-ready data; the keys are the columns of the CSV form."""
    return {
        "name": line.name,
        "requests": line.sums.requests,
        "failed": line.sums.failed,
        "prompt_tokens": line.sums.prompt_tokens,
        "cached_tokens": line.sums.cached_tokens,
        "completion_tokens": line.sums.completion_tokens,
        "amount": f"{line.amount:f}",
        "currency": line.currency,
    }


def _refuse_no_month(month: str | None) -> None:
    if month is not None and not MONTH.fullmatch(month):
        raise UsageError(f"'{month}' is not a month", f"write it as {datetime.now(UTC):%Y-%m}")


@contextmanager
def _ledger(layout: Layout, platform: str) -> Iterator[tuple[Ledger, Orders]]:
    """The ledger as the last deploy ordered it, with those orders."""
    try:
        orders = read_orders(layout.meter_orders)
    except FileNotFoundError:
        raise PreconditionError(f"nothing has been metered for '{platform}' yet: there is no ledger", "kivactl deploy") from None
    except ValueError as error:
        raise PreconditionError(f"{layout.meter_orders} cannot be read: {error}", "kivactl deploy") from None
    ledger = open_ledger(orders.ledger, orders.platform, read_only=True)
    try:
        yield ledger, orders
    finally:
        ledger.close()
