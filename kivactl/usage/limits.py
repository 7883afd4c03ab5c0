"""Who is above its tokens a minute or its budget, and who has to be warned. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from enum import StrEnum

from kivactl.stack.gateway.quota import EVERY_MODEL, Reason
from kivactl.stack.metering import Account
from kivactl.usage.join import Entry
from kivactl.usage.ledger import Warned

WINDOW_S = 60
LEVELS = (80, 90, 100)
"""Percent of a budget at which its tenant is warned."""


class State(StrEnum):
    """How a tenant stands to its budget."""

    UNLIMITED = "unlimited"
    WITHIN = "within"
    NEAR = "near"
    """At the first level of the warnings or above it."""
    USED_UP = "used up"


class Window:
    """The tokens of the last minute by tenant and public model, second by second.

    Args:
        recent: What is known: tenant, public model, second since 1970 UTC, tokens.
    """

    def __init__(self, recent: Iterable[tuple[str, str, int, int]] = ()) -> None:
        self._seconds: dict[tuple[str, str], dict[int, int]] = {}
        for tenant, model, second, tokens in recent:
            self._seconds.setdefault((tenant, model), {})[second] = tokens

    def replace(self, old: Entry | None, new: Entry) -> None:
        """Count an entry's tokens at its end, in place of what was counted before."""
        if old is not None:
            self._add(old, -old.tokens)
        self._add(new, new.tokens)

    def tokens(self, now_ms: int) -> dict[tuple[str, str], int]:
        """The sums of the minute that ends now; what is older is forgotten."""
        since = now_ms // 1000 - WINDOW_S
        sums = {}
        for key, seconds in list(self._seconds.items()):
            for second in [second for second in seconds if second <= since]:
                del seconds[second]
            if seconds:
                sums[key] = sum(seconds.values())
            else:
                del self._seconds[key]
        return sums

    def _add(self, entry: Entry, tokens: int) -> None:
        if tokens and entry.tenant and entry.model and entry.version:
            seconds = self._seconds.setdefault((entry.tenant, entry.model), {})
            second = entry.ended_ms // 1000
            seconds[second] = seconds.get(second, 0) + tokens


def state_of(spent: Decimal, budget: Decimal | None) -> State:
    """How an amount stands to a budget. What costs nothing goes even with a budget of nothing."""
    if budget is None:
        return State.UNLIMITED
    reached = levels_reached(spent, budget)
    return State.USED_UP if LEVELS[-1] in reached else State.NEAR if reached else State.WITHIN


def levels_reached(spent: Decimal, budget: Decimal) -> tuple[int, ...]:
    """The levels of `LEVELS` that an amount has reached."""
    return tuple(level for level in LEVELS if spent > 0 and spent * 100 >= budget * level)


def exceeded_by(accounts: Mapping[str, Account], window: Mapping[tuple[str, str], int], spent: Mapping[str, Decimal]) -> dict[str, dict[str, Reason]]:
    """Who has to be refused.

    Args:
        accounts: By tenant.
        window: Tokens of the last minute by tenant and public model.
        spent: Amount of the month by tenant.

    Returns:
        By tenant, then by public model (`EVERY_MODEL` for all), what is used up; in order.
    """
    exceeded: dict[str, dict[str, Reason]] = {}
    for tenant, account in sorted(accounts.items()):
        models = {
            model: Reason.TOKENS for model, limit in sorted(account.tokens_per_minute.items()) if limit is not None and window.get((tenant, model), 0) >= limit
        }
        if state_of(spent.get(tenant, Decimal(0)), account.monthly_budget) is State.USED_UP:
            models[EVERY_MODEL] = Reason.BUDGET
        if models:
            exceeded[tenant] = models
    return exceeded


def warnings_due(
    accounts: Mapping[str, Account], spent: Mapping[str, Decimal], given: Collection[tuple[str, int]], *, month: str, currency: str, now_ms: int
) -> Iterable[Warned]:
    """The warnings that have not been given this month.

    Args:
        accounts: By tenant.
        spent: Amount of the month by tenant.
        given: Tenant and level of those given.
        month: As `2026-11`.
        currency: Of all amounts.
        now_ms: Milliseconds since 1970 UTC.
    """
    for tenant, account in sorted(accounts.items()):
        amount = spent.get(tenant, Decimal(0))
        if account.monthly_budget is not None:
            for level in levels_reached(amount, account.monthly_budget):
                if (tenant, level) not in given:
                    yield Warned(tenant, month, level, now_ms, amount, account.monthly_budget, currency)
