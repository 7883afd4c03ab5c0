"""`kivactl tenant list` and `show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kivactl.cli.completion import tenants
from kivactl.cli.group import group
from kivactl.cli.options import Common, common
from kivactl.cli.site import deployment_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kivactl.flows.deployment import Deployment
    from kivactl.flows.tenants import Account, Used

app = group("Show the tenants: what they may, what they have used.")

_COLUMNS = ("TENANT", "COST CENTRE", "PRIORITY", "TOKENS VALID", "TODAY", "REQUESTS", "TOKENS", "AMOUNT", "BUDGET")


@app.command(name="list")
def list_(context: typer.Context) -> None:
    """Show every tenant with its use in this month (UTC)."""
    from kivactl.flows.tenants import accounts

    options = common(context)
    deployment = deployment_of(options)
    found = accounts(deployment, _used(options, deployment))
    options.sink.result({"tenants": [one.as_dict() for one in found]}, lambda: options.sink.table(_COLUMNS, map(_row, found)))


@app.command()
def show(context: typer.Context, name: Annotated[str, typer.Argument(help="A tenant of the spec.", autocompletion=tenants)]) -> None:
    """Show one tenant: limits by model, budget, use today and in this month (UTC)."""
    from kivactl.flows.tenants import account

    options = common(context)
    deployment = deployment_of(options)
    found = account(deployment, name, _used(options, deployment))
    options.sink.result(found.as_dict(), lambda: _draw(options, found, deployment.platform.usage.currency))


def _used(options: Common, deployment: Deployment) -> Mapping[str, Used] | None:
    """What the ledger says; when it cannot be read, the rest is still worth showing."""
    from kivactl.flows.tenants import used_of
    from kivactl.usage.database import LedgerUnavailable

    try:
        return used_of(deployment.layout)
    except LedgerUnavailable as error:
        options.sink.warn(error.message)
        return None


def _row(one: Account) -> tuple[Any, ...]:
    used = one.used
    numbers = ("", "", "", "") if used is None else (used.requests_today, used.requests, used.tokens, f"{used.amount:.2f} {used.currency}")
    return (one.tenant.name, one.tenant.cost_centre, one.tenant.priority, one.valid_tokens, *numbers, _percent(one))


def _percent(one: Account) -> str:
    return "" if one.budget_ratio is None else f"{one.budget_ratio:.0%}"


def _draw(options: Common, one: Account, currency: str) -> None:
    tenant, used = one.tenant, one.used
    budget = "none" if tenant.monthly_budget is None else f"{tenant.monthly_budget} {currency} a month"
    facts = [
        ("tenant", tenant.name),
        ("cost centre", tenant.cost_centre or "none"),
        ("contact", tenant.contact or "none"),
        ("priority", tenant.priority),
        ("valid tokens", str(one.valid_tokens)),
        ("budget", f"{budget}, {_percent(one)} used" if _percent(one) else budget),
    ]
    if used is not None:
        facts.append(("today", f"{used.requests_today} requests, {used.tokens_today} tokens"))
        facts.append(("this month", f"{used.requests} requests, {used.tokens} tokens, {used.amount:.2f} {used.currency}"))
    for label, text in facts:
        options.sink.text(f"{label:<13} {text}")
    options.sink.text("")
    rows = [(name, limits.requests_per_minute or "unlimited", limits.tokens_per_minute or "unlimited") for name, limits in one.limits.items()]
    options.sink.table(("MODEL", "REQUESTS/MIN", "TOKENS/MIN"), rows)
