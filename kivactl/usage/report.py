"""Reports: the ledger's sums of days, added up by whom or what they are for. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from kivactl.usage.join import DayKey, Sums
from kivactl.usage.ledger import PriceList
from kivactl.usage.pricing import priced

MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")


class By(StrEnum):
    """What a report adds up by."""

    TENANT = "tenant"
    COST_CENTRE = "cost-centre"
    MODEL = "model"
    DAY = "day"


_GROUPS: Mapping[By, Callable[[DayKey], str]] = {
    By.TENANT: lambda key: key.tenant,
    By.COST_CENTRE: lambda key: key.cost_centre,
    By.MODEL: lambda key: key.version,
    By.DAY: lambda key: key.day,
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a report.

    Attributes:
        name: Tenant, cost centre, model of the spec, or day; empty for what belongs to none, such as requests without a token.
        sums: Requests and tokens.
        amount: What they cost.
        currency: ISO 4217 code; empty before there was any price list.
    """

    name: str
    sums: Sums
    amount: Decimal
    currency: str


def lines_for(days: Iterable[tuple[DayKey, Sums]], lists: Mapping[str, PriceList], by: By) -> tuple[Line, ...]:
    """Add up.

    Args:
        days: The ledger's, in order and of whole months.
        lists: Price lists by month, in order.
        by: What by.

    Returns:
        A line for each name (and each currency, should it have changed), in order, what belongs to none last.
    """
    name_of = _GROUPS[by]
    found: dict[tuple[str, str], tuple[Sums, Decimal]] = {}
    for key, sums, amount, currency in priced(days, lists):
        name = (name_of(key), currency)
        before, amount_before = found.get(name, (Sums(), Decimal(0)))
        found[name] = (before.plus(sums), amount_before + amount)
    ordered = sorted(found.items(), key=lambda item: (not item[0][0], item[0]))
    return tuple(Line(name, sums, amount, currency) for (name, currency), (sums, amount) in ordered if any(sums))


def total_of(lines: Iterable[Line]) -> tuple[Line, ...]:
    """All lines in one; a line for each currency, should it have changed."""
    found: dict[str, tuple[Sums, Decimal]] = {}
    for line in lines:
        sums, amount = found.get(line.currency, (Sums(), Decimal(0)))
        found[line.currency] = (sums.plus(line.sums), amount + line.amount)
    return tuple(Line("total", sums, amount, currency) for currency, (sums, amount) in sorted(found.items()))
