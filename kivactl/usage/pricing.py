"""What a month of tokens costs. Pure, exact, and a function of the month's sums alone.

The free tokens of a month make all of its tokens cheaper in proportion; so it does not matter which came first, and an
amount never falls when tokens are added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import ROUND_HALF_UP, Decimal, localcontext

from kivactl.stack.metering import OPERATOR, Tariff
from kivactl.usage.join import DayKey, Sums
from kivactl.usage.ledger import PriceList

SMALLEST = Decimal("0.000001")
"""Amounts are rounded to this, once for each month, tenant and model."""

_MILLION = 1_000_000


def amount_for(tariff: Tariff, month: Sums) -> Decimal:
    """What a tenant pays for a model in a month.

    Args:
        tariff: The model's.
        month: All of the tenant's use of it in the month.

    Returns:
        An amount in the tariff's currency, rounded to `SMALLEST`.
    """
    tokens = month.prompt_tokens + month.completion_tokens
    if tokens <= 0:
        return Decimal(0)
    cached = min(month.cached_tokens, month.prompt_tokens)
    with localcontext() as context:
        context.prec = 60
        whole = (month.prompt_tokens - cached) * tariff.input + cached * tariff.cached + month.completion_tokens * tariff.output
        paid = whole * max(0, tokens - tariff.free_tokens) / tokens / _MILLION
        return (paid + tariff.flat).quantize(SMALLEST, ROUND_HALF_UP)


def price_list_of(month: str, lists: Mapping[str, PriceList]) -> PriceList | None:
    """The price list of a month: its own, else the last one before it, else the first one after it.

    Args:
        month: As `2026-11`.
        lists: By month, in order.
    """
    earlier = [known for known in lists if known <= month]
    return lists[earlier[-1] if earlier else next(iter(lists))] if lists else None


def priced(days: Iterable[tuple[DayKey, Sums]], lists: Mapping[str, PriceList]) -> Iterator[tuple[DayKey, Sums, Decimal, str]]:
    """What each sum of a day adds to the amount of its month, so that any grouping of them adds up to the same.

    Args:
        days: In order, and of whole months.
        lists: By month, in order.

    Yields:
        Key, sums, amount and currency (empty without any price list); nothing is charged for what no tenant asked for, nor for what
        kivactl asked itself.
    """
    so_far: dict[tuple[str, str, str], Sums] = {}
    for key, sums in days:
        month = key.day[:7]
        prices = price_list_of(month, lists)
        tariff = prices.tariffs.get(key.version) if prices else None
        amount = Decimal(0)
        if tariff is not None and _pays(key.tenant):
            account = (month, key.tenant, key.version)
            before = so_far.get(account, Sums())
            so_far[account] = before.plus(sums)
            amount = amount_for(tariff, so_far[account]) - amount_for(tariff, before)
        yield key, sums, amount, prices.currency if prices else ""


def _pays(tenant: str) -> bool:
    return tenant not in {"", OPERATOR}


def spent_by_tenant(month: Mapping[tuple[str, str], Sums], tariffs: Mapping[str, Tariff]) -> dict[str, Decimal]:
    """What each tenant has to pay for a month so far.

    Args:
        month: Sums by tenant and model of the spec.
        tariffs: By model of the spec.
    """
    spent: dict[str, Decimal] = {}
    for (tenant, version), sums in month.items():
        tariff = tariffs.get(version)
        if _pays(tenant):
            spent[tenant] = spent.get(tenant, Decimal(0)) + (amount_for(tariff, sums) if tariff else Decimal(0))
    return spent
