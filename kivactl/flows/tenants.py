"""`tenant`: who uses the platform, what they may, and what they have used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from kivactl.errors import PreconditionError
from kivactl.flows.deployment import Deployment
from kivactl.flows.tokens import State, known_tenant, listing
from kivactl.spec.gateway import Limits, Tenant
from kivactl.stack.layout import Layout
from kivactl.stack.metering import read_orders
from kivactl.usage.join import Sums
from kivactl.usage.ledger import open_ledger
from kivactl.usage.report import By, lines_for


@dataclass(frozen=True, slots=True)
class Used:
    """What a tenant used, as the ledger has it.

    Attributes:
        requests_today: Since midnight UTC.
        tokens_today: Prompt and answer.
        requests: In this month (UTC).
        tokens: In this month, prompt and answer.
        amount: What this month costs so far.
        currency: Of the amount, ISO 4217.
    """

    requests_today: int
    tokens_today: int
    requests: int
    tokens: int
    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant of the spec.

    Attributes:
        tenant: As the spec has it.
        limits: By model or alias that it may use.
        valid_tokens: How many tokens it has that the gateway accepts.
        used: What it used; None without a ledger.
    """

    tenant: Tenant
    limits: dict[str, Limits]
    valid_tokens: int
    used: Used | None

    @property
    def budget_ratio(self) -> float | None:
        """Share of the month's budget that is used; may be above 1; None without budget or ledger."""
        budget = self.tenant.monthly_budget
        if self.used is None or budget is None:
            return None
        return float(self.used.amount / budget) if budget else 1.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; amounts are text, so that no digit is lost."""
        tenant, used = self.tenant, self.used
        return {
            "name": tenant.name,
            "cost_centre": tenant.cost_centre,
            "contact": tenant.contact,
            "priority": tenant.priority,
            "models": {name: limits.model_dump(mode="json") for name, limits in self.limits.items()},
            "monthly_budget": None if tenant.monthly_budget is None else str(tenant.monthly_budget),
            "valid_tokens": self.valid_tokens,
            "used": None
            if used is None
            else {
                "requests_today": used.requests_today,
                "tokens_today": used.tokens_today,
                "requests_month": used.requests,
                "tokens_month": used.tokens,
                "amount_month": str(used.amount),
                "currency": used.currency,
                "budget_ratio": self.budget_ratio,
            },
        }


def accounts(deployment: Deployment, used: Mapping[str, Used] | None) -> list[Account]:
    """Every tenant of the spec, in its order.

    Args:
        deployment: The platform.
        used: What tenants used, by name; None when there is no ledger. Who is not in it used nothing.

    Raises:
        PreconditionError: The register of tokens is damaged.
    """
    platform = deployment.platform
    valid = [token.entry.tenant for token in listing(deployment) if token.state is State.VALID]
    nothing = Used(0, 0, 0, 0, Decimal(0), platform.usage.currency)
    return [
        Account(
            tenant,
            {name: tenant.limits_for(name) for name in platform.names_for(tenant)},
            valid.count(tenant.name),
            None if used is None else used.get(tenant.name, nothing),
        )
        for tenant in platform.gateway.tenants
    ]


def account(deployment: Deployment, name: str, used: Mapping[str, Used] | None) -> Account:
    """One tenant.

    Raises:
        UsageError: The spec has no such tenant.
        PreconditionError: The register of tokens is damaged.
    """
    known_tenant(deployment, name)
    return next(account for account in accounts(deployment, used) if account.tenant.name == name)


def used_of(layout: Layout, now: datetime | None = None) -> dict[str, Used] | None:
    """What tenants used in this month (UTC), by name; None when nothing was metered yet.

    Raises:
        LedgerUnavailable: The ledger cannot be read just now.
    """
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    today, month = f"{moment:%Y-%m-%d}", f"{moment:%Y-%m}"
    try:
        orders = read_orders(layout.meter_orders)
        ledger = open_ledger(orders.ledger, orders.platform, read_only=True)
    except (FileNotFoundError, ValueError, PreconditionError):
        return None
    try:
        days, lists = ledger.days(month), ledger.price_lists()
    finally:
        ledger.close()
    of_today: dict[str, Sums] = {}
    for key, sums in days:
        if key.day == today:
            of_today[key.tenant] = of_today.get(key.tenant, Sums()).plus(sums)
    return {
        line.name: Used(
            of_today.get(line.name, Sums()).requests,
            _tokens(of_today.get(line.name, Sums())),
            line.sums.requests,
            _tokens(line.sums),
            line.amount,
            line.currency or orders.currency,
        )
        for line in lines_for(days, lists, By.TENANT)
    }


def _tokens(sums: Sums) -> int:
    return sums.prompt_tokens + sums.completion_tokens
